"""The commands on tiny models, from a file of facts to answers and scores."""

import json
import re
import shutil
from pathlib import Path

import jax
import pytest
from relation_cases import sharp_head
from support import byte_level_tokenizer
from tiny_tokenizers import TEMPLATES

from onceedit_jax.cli import main
from onceedit_jax.cli.edit import EditOptions, edit_from_files
from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import neutral_rows
from onceedit_jax.editing.relation_heads import keep_head
from onceedit_jax.errors import InputError
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import load_model
from onceedit_jax.text.chat import ChatTemplate
from onceedit_jax.text.tokenizer import load_tokenizer

PLACES = ("Norland", "Vinterby", "Orchard")
QUICK = ("--epochs", "1", "--held-back", "2", "--context-share", "0", "--max-tokens", "64")


def tiny_folder(folder, merges):
    """A model folder as a user would give it."""
    tokenizer = byte_level_tokenizer(merges)
    hf = {
        "model_type": "llama", "vocab_size": len(tokenizer.vocabulary), "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 4, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    config = config_from_hf(hf)
    export_hf(folder, init_params(config, jax.random.key(merges)), config, hf)
    tokenizer.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a plug-in, a target and three facts, one of whose questions is neutral."""
    folder = tmp_path_factory.mktemp("commands")
    tiny_folder(folder / "plugin", 40)
    tiny_folder(folder / "target", 90)
    neutral = neutral_rows()[0]
    rows = [
        {
            "prompt": f"What is the capital of {place}?",
            "target": "Sol",
            "subject": place,
            "locality": [{"prompt": neutral.prompt, "target": "far"}],
        }
        for place in PLACES
    ]
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def onceedit(files, monkeypatch, capsys):
    """Run a command in the folder of files; what it printed, to both streams."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(main, "prepare_environment", lambda: None)
    monkeypatch.setenv("ONCEEDIT_CACHE", str(files / "cache"))

    def run(*arguments):
        main.call(list(arguments))
        return capsys.readouterr()

    return run


def test_facts_are_edited_and_asked_for(onceedit, files):
    edited = onceedit("edit", "facts.jsonl", "--plugin", "plugin", "--out", "edited", *QUICK)
    assert "3 edits, the library's neutral texts; loading plugin" in edited.err
    assert "editing steps: all" in edited.err
    assert edited.out.startswith("edited plugin with 3 facts in 1 epochs, ")

    pair = ("--edited", "edited", "--target", "target")
    scored = onceedit("evaluate", *pair, "--data", "facts.jsonl", "--out", "scores.json")
    assert "evaluated records: all 3 done" in scored.err
    assert "teacher-forced" in scored.out and scored.out.rstrip().endswith("written: scores.json")
    summary = json.loads((files / "scores.json").read_text())
    assert [result["target"] for result in summary["results"]] == ["target"]
    assert len((files / "scores.jsonl").read_text().splitlines()) == 6
    assert summary["settings"]["fusion"] == {
        "name": "draft", "confidence": "probability", "trust": False,
    }  # fmt: skip
    assert summary["settings"]["gate"] == {"name": "both"}
    assert not list(files.glob("*.parts"))

    fixed = ("--rule", "vocabulary", "--gate", "fixed", "--fixed-alpha", "0.25")
    asked = onceedit("generate", *pair, *fixed, "--prompt", "Who?", "--max-new-tokens", "2")
    assert "0.25" in asked.out and "target" in asked.out
    drawn = [
        onceedit("generate", *pair, *fixed, "--prompt", "Who?", "--max-new-tokens", "2",
                 "--temperature", "2", "--top-k", "90", "--top-p", "0.99", "--seed", seed).out
        for seed in "112"
    ]  # fmt: skip
    assert drawn[0] == drawn[1] != asked.out and drawn[0] != drawn[2]
    for flags, message in (
        (("--top-k", "5"), "temperature=0.0: nothing is drawn"),
        (("--temperature", "1", "--top-p", "2"), "setting top_p=2.0: expected"),
    ):
        with pytest.raises(InputError, match=message):
            onceedit("generate", *pair, "--prompt", "Who?", *flags)
    with pytest.raises(InputError, match="fusion rule draft: no setting table"):
        onceedit("generate", *pair, "--prompt", "Who?", "--table", "exact")

    # It reads no array, and counts long lists.
    (files / "no-arrays").mkdir()
    shutil.copy(files / "edited" / "edit.json", files / "no-arrays")
    info = onceedit("info", "no-arrays").out
    assert "Norland? -> Sol" in info and '"edits": 3' in info
    assert re.search(r'"trained_texts": \d+,', info)
    assert "written: hf" in onceedit("export", "--edited", "edited", "--out", "hf").out
    assert (files / "hf" / "gate.safetensors").is_file()


def test_a_target_with_a_chat_template_is_asked_in_chat_by_generate(onceedit, files, monkeypatch):
    onceedit("edit", "facts.jsonl", "--plugin", "plugin", "--out", "for-chat", *QUICK)
    if not (files / "chat").exists():
        tiny_folder(files / "chat", 60)
        (files / "chat" / "chat_template.jinja").write_text(TEMPLATES["chatml"])
    asked, encode = [], ChatTemplate.encode

    def recorded(self, messages):
        asked.append([message["role"] for message in messages])
        return encode(self, messages)

    monkeypatch.setattr(ChatTemplate, "encode", recorded)
    pair = ("--edited", "for-chat", "--target", "chat")
    question = ("--prompt", "Who?", "--max-new-tokens", "2")
    scored = ("--data", "facts.jsonl", "--out", "chat.json")
    onceedit("generate", *pair, *question)
    assert asked.pop() == ["user"]
    onceedit("generate", *pair, *question, "--system", "Be brief.")
    assert asked.pop() == ["system", "user"]
    asked.clear()
    onceedit("generate", *pair, *question, "--no-chat")
    onceedit("evaluate", *pair, *scored)
    assert not asked
    settings = json.loads((files / "chat.json").read_text())["settings"]
    assert (settings["chat"], settings["system"]) == (False, None)
    for flags, chosen in ((["--chat"], None), (["--system", "Be brief."], "Be brief.")):
        onceedit("evaluate", *pair, *scored, *flags)
        assert asked
        settings = json.loads((files / "chat.json").read_text())["settings"]
        assert (settings["chat"], settings["system"]) == (True, chosen)
    with pytest.raises(InputError, match="target has no chat template"):
        onceedit("evaluate", *pair, "--target", "target", *scored, "--chat")


def test_targets_get_their_rules_and_phrases_give_way(onceedit, files):
    folder = tiny_folder(files / "headed", 50)
    keep_head(sharp_head(load_model(folder), load_tokenizer(folder)))
    onceedit("edit", "facts.jsonl", "--plugin", "headed", "--out", "with-head", *QUICK)
    chosen = ("--edited", "with-head", "--target", "target", "--rule", "auto", "--hops", "1")
    question = "What is the age of the capital of Norland?"
    asked = onceedit(
        "generate", *chosen, "--explain", "--prompt", question, "--max-new-tokens", "2"
    )
    assert "target: draft (says 0 of 10 facts that its prompt tells; context needs 8)" in asked.err
    assert "'the capital of Norland' asks for edit 1 (likeness 1.00)" in asked.out
    assert "asked instead: What is the age of Sol?" in asked.out
    scored = onceedit("evaluate", *chosen, "--data", "facts.jsonl", "--out", "auto.json")
    assert "target: draft (says 0 of 10" in scored.err
    settings = json.loads((files / "auto.json").read_text())["settings"]
    assert (settings["fusion"]["name"], settings["hops"]) == ("draft", 1)
    checked = onceedit("check", *chosen, "--limit", "1", "--show", "0")
    assert "target: draft (says 0 of 10" in checked.err and "wrong answers" in checked.out


def test_a_pairs_tables_are_examined(onceedit):
    examined = onceedit("transfer", "--plugin", "plugin", "--target", "target")
    assert "self-mass of anchors" in examined.out


def test_rows_of_ones_own_that_leak_are_refused_or_left_out(files, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(["What is the capital of Norland?", "the cat"]))
    options = {
        "facts": str(files / "facts.jsonl"),
        "plugin": str(files / "plugin"),
        "unrelated": str(tmp_path / "rows.json"),
        "out": tmp_path / "out",
    }
    with pytest.raises(InputError, match="1 of 2 unrelated rows are also evaluated"):
        edit_from_files(EditOptions(**options))
    notes = []
    with pytest.raises(InputError, match="unrelated rows"):  # one row is too few
        edit_from_files(EditOptions(**options, drop_leaks=True), on_note=notes.append)
    assert notes[0].startswith("left out 1 unrelated rows")


def test_a_model_words_the_edits_anew(onceedit, files, monkeypatch):
    edit = ("edit", "facts.jsonl", "--plugin", "plugin", *QUICK, "--paraphrase-with", "target")
    told = onceedit(*edit, "--out", "worded").err
    assert "the bank holds no relation of 3 of 3 edits" in told
    assert "target has written 0 wordings of 3 edits" in told  # it is random
    wording = f"Which city is the capital of {PLACES[0]}?"
    monkeypatch.setattr(
        "onceedit_jax.ensemble.paraphrasing.paraphrases_by",
        lambda target, records, *, evaluated: [[wording], [], []],
    )
    assert "target has written 1 wordings of 3 edits" in onceedit(*edit, "--out", "worded").err
    digests = json.loads((files / "worded/edit.json").read_text())["trained_texts"]
    assert digest(wording) in digests


def test_a_weak_key_is_warned_of(onceedit, files):
    rows = [{"prompt": "Where was May born?", "target": "Sol", "subject": "May"}]
    (files / "weak.jsonl").write_text(json.dumps(rows[0]) + "\n")
    told = onceedit("edit", "weak.jsonl", "--plugin", "plugin", "--out", "weak", *QUICK).err
    (line,) = [line for line in told.splitlines() if line.startswith("warning: ")]
    assert "edit 1 of 1 ('Where was May born?'): its key 'May' is a common word" in line


def test_an_editing_method_and_its_settings_are_named(onceedit):
    facts = ("edit", "facts.jsonl", "--plugin", "plugin", "--out", "by-name")
    method = ("--editor", "ft-l", "--editor-option", "layer=1", "--editor-option", "epochs=2")
    assert "with 3 facts" in onceedit(*facts, *method).out
    editor = json.loads(Path("by-name/edit.json").read_text())["editor"]
    assert editor["name"] == "ft-l"
    assert (editor["settings"]["layer"], editor["settings"]["epochs"]) == (1, 2)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--editor", "nobody"], "editor 'nobody': expected one of full, "),
        (["--editor", "ft-l"], "setting layer is missing"),
        (["--editor", "ft-l", "--editor-option", "layer"], "layer: expected KEY=VALUE"),
        (["--editor-option", "layer=1"], "the method that --editor names"),
    ],
)
def test_a_method_that_cannot_be_made_is_refused(onceedit, typed, message):
    with pytest.raises(InputError, match=message):
        onceedit("edit", "facts.jsonl", "--plugin", "plugin", "--out", "refused", *typed)


