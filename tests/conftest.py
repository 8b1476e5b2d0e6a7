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

# Every call of a function of these packages checks its annotations, shapes of arrays included; as
# for type checkers, an int is a float. The others have no arrays, and the checks would take two
# fifths of their tests' time. The hook must come before the first import of the package.
if "onceedit_jax" not in sys.modules:
    install_import_hook(
        [
            "onceedit_jax.decoding", "onceedit_jax.distributed", "onceedit_jax.editing",
            "onceedit_jax.editors", "onceedit_jax.ensemble", "onceedit_jax.evaluation",
            "onceedit_jax.fusion", "onceedit_jax.gates", "onceedit_jax.models",
            "onceedit_jax.relative",
        ],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )  # fmt: skip

import own_data as own_data_sets
import tiny_tokenizers
from support import SHARED, byte_level_tokenizer, tiny_config

from experiments.framework.compilations import forget_compilations
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage import converted, gguf_parts
from onceedit_jax.text import tokenizer_file
from onceedit_jax.text.tokenizer import Tokenizer

# A first example compiles, and the same command twice gives the same result.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("project")

# Compiling takes most of the time, and a program that runs once on a tiny model is not worth
# optimizing: this saves two thirds. Since 0.11 jaxlib has one kind of emitters, the quicker one.
COMPILE_QUICKLY = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    COMPILE_QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
# Each process has one core; parts that are compiled side by side would take a quarter more.
IN_ONE_PART = "--xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config: pytest.Config) -> None:
    """Keep nothing that was converted, and compile quickly unless all tests run real models.

    Both hold in programs that tests start too.
    """
    os.environ.setdefault("ONCEEDIT_CONVERTED_GB", "0")
    wanted = [IN_ONE_PART]
    if config.option.markexpr not in ("slow", "long"):
        wanted += COMPILE_QUICKLY
    chosen = os.environ.get("XLA_FLAGS", "").split()
    names = [flag.partition("=")[0] for flag in chosen]
    more = [flag for flag in wanted if flag.partition("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*chosen, *more])


@pytest.fixture(scope="module", autouse=True)
def few_compilations():
    """Let go of compiled programs before there are too many."""
    yield
    forget_compilations()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that pass values of a wrong type, which the package itself must refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where whatever is converted is kept, however small and new its source is."""
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", "1")
    monkeypatch.setattr(converted, "_SETTLED", -60.0)
    monkeypatch.setattr(gguf_parts, "LARGE", 1)
    monkeypatch.setattr(tokenizer_file, "WORTH_KEEPING", 1)
    return tmp_path / "cache" / "converted"


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
