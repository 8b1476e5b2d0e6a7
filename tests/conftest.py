"""Fixtures shared by all tests: reference material beside the checkout, and tiny models."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Every call of a function that takes or gives arrays checks its annotations, shapes included; as
# for type checkers, an int is a float. The hook must come before the first import of the package.
# Text, data and files have no arrays: their checks would take two fifths of their tests' time.
WITH_ARRAYS = (
    "decoding", "distributed", "editing", "editors", "ensemble", "evaluation", "fusion", "gates",
    "models", "relative",
)  # fmt: skip
if "onceedit_jax" not in sys.modules:
    install_import_hook(
        [f"onceedit_jax.{name}" for name in WITH_ARRAYS],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )

import own_data as own_data_sets
import tiny_tokenizers
from support import SHARED, byte_level_tokenizer, tiny_config

from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer

# A first example compiles, and the same command twice gives the same result.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("project")

MOST_MAPPINGS = 30_000
# Compiling takes most of the time, and a program that runs once on a tiny model is not worth
# optimizing: this saves two thirds. Since 0.11 jaxlib has one kind of emitters, the quicker one.
COMPILE_QUICKLY = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    COMPILE_QUICKLY.append("--xla_cpu_use_fusion_emitters=false")


def pytest_configure(config: pytest.Config) -> None:
    """Compile quickly, in programs that tests start too, unless all tests run real models."""
    if config.option.markexpr != "slow":
        chosen = os.environ.get("XLA_FLAGS", "").split()
        names = [flag.partition("=")[0] for flag in chosen]
        quick = [flag for flag in COMPILE_QUICKLY if flag.partition("=")[0] not in names]
        os.environ["XLA_FLAGS"] = " ".join([*chosen, *quick])


@pytest.fixture(scope="module", autouse=True)
def forget_compilations():
    """Let go of compiled programs before there are too many.

    Each takes several memory mappings, and past the 65,530 that Linux gives a process by default
    the next compilation ends in a segmentation fault.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that pass values of a wrong type, which the package itself must refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data sets and tokenizers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference data, which is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small data sets of this project's own, named and formed as the reference ones."""
    return own_data_sets.write(tmp_path_factory.mktemp("own") / "data")


@pytest.fixture(scope="session", params=["own", "reference"])
def data_sets(request: pytest.FixtureRequest) -> Path:
    """Folder of data sets: the project's own, then the reference ones."""
    if request.param == "own":
        return request.getfixturevalue("own_data")
    return request.getfixturevalue("shared") / "data"


@pytest.fixture(scope="session")
def any_data(request: pytest.FixtureRequest) -> Path:
    """Folder of data sets: the reference ones where they are, the project's own elsewhere."""
    return SHARED / "data" if SHARED.is_dir() else request.getfixturevalue("own_data")


@pytest.fixture(scope="session")
def any_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tokenizers: the reference ones where they are, elsewhere tiny ones."""
    if SHARED.is_dir():
        return SHARED / "tokenizers"
    folder = tmp_path_factory.mktemp("own") / "tokenizers"
    for name, tokenizer in tiny_tokenizers.KINDS.items():
        tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., tuple[LoadedModel, Tokenizer]]:
    """Builds a random model with a tokenizer of its own: `tiny_model(merges, seed)`."""

    def build(merges: int = 40, seed: int = 0) -> tuple[LoadedModel, Tokenizer]:
        tokenizer = byte_level_tokenizer(merges)
        config = tiny_config(len(tokenizer.vocabulary))
        params = init_params(config, jax.random.key(seed))
        name = f"tiny-{merges}-{seed}"
        hf_config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": config.vocab_size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
        return LoadedModel(config, params, name, name, Path(name), hf_config), tokenizer

    return build
