"""Push and pull with a local stand-in of the hub: bit by bit, and nothing but artifacts."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from adapter_cases import ADAPTER
from editing_cases import FAST, RECORDS, UNRELATED
from hub_server import TOKEN, running
from support import ROOT

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.hub import pull, push
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.errors import InputError

NAME = "ada/norland-facts"
QUICK = dataclasses.replace(FAST, epochs=1)


@pytest.fixture(scope="module")
def in_adapters(base, head, tmp_path_factory):
    settings = dataclasses.replace(ADAPTER, epochs=1)
    folder = tmp_path_factory.mktemp("hub") / "edits"
    return edit(*base, RECORDS[:2], settings=settings, head=head).save(folder)


@pytest.fixture(scope="module")
def in_weights(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "weights"
    return edit(*tiny_model(), RECORDS, UNRELATED, QUICK).save(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, and a token that it knows; large files go by LFS, which it speaks."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running() as hub:
        yield hub


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["in_adapters", "in_weights"])
def test_what_is_pulled_is_what_was_pushed(kind, hub, tmp_path, request):
    folder = request.getfixturevalue(kind)
    pushed = push(folder, NAME, endpoint=hub.endpoint)
    there = hub.repositories[NAME].files()
    assert {"README.md", ".gitattributes", "edit.json"} < there.keys()
    assert pushed.commit in hub.repositories[NAME].commits
    assert any(request.startswith("PUT /objects/") for request in hub.requests)  # large files
    pulled = pull(NAME, tmp_path / "pulled", endpoint=hub.endpoint)
    assert content(pulled) == content(folder)
    assert pushed.files == len(content(folder))
    assert os.listdir(tmp_path / "pulled") and not list(tmp_path.glob(".pulled.*partial"))
    before, after = EditedPlugin.load(folder), EditedPlugin.load(pulled)
    assert after.info == before.info


def test_a_pulled_artifact_is_replaced_and_nothing_else_is(hub, in_adapters, tmp_path):
    push(in_adapters, NAME, endpoint=hub.endpoint)
    pull(NAME, tmp_path / "pulled", endpoint=hub.endpoint)
    pull(NAME, tmp_path / "pulled", endpoint=hub.endpoint)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    asked = len(hub.requests)
    with pytest.raises(InputError, match=r"holds other files, and no edit\.json"):
        pull(NAME, tmp_path / "mine", endpoint=hub.endpoint)
    assert len(hub.requests) == asked and (tmp_path / "mine" / "notes.txt").exists()


def test_a_second_push_takes_away_what_the_artifact_has_no_more(hub, in_adapters, tmp_path):
    copy = shutil.copytree(in_adapters, tmp_path / "edits")
    gone = {"adapters/0099/d/old": b"old", "adapters/0099/SHA256SUMS": b"", "LICENSE": b"mine"}
    push(copy, NAME, endpoint=hub.endpoint)
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository.files(), **gone, "README.md": b"my own card"})
    revert_edits(copy, [1])
    push(copy, NAME, endpoint=hub.endpoint, card=False)
    there = repository.files()
    assert {name for name in there if name.startswith("adapters/0099")} == set()
    assert there["LICENSE"] == b"mine" and there["README.md"] == b"my own card"
    assert content(pull(NAME, tmp_path / "pulled", endpoint=hub.endpoint)) == content(copy)


def test_a_branch_is_made_and_main_stays(hub, in_adapters, tmp_path):
    push(in_adapters, NAME, revision="second", endpoint=hub.endpoint)
    assert hub.repositories[NAME].files().keys() == {".gitattributes"}
    out = pull(NAME, tmp_path / "pulled", revision="second", endpoint=hub.endpoint)
    assert content(out) == content(in_adapters)
    with pytest.raises(InputError, match=r"ada/norland-facts: has no revision third; see"):
        pull(NAME, tmp_path / "other", revision="third", endpoint=hub.endpoint)


def test_private_is_private_from_the_first_byte_or_nothing_goes_up(hub, in_adapters):
    push(in_adapters, NAME, private=True, endpoint=hub.endpoint)
    assert hub.repositories[NAME].private
    hub.add("ada/open", {".gitattributes": b""})
    with pytest.raises(InputError, match=r"ada/open: is public, and --private .* Nothing was"):
        push(in_adapters, "ada/open", private=True, endpoint=hub.endpoint)
    assert hub.repositories["ada/open"].files().keys() == {".gitattributes"}


def test_a_repository_of_something_else_stays_as_it_is(hub, in_adapters):
    hub.add(NAME, {"model.safetensors": b"weights", "README.md": b"a card"})
    with pytest.raises(InputError, match=r"holds model\.safetensors, and no edit\.json"):
        push(in_adapters, NAME, endpoint=hub.endpoint)
    assert len(hub.repositories[NAME].commits) == 1


def test_a_damaged_artifact_does_not_go_up(hub, in_adapters, tmp_path):
    copy = shutil.copytree(in_adapters, tmp_path / "edits")
    (copy / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: is damaged.*nothing was pushed"):
        push(copy, NAME, endpoint=hub.endpoint)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer/tokenizer_config.json", b"{}", "is damaged"),
        ("tokenizer/vocab.json", b"{}", "is not one of the files of SHA256SUMS"),
        ("tokenizer/custom.py", b"import os", "no file of an artifact"),
        ("params/state/weights.pkl", b"cos\n", "no file of an artifact"),
        ("adapters/0000/.hidden/x", b"x", "no file of an artifact"),
        ("adapters/../../escaped.json", b"{}", "no file of an artifact"),
        ("head/C:\\x.json", b"{}", "no file of an artifact"),
        ("adapters/0077/state/x", b"x", "has no hash"),
        ("edit.json", b'{"format": 7}', "does not begin with its SHA-256"),
    ],
)
def test_what_is_no_whole_artifact_never_appears(name, data, message, hub, in_adapters, tmp_path):
    push(in_adapters, NAME, endpoint=hub.endpoint)
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository.files(), name: data})
    out = tmp_path / "deep" / "pulled"
    with pytest.raises(InputError, match=message) as caught:
        pull(NAME, out, endpoint=hub.endpoint)
    assert NAME in str(caught.value) and "\n" not in str(caught.value)
    assert not out.exists() and not list(tmp_path.rglob("*escaped*"))


def test_other_files_of_a_repository_are_not_fetched(hub, in_adapters, tmp_path):
    push(in_adapters, NAME, endpoint=hub.endpoint)
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository.files(), "model.bin": b"p", "data/big.json": b"{}"})
    assert content(pull(NAME, tmp_path / "out", endpoint=hub.endpoint)) == content(in_adapters)
    assert not [line for line in hub.requests if "model.bin" in line or "big.json" in line]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_what_is_pulled_cannot_be_run(hub, in_adapters, tmp_path):
    push(in_adapters, NAME, endpoint=hub.endpoint)
    out = pull(NAME, tmp_path / "out", endpoint=hub.endpoint)
    modes = [path.stat().st_mode for path in out.rglob("*") if path.is_file()]
    assert not any(mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH) for mode in modes)


def test_each_failure_is_one_line_that_says_what_to_do(hub, in_adapters, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refused(message, call, *arguments, **options):
        with pytest.raises(InputError, match=message) as caught:
            call(*arguments, **options)
        assert "\n" not in str(caught.value)

    refused("expected OWNER/NAME", pull, "norland", out)
    refused("expected OWNER/NAME", push, in_adapters, "../norland")
    refused("no such repository.*hf auth login", pull, NAME, out, endpoint=hub.endpoint)
    hub.add(NAME, {"README.md": b""})
    refused("no edited plug-in here", pull, NAME, out, endpoint=hub.endpoint)
    refused("no edited plug-in here", push, tmp_path, NAME, endpoint=hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    refused("hf auth login|HF_TOKEN", push, in_adapters, NAME, endpoint=hub.endpoint)
    nowhere = "http://127.0.0.1:9"
    refused("the hub is not available.*network", pull, NAME, out, endpoint=nowhere)
    refused("the hub is not available.*network", push, in_adapters, NAME, endpoint=nowhere)
    assert not out.exists()


def test_the_commands_push_and_pull(hub, in_adapters, tmp_path):
    scores = tmp_path / "check.json"
    column = {"value": 0.5, "low": 0.4, "high": 0.6, "edits": 2, "questions": 8}
    scores.write_text(json.dumps({"targets": [{"target": "T", "columns": {"edits": column}}]}))

    def onceedit(*arguments):
        command = [sys.executable, "-m", "onceedit_jax", *map(str, arguments)]
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert NAME in onceedit("push", in_adapters, NAME, "--scores", scores)
    card = hub.repositories[NAME].files()["README.md"].decode()
    assert "| T | edits | 0.500 | 0.400 to 0.600 | 8 |" in card
    assert "pulled 2 edits" in onceedit("pull", NAME, "--out", tmp_path / "out")
    assert content(tmp_path / "out") == content(in_adapters)
