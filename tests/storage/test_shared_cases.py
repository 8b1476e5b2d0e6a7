"""The small hostile inputs of the reference material: each is refused in a line that names it."""

import json
from pathlib import Path

import pytest

from onceedit_jax.cli.config_file import with_config
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import load_target
from onceedit_jax.errors import InputError

MODELS = (
    "gguf-hang/plug.gguf",
    "gguf-tokens/plug.gguf",
    "gguf-head0/plug.gguf",
    "gguf-nested/plug.gguf",
    "gguf-align-neg/plug.gguf",
    "gguf-offset/plug.gguf",
    "config-layers20m",
    "config-type",
    "config-theta0",
    "config-window-neg",
    "config-gemma-yarn",
    "tok-huge-id",
    "tok-panic",
    "tok-type",
    "st-index-int",
    "st-nan",
    "auto-map",
)
ARTIFACTS = ("art-truncated", "art-nobase", "art-nan")


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    folder = shared / "cases" / "loading"
    if not folder.is_dir():
        pytest.skip(f"needs the reference cases, which are not at {folder}")
    return folder


def check_error(error: InputError, name: str) -> None:
    text = str(error)
    assert name in text and "\n" not in text and text.isprintable(), text
    assert "trust_remote_code" not in text


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused(cases: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_target(cases / name)
    check_error(caught.value, name)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_hostile_artifact_is_refused(cases: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        EditedPlugin.load(cases / name)
    check_error(caught.value, name)


def test_a_config_of_aliases_is_refused(cases: Path) -> None:
    with pytest.raises(InputError, match=r"c\.yaml, line 2: an alias"):
        with_config(["edit", "--config", str(cases / "yaml-bomb" / "c.yaml")])


def test_sound_inputs_are_read(cases: Path) -> None:
    for name in ("plug", "target"):
        model = load_target(cases / name).model
        assert model.hf_config == json.loads((cases / name / "config.json").read_text())
    assert EditedPlugin.load(cases / "art").info.format == 4
