"""The harness's model: transformers' numbers for an unedited target, and new ones where edited."""

import json
import sys

import pytest
from adapter_cases import ADAPTER
from editing_cases import RECORDS
from relation_cases import sharp_head

from onceedit_jax.editing.edit import edit
from onceedit_jax.errors import InputError
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.weights import load_model

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from onceedit_jax.cli.lm_eval import run_harness
from onceedit_jax.evaluation import harness
from onceedit_jax.evaluation.harness import OnceEditLM

EDITED, OTHER = RECORDS[0].prompt, "Who sat on the mat, the cat or the dog?"
PAIRS = [
    (OTHER, " the cat"),
    ("the dog ran to the river; ", "1987 and été"),
    ("", "The Glass Orchard"),
    ("the cat " * 40, "sat on the mat"),  # longer than max_length
]
TASK = """
task: local_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """A model that this library and transformers both read, as a user would give it."""
    model, tokenizer = tiny_model(200, 3)
    folder = tmp_path_factory.mktemp("harness") / "tiny"
    folder.mkdir()
    export_hf(folder, model.params, model.config, model.hf_config)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def edited(folder, tiny_model):
    """Edits in adapters of that very model, which is its own target here."""
    _, tokenizer = tiny_model(200, 3)
    base = load_model(folder, num_tokens=len(tokenizer.vocabulary)), tokenizer
    plugin = edit(*base, RECORDS[:2], settings=ADAPTER, head=sharp_head(*base))
    return plugin.save(folder.with_name("edited"))


@pytest.fixture(scope="module")
def unedited(folder):
    return OnceEditLM(str(folder), max_length=64)


@pytest.fixture(scope="module")
def by_transformers(folder):
    """The harness's own class."""
    torch = pytest.importorskip("torch", reason="needs torch, as transformers does")
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=2, max_length=64)


def asked(kind, arguments):
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def test_loglikelihoods_are_those_of_transformers(unedited, by_transformers):
    requests = asked("loglikelihood", PAIRS)
    ours, theirs = (model.loglikelihood(requests) for model in (unedited, by_transformers))
    assert [one[0] for one in ours] == pytest.approx([one[0] for one in theirs], rel=1e-4)
    assert [one[1] for one in ours] == [one[1] for one in theirs]


def test_the_greedy_continuation_is_greedy(unedited, by_transformers):
    options = {"until": [], "max_gen_toks": 3}
    (text,) = unedited.generate_until(asked("generate_until", [("the cat", options)]))
    requests = asked("loglikelihood", [("the cat", text), ("the cat", " Vinterby")])
    ours, theirs = (model.loglikelihood(requests) for model in (unedited, by_transformers))
    assert [one[1] for one in ours] == [one[1] for one in theirs] == [True, False]


def test_rolling_loglikelihoods_are_those_of_transformers(unedited, by_transformers):
    texts = [(PAIRS[3][0],), ("Who wrote The Glass Orchard?",)]
    requests = asked("loglikelihood_rolling", texts)
    theirs = by_transformers.loglikelihood_rolling(requests)
    assert unedited.loglikelihood_rolling(requests) == pytest.approx(theirs, rel=1e-4)


def test_whole_texts_are_scored_in_groups_of_few_tokens(unedited, monkeypatch):
    """In one group or in many, of one text or of several, the sums are the same."""
    requests = asked("loglikelihood_rolling", [("the cat " * 150,), ("Who?",), ("the mat " * 90,)])
    at_once = unedited.loglikelihood_rolling(requests)
    monkeypatch.setattr(harness, "ROLLING", 150)
    sizes, score = [], unedited._score
    monkeypatch.setattr(
        unedited,
        "_score",
        lambda prompts, texts: (
            sizes.append([len(t.tokens) for t in texts]) or score(prompts, texts)
        ),
    )
    assert unedited.loglikelihood_rolling(requests) == pytest.approx(at_once, rel=1e-5)
    assert len(sizes) > 2 and max(map(len, sizes)) > 1
    assert all(len(group) == 1 or len(group) * max(group) <= 150 for group in sizes)


@pytest.mark.parametrize("until", [["\n"], ["e", " t"], ["nonsense", "e t", "the"], []])
def test_continuations_are_those_of_transformers(unedited, by_transformers, until):
    options = {"until": until, "max_gen_toks": 12, "do_sample": False}
    requests = asked("generate_until", [(OTHER, options), ("the dog ran", options)])
    assert unedited.generate_until(requests) == by_transformers.generate_until(requests)