def test_an_edit_is_checked_with_questions_of_its_own_or_given_ones(onceedit, files):
    onceedit("edit", "facts.jsonl", "--plugin", "plugin", "--out", "to-check", *QUICK)
    pair = ("--edited", "to-check", "--target", "target")
    checked = onceedit("check", *pair, "--limit", "2", "--show", "3", "--json", "own.json")
    assert "questions asked: all" in checked.err
    for column in ("target", "Rel", "form: lower case", "Same subject: intrusion", "Unrelated"):
        assert column in checked.out
    wrong = int(re.search(r"3 of (\d+) wrong answers", checked.out)[1])
    (target,) = json.loads((files / "own.json").read_text())["targets"]
    questions = target["questions"]
    assert sum(not question["right"] for question in questions) == wrong
    assert len({question["edit"] for question in questions}) == 2
    assert target["columns"]["Rel"]["edits"] == target["columns"]["Rel"]["questions"] == 2

    rows = [
        {"question": "who?", "expects": "unchanged", "edit": "Norland"},
        {"question": "capital of Norland", "expects": "new", "edit": 1, "column": "keywords"},
    ]
    (files / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = onceedit("check", *pair, "--questions", "mine.jsonl", "--json", "given.json")
    assert "Unchanged" in given.out and "Rel" not in given.out
    (target,) = json.loads((files / "given.json").read_text())["targets"]
    first, second = target["questions"]
    assert first["right"] and first["before"] == first["after"] == first["expected"]
    assert (second["expected"], second["edit"], second["column"]) == ("Sol", 1, "keywords")
    with pytest.raises(InputError, match="leave one of the two out"):
        onceedit("check", *pair, "--questions", "mine.jsonl", "--limit", "1")
    with pytest.raises(InputError, match="would write over"):
        onceedit("check", *pair, "--questions", "mine.jsonl", "--json", "mine.jsonl")
