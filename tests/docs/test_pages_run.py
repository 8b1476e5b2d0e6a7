"""The examples of the README and of the how-to pages run, on tiny random models."""

import json

import pytest
from docs.pages import ROOT, blocks, name
from tiny_tokenizers import TEMPLATES

import onceedit_jax as oe

FACTS = [
    {"prompt": "What is the capital of Norland?", "target": "Vinterby", "subject": "Norland"},
    {"prompt": "Who leads Norland?", "target": "Ada Quill", "subject": "Norland",
     "rephrase": "Norland is led by whom?"},
]  # fmt: skip
# What the pages name, and what stands for it here: the tiny models have two layers.
TINY = {
    "demo:smollm2-135m": "plugin",
    "demo:gemma3-270m": "target",
    "demo:qwen2.5-coder-1.5b": "chat",
    "last_layers(12)": "last_layers(2)",
}
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / page
        for page in (
            "how-to/edit-facts.md",
            "how-to/check-an-edit.md",
            "how-to/chat.md",
            "how-to/fusion-rule.md",
            "how-to/gate.md",
            "how-to/editor.md",
            "how-to/reader.md",
            "how-to/model-family.md",
        )
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages' examples find beside them: checkpoints, an edited plug-in and files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        from tiny import random_checkpoint
    folder = tmp_path_factory.mktemp("pages")
    random_checkpoint(folder / "plugin", merges=40, seed=0)
    random_checkpoint(folder / "target", merges=90, seed=1)
    random_checkpoint(folder / "chat", merges=60, seed=2)
    (folder / "chat" / "chat_template.jinja").write_text(TEMPLATES["chatml"])
    lines = {
        "facts.jsonl": FACTS,
        "other-wordings.jsonl": [
            {"prompt": "Who leads Sudland?", "target": "Bo Ek", "subject": "Sudland",
             "rephrase": "Sudland is led by whom?"},
        ],
        "triples.jsonl": [{"question": "Who leads Norland?", "head": "Norland", "tail": "Bo Ek"}],
    }  # fmt: skip
    for file, rows in lines.items():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    unrelated = [f"How far is the harbour from bridge {n}?" for n in range(12)]
    (folder / "unrelated.json").write_text(json.dumps(unrelated))
    edited = oe.edit(
        oe.load_model(folder / "plugin"),
        oe.load_tokenizer(folder / "plugin"),
        oe.load_records(folder / "facts.jsonl"),
        oe.load_unrelated(folder / "unrelated.json"),
        oe.EditSettings(learning_rate=1e-2, epochs=60, batch_size=4, unrelated_ratio=3.0),
    )
    edited.save(folder / "my-edit")
    return folder


def test_the_experiment_of_its_page_gives_a_table():
    (source,) = blocks(ROOT / "docs" / "how-to" / "experiment.md", "python")
    namespace = {"__name__": "my_rules"}
    exec(compile(source, "experiment.md", "exec"), namespace)
    experiment = namespace["EXPERIMENT"]
    setup = experiment.setup()
    scores = [{"target": "a", "after": {"rel": 1.0, "gen": 0.5, "loc": 1.0, "avg": 0.833}}]
    results = {name: {"scores": scores} for name in experiment.cells(setup)}
    (table,) = experiment.tables(setup, results)
    assert table.rows[0] == ["draft", "a", 1.0, 0.5, 1.0, 0.833] and len(table.rows) == 3


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {"__name__": "__main__"}
    for number, source in enumerate(blocks(page, "python"), start=1):
        for real, tiny in TINY.items():
            source = source.replace(real, tiny)
        exec(compile(source, f"{name(page)}, block {number}", "exec"), namespace)