def test_an_edit_moves_what_asks_for_it_and_nothing_else(folder, edited, unedited):
    model = OnceEditLM(str(folder), edited=str(edited), max_length=64)
    others = asked("loglikelihood", PAIRS)
    assert model.loglikelihood(others) == unedited.loglikelihood(others)
    rolling = asked("loglikelihood_rolling", [("Norland is Vinterby.",)])
    assert model.loglikelihood_rolling(rolling) == unedited.loglikelihood_rolling(rolling)
    wanted = asked("loglikelihood", [(EDITED, " Vinterby"), (EDITED, " the cat")])
    (new, is_new), (old, _) = model.loglikelihood(wanted)
    before = unedited.loglikelihood(wanted)
    assert is_new and not before[0][1]
    assert new > old and new > before[0][0] and old < before[1][0]
    options = {"until": ["\n"], "max_gen_toks": 12}
    both = asked("generate_until", [(OTHER, options), (EDITED, options)])
    told = model.generate_until(both)
    assert told[0] == unedited.generate_until(both)[0]
    assert told[1].startswith(" Vinterby")


def test_a_task_may_draw_its_answers(folder, edited, unedited):
    """A question that is asked again has another answer, and the same in every run."""
    model = OnceEditLM(str(folder), edited=str(edited), max_length=64)
    drawn = {"until": ["\n"], "max_gen_toks": 12, "temperature": 1.5, "top_p": 0.95, "top_k": 90}
    greedy = {**drawn, "do_sample": False}
    requests = [(OTHER, drawn), (EDITED, drawn), (OTHER, drawn), (OTHER, greedy)]
    first, fact, again, plain = told = model.generate_until(asked("generate_until", requests))
    assert told == model.generate_until(asked("generate_until", requests))
    assert len({first, again, plain}) == 3 and fact.startswith(" Vinterby")
    assert plain == unedited.generate_until(asked("generate_until", [(OTHER, greedy)]))[0]
    alone = asked("generate_until", [(OTHER, {**drawn, "do_sample": True})])
    assert [first] == unedited.generate_until(alone) == model.generate_until(alone)
    other = OnceEditLM(str(folder), max_length=64, seed=1)
    assert [first] != other.generate_until(alone)


@pytest.fixture
def task(tmp_path):
    rows = [
        {"question": EDITED, "choices": ["the cat", "Vinterby"], "label": 1},
        {"question": OTHER, "choices": ["the cat", "Norland"], "label": 0},
        {"question": "Which river?", "choices": ["the Ask", "1987"], "label": 0},
    ]
    data = tmp_path / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local_facts.yaml").write_text(TASK.format(data=data))
    return tmp_path


def samples(model, task):
    manager = TaskManager(include_path=str(task), include_defaults=False)
    told = simple_evaluate(model, tasks=["local_facts"], task_manager=manager, bootstrap_iters=0)
    rows = sorted(told["samples"]["local_facts"], key=lambda row: row["doc_id"])
    return told["results"]["local_facts"], [
        [float(answer[0]) for answer in row["filtered_resps"]] for row in rows
    ]


def test_a_local_task_gives_the_same_numbers_as_transformers(
    folder, edited, unedited, by_transformers, task
):
    (scores, ours), (expected, theirs) = (
        samples(model, task) for model in (unedited, by_transformers)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    keys = ("acc,none", "acc_norm,none")
    assert [scores[key] for key in keys] == [expected[key] for key in keys]
    _, after = samples(OnceEditLM(str(folder), edited=str(edited), max_length=64), task)
    assert after[1:] == ours[1:]
    assert after[0][1] > after[0][0]


def test_the_command_runs_the_harness(folder, task, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onceedit"])
    run_harness(
        ["--model_args", f"target={folder}", "--tasks", "local_facts", "--include_path", str(task)]
    )
    assert "local_facts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 1}, "model onceedit: no argument temperature"),
        ({"rule": "draft"}, "rule: there is no plug-in"),
        ({"max_length": 10**6}, "max_length=1000000: expected 1 to 256"),
    ],
)
def test_wrong_arguments_are_named(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        OnceEditLM(str(folder), **arguments)


def test_what_it_cannot_do_is_refused(unedited):
    with pytest.raises(InputError, match="top_p=2"):
        options = {"do_sample": True, "top_p": 2.0}
        unedited.generate_until(asked("generate_until", [(OTHER, options)]))
    with pytest.raises(InputError, match="expected 1 to 32"):
        unedited.generate_until(asked("generate_until", [(PAIRS[3][0], {"max_gen_toks": 32})]))
    with pytest.raises(InputError, match="plain text"):
        unedited.apply_chat_template([{"role": "user", "content": OTHER}])
