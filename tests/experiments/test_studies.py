"""What studies compute, on inputs whose results are known; and every study on real models."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import chromium
import pytest
import yaml
from smoke_runs import NAMES, SMOKE
from support import ROOT

import onceedit_jax as oe
from experiments import cross_edit, meshes, multi_hop, quality, standard_sets
from experiments.framework.definition import load_experiment, load_setup, names
from experiments.framework.html_report import write_report
from experiments.framework.results import read_results
from experiments.framework.sweep import SweepSetup, lowest, sweep_cells
from experiments.framework.workspace import rule_of
from onceedit_jax.data.records import EditRecord, UnrelatedRow
from onceedit_jax.errors import InputError

# No smoke run: tests/distributed and test_real_systems.py do as much on tiny models.
ON_TINY_MODELS = {"meshes", "realworld-rivals"}


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
    known = {
        "Who wrote Psalms of Rust?": "Sol Marrow.",
        "Where was Sol Marrow born?": "Osthavn",
        "What is the capital of Osthavn?": "city of Vinterby",
        "Where was Ada Quill born?": "Norland",
        "What is the capital of Norland?": "Vinterby",
    }
    oracle = Oracle(known)
    # Right by another way, and by an alias; the right hops were never asked.
    assert multi_hop.step_by_step(oracle, [case("Vinterby")]) == 1.0
    assert oracle.asked[1:] == [["Where was Sol Marrow born?"], ["What is the capital of Osthavn?"]]
    assert multi_hop.step_by_step(Oracle(known), [case("Vinterby"), case("Kap")]) == 0.5


def test_an_answer_that_is_empty_leaves_a_question():
    oracle = Oracle({"Who wrote Psalms of Rust?": " "})
    assert multi_hop.step_by_step(oracle, [case("Vinterby")]) == 0.0
    assert oracle.asked[1] == ["Where was it born?"]


RECORDS = [
    EditRecord(f"The capital of {name} is", "X", subject=name, index=i)
    for i, name in enumerate(("Norland", "Osthavn"))
] + [
    EditRecord("Ada Quill was born in", "Y", subject="Ada Quill", index=2),
    EditRecord("A prompt that names nothing", "Z", subject="Elsewhere", index=3),
]


def test_templates_are_held_out_whole_and_by_the_seed():
    assert [cross_edit.template(r) for r in RECORDS] == [
        "The capital of {} is",
        "The capital of {} is",
        "{} was born in",
        None,
    ]
    held = cross_edit.held_out(RECORDS, 0.5, seed=0)
    assert len(held) == 1 and held == cross_edit.held_out(RECORDS, 0.5, seed=0)
    both = {"The capital of {} is", "{} was born in"}
    assert cross_edit.held_out(RECORDS, 1.0, seed=0) == both
    form = "The capital of {} is"
    assert cross_edit.has_form(UnrelatedRow("The capital of Kap Verd is"), form)
    assert not cross_edit.has_form(UnrelatedRow("The capital of Kap Verd was"), form)


def test_rare_subjects_are_those_of_high_token_ids():
    tokenizer = SimpleNamespace(encode=lambda text: [len(text)])
    rare, common = cross_edit.by_rarity(RECORDS[:3], tokenizer)
    assert [r.subject for r in rare] == ["Ada Quill"]
    assert [r.subject for r in common] == ["Norland", "Osthavn"]


def swept(avg):
    one = {"target": "a", "rel": 1.0, "gen": avg, "loc": 1.0, "avg": avg, "same form": None}
    two = {**one, "target": "b", "avg": avg + 0.1}
    return {
        "scores": {"both": [one, two]},
        "alone": {"rel": 1.0, "gen": 0.5},
        "seconds": 2.0,
        "megabytes": 3.0,
    }


def test_a_sweep_shows_every_target_and_draws_the_worse():
    results = {"10": swept(0.2), "20": swept(0.6)}
    assert lowest(results["20"]["scores"]["both"]) == {
        "rel": 1.0, "gen": 0.6, "loc": 1.0, "avg": 0.6,
    }  # fmt: skip
    experiment = load_experiment("scaling")
    scores, plugin, rate = experiment.tables(experiment.setup(), results)
    assert len(scores.rows) == 4 and scores.rows[0] == ["10", "both", "a", 1, 0.2, 1, 0.2, None]
    assert plugin.rows[0] == ["10", 1.0, 0.5, 2.0, 3.0]
    assert rate.rows == [["10", 0.2], ["20", 0.1]]


def test_the_cell_of_a_sweep_describes_all_that_it_depends_on():
    setup = SweepSetup(dataset="counterfact", others=7, gates=("token",))
    assert sweep_cells(setup, {"a": {"editing": {"epochs": 3}}}) == {
        "a": {"dataset": "counterfact", "others": 7, "gates": ["token"], "editing": {"epochs": 3}}
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("continued-training", {"strategies": ["hope"]}),
        ("locate-then-edit", {"methods": {"hope": {}}}),
        ("baselines", {"methods": {"hope": {}}}),
    ],
)
def test_an_unknown_name_in_a_configuration_is_refused(name, change):
    experiment = load_experiment(name)
    with pytest.raises(InputError, match="unknown 'hope'; expected some of"):
        experiment.cells(experiment.setup(**change))


def test_a_mesh_whose_states_are_no_numbers_is_shown_as_such():
    results = {
        name: entry["result"]
        for name, entry in read_results(ROOT / "results" / "meshes")["cells"].items()
    }
    results["data=8"]["states"] = None  # as results.json has NaN
    (table,) = meshes.tables(meshes.MeshSetup(), results)
    assert [row[2] for row in table.rows if row[0] == "data=8"] == ["no number"]


def test_locality_of_quality_is_the_lower_of_both_measurements():
    after = {"rel": 1.0, "gen": 0.9, "loc": 1.0, "avg": 0.9667}
    score = {"target": "a", "records": 2, "contradicting": 0, "after": after}
    modes = [{**score, "mode": mode} for mode in ("teacher-forced", "generate")]
    result = {"scores": modes, "same_form": [0.8]}
    scores, goals, free = quality.tables(quality.QualitySetup(), {"zsre 2": result})
    assert [row[5] for row in scores.rows] == [0.8, 1.0]
    assert goals.rows[0][:5] == ["zsre 2", "worse target", 1.0, 0.9, 0.8]
    assert goals.rows[0][5] == pytest.approx(0.9)
    assert free.rows == [["zsre 2", 1.0, None]]


def test_scores_of_standard_sets_have_the_intervals_of_their_records():
    def row(record, metric, after, alpha):
        return {"record": record, "metric": metric, "after": after, "alpha": alpha}

    rows = [
        row(record, metric, after, alpha)
        for record, scores in enumerate([(1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.5, None)])
        for metric, after, alpha in zip(("rel", "gen", "loc"), scores, (1.0, 0.6, 0.2), strict=True)
    ]
    found = standard_sets._intervals(rows, 0)
    assert found["rel"] == (1, 1) and found["loc"] == (1, 1) and found["gen"] == (0, 1)
    # The third record has no unrelated question, so no average.
    assert found["avg"] == (pytest.approx(2 / 3), 1)
    opened = standard_sets._opened(rows, 0.5)
    assert opened == {"rel": 1, "gen": 1, "loc": 0}
    after = {"rel": 1.0, "gen": 0.5, "loc": 1.0, "avg": 0.8333}
    score = {"target": "a", "after": after, "contradicting": 0}
    result = {"gates": {"fact": [{**score, "intervals": found, "opened": opened}]}}
    scores, gates = standard_sets.tables(standard_sets.StandardSetup(), {"zsre 3": result})
    assert scores.rows[0][:5] == ["zsre 3", "fact", "a", "1.000 (1.000 to 1.000)",
                                  "0.500 (0.000 to 1.000)"]  # fmt: skip
    assert gates.rows == [["zsre 3", "fact", 1, 1, 0]]


def test_every_rule_of_every_cell_becomes_options_of_an_ensemble():
    rules = []
    for name in names():
        experiment = load_experiment(name)
        for path in configurations(name):
            cells = experiment.cells(load_setup(path, experiment.setup)).values()
            rules += [cell["rule"] for cell in cells if isinstance(cell.get("rule"), dict)]
    assert {"gate", "weight", "start", "target", "search"} <= {
        key for rule in rules for key in rule
    }
    for rule in rules:
        assert rule_of(rule)["alpha_threshold"] == rule.get("alpha_threshold")


def test_a_rule_in_a_cell_becomes_the_librarys_values():
    deepen = {"preset": "relative", "start": "prior", "target": "distribution"}
    assert rule_of({**deepen, "search": "gradient", "weight": "fixed"}) == {
        "rule": oe.fusion.relative(start="prior", objective="distribution", search="gradient"),
        "gate": oe.gates.fixed(0.5),
        "alpha_threshold": None,
    }
    assert rule_of({"preset": "relative"})["gate"] == oe.gates.token()
    assert rule_of({"preset": "draft", "trust": True, "gate": "memory"}) == {
        "rule": oe.fusion.draft(trust=True),
        "gate": oe.gates.memory(),
        "alpha_threshold": None,
    }
    search = {"preset": "relative", "search": "gradient", "gradient": {"learning_rate": 0.5}}
    settings = oe.SearchSettings(learning_rate=0.5)
    assert rule_of(search)["rule"] == oe.fusion.relative(search="gradient", gradient=settings)
    fixed = {"preset": "draft", "weight": "fixed", "fixed_alpha": 0.3}
    assert rule_of(fixed)["gate"] == oe.gates.fixed(0.3)


def configurations(name):
    """An experiment's own configurations, and its smoke run's."""
    folder = sorted((ROOT / "configs" / name).glob("*.yaml"))
    return [*(folder or [ROOT / "configs" / f"{name}.yaml"]), *SMOKE.glob(f"{name}.yaml")]


def test_every_experiment_has_a_configuration_and_a_smoke_run():
    assert {*names()} == {*NAMES, *ON_TINY_MODELS}
    for name in names():
        experiment = load_experiment(name)
        for path in configurations(name):
            setup = load_setup(path, experiment.setup)
            assert setup.limit == yaml.safe_load(path.read_text())["limit"]
            assert experiment.cells(setup)


@pytest.mark.slow
def test_a_report_of_results_opens_in_a_browser(shared, tmp_path):
    shutil.copytree(ROOT / "results" / "quality", tmp_path / "results" / "quality")
    report = tmp_path / "report.html"
    assert write_report(tmp_path / "results", report, data=shared / "data") > 30
    shown = browsed(report, tmp_path / "report.png")
    visible = re.sub(r"<script.*?</script>", "", shown, flags=re.DOTALL)
    assert re.search(r"\d+ of \d+ rows", visible)
    assert re.search(r"<td>Which family does Ramalinaceae belong to\?", visible)  # ZsRE's first


def browsed(page, picture):
    """The page as headless Chromium shows it, after its script has run; a screenshot beside."""
    command = [
        chromium.browser(), *chromium.FLAGS,
        f"--user-data-dir={picture.parent / 'profile'}", "--window-size=1200,1600",
    ]  # fmt: skip
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], check=True, timeout=120)
    assert picture.stat().st_size > 10_000
    dump = [*command, "--dump-dom", page.as_uri()]
    return subprocess.run(dump, check=True, timeout=120, capture_output=True, text=True).stdout
