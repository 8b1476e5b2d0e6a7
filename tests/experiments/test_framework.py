"""What experiments compute by themselves, on inputs whose results are known."""

import sys
from types import SimpleNamespace

import pytest
from support import ROOT

from experiments.framework.runner import load_experiment
from experiments.framework.sweep import SweepSetup, averages, best, sweep_cells, sweep_page
from onceedit_jax.data.records import EditRecord, UnrelatedRow


def experiment(name):
    """The module of an experiment."""
    load_experiment(ROOT / "experiments", name)
    return sys.modules[f"onceedit_experiment_{name.replace('-', '_')}"]


class Oracle:
    """An ensemble of one target that answers from a dictionary."""

    def __init__(self, known):
        self.known, self.asked, self.targets = known, [], [SimpleNamespace(name="oracle")]

    def answers(self, prompts):
        self.asked.append(list(prompts))
        return [[self.known.get(prompt, "no idea") for prompt in prompts]]


def case(second_answer):
    hops = [
        {"cloze": "Who wrote Psalms of Rust?", "answer": "Ada Quill"},
        {"cloze": "Where was Ada Quill born?", "answer": "Norland"},
        {"cloze": "What is the capital of Norland?", "answer": second_answer},
    ]
    return {
        "new_single_hops": hops,
        "new_answer": second_answer,
        "new_answer_alias": ["City of " + second_answer],
    }


def test_a_step_asks_about_the_answer_that_was_given_and_not_the_right_one():
    module = experiment("multi-hop")
    known = {
        "Who wrote Psalms of Rust?": "Sol Marrow.",
        "Where was Sol Marrow born?": "Osthavn",
        "What is the capital of Osthavn?": "city of Vinterby",
        "Where was Ada Quill born?": "Norland",
        "What is the capital of Norland?": "Vinterby",
    }
    oracle = Oracle(known)
    # Right by another way, and by an alias; the right hops were never asked.
    assert module.step_by_step(oracle, [case("Vinterby")]) == 1.0
    assert oracle.asked[1:] == [["Where was Sol Marrow born?"], ["What is the capital of Osthavn?"]]
    assert module.step_by_step(Oracle(known), [case("Vinterby"), case("Kap")]) == 0.5


def test_an_answer_that_is_empty_leaves_a_question():
    module = experiment("multi-hop")
    oracle = Oracle({"Who wrote Psalms of Rust?": " "})
    assert module.step_by_step(oracle, [case("Vinterby")]) == 0.0
    assert oracle.asked[1] == ["Where was it born?"]


RECORDS = [
    EditRecord(f"The capital of {name} is", "X", subject=name, index=i)
    for i, name in enumerate(("Norland", "Osthavn"))
] + [
    EditRecord("Ada Quill was born in", "Y", subject="Ada Quill", index=2),
    EditRecord("A prompt that names nothing", "Z", subject="Elsewhere", index=3),
]


def test_templates_are_held_out_whole_and_by_the_seed():
    module = experiment("cross-edit")
    assert [module.template(r) for r in RECORDS] == [
        "The capital of {} is",
        "The capital of {} is",
        "{} was born in",
        None,
    ]
    held = module.held_out(RECORDS, 0.5, seed=0)
    assert len(held) == 1 and held == module.held_out(RECORDS, 0.5, seed=0)
    assert module.held_out(RECORDS, 1.0, seed=0) == {"The capital of {} is", "{} was born in"}
    assert module.has_form(UnrelatedRow("The capital of Kap Verd is"), "The capital of {} is")
    assert not module.has_form(UnrelatedRow("The capital of Kap Verd was"), "The capital of {} is")


def test_rare_subjects_are_those_of_high_token_ids():
    module = experiment("cross-edit")
    tokenizer = SimpleNamespace(encode=lambda text: [len(text)])
    rare, common = module.by_rarity(RECORDS[:3], tokenizer)
    assert [r.subject for r in rare] == ["Ada Quill"]
    assert [r.subject for r in common] == ["Norland", "Osthavn"]


def scored(avg):
    one = {"target": "a", "rel": 1.0, "gen": avg, "loc": 1.0, "avg": avg, "same form": None}
    two = {**one, "target": "b", "avg": avg + 0.1}
    return {
        "scores": {"both": [one, two]},
        "alone": {"rel": 1.0, "gen": 0.5},
        "seconds": 2.0,
        "megabytes": 3.0,
    }


def test_a_sweep_tells_of_the_worse_target():
    results = {"x": scored(0.2), "y": scored(0.6), "z": scored(0.5)}
    told = []

    def verdict(lowest):
        told.append((averages(list(results), lowest, "both"), best(list(results), lowest, "both")))
        return "said"

    page = sweep_page("letter", results, verdict)
    assert told == [("x 0.200, y 0.600, z 0.500", "y")]
    assert page.outcome == "said"
    assert len(page.tables[0].rows) == 6
    assert page.tables[1].rows[0] == ["x", 1.0, 0.5, 2.0, 3.0]


def test_a_cell_of_a_sweep_says_all_that_it_depends_on():
    setup = SweepSetup(dataset="counterfact", others=7, gates=("token",))
    assert sweep_cells(setup, {"a": {"editing": {"epochs": 3}}}) == {
        "a": {"dataset": "counterfact", "others": 7, "gates": ["token"], "editing": {"epochs": 3}}
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sequential", {"strategies": ["hope"]}),
        ("locate-then-edit", {"methods": {"hope": {}}}),
    ],
)
def test_what_an_experiment_does_not_know_is_named(name, change):
    module = experiment(name)
    setup = module.EXPERIMENT.setup(**change)
    with pytest.raises(Exception, match="no 'hope'; there are"):
        module.cells(setup)


def test_a_rival_that_is_best_and_quickest_is_told_of_as_both():
    module = experiment("baselines")
    averages, seconds = {"once edit": 0.9, "lora": 0.8}, {"once edit": 1.0, "lora": 2.0}
    told = module._claim(["lora"], averages, seconds)
    assert "holds here: the best of them for all targets, lora, 0.80 in 2 s" in told
    assert "the quickest, lora, 0.80 in 2 s; by the default rule here 0.90 in 1 s" in told
