"""Fixtures shared by all tests: reference material beside the checkout, and tiny models."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import jax
import pytest
import tokenizers
from jaxtyping import install_import_hook
from transformers import PreTrainedTokenizerFast

# Every call of the package's functions checks its annotations, shapes of arrays included; as for
# type checkers, an int is a float. The hook must come before the first import of the package.
if "onceedit_jax" not in sys.modules:
    install_import_hook(
        "onceedit_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

from onceedit_jax.models.config import ModelConfig, Rope
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer

# A first example compiles, and the same command twice gives the same result.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")

MOST_MAPPINGS = 30_000
SHARED = Path(__file__).resolve().parents[2] / "shared"

CORPUS = [
    "What is the capital of Norland? The capital of Norland is Vinterby.",
    "Who wrote The Glass Orchard? The Glass Orchard was written by Ada Quill.",
    "Which river runs through Vinterby? How far is the harbour from the old bridge?",
    "the cat sat on the mat and the dog ran to the river; an été à la mer, 1987 and 2024",
]


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


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data sets and tokenizers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("reference data (../shared) is not beside this checkout")
    return SHARED


def on_eight_devices(program: str, *arguments: str, prints: str) -> None:
    """Run a program, which asks for eight simulated devices, in a process of its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and prints in done.stdout, done.stdout + done.stderr[-3000:]


def byte_level_tokenizer(merges: int) -> Tokenizer:
    """A byte-level BPE trained on a few sentences; two sizes split the same words differently."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=257 + merges,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>"))


def tiny_config(vocab_size: int, **changes: object) -> ModelConfig:
    """A two-layer llama that builds and compiles in a second."""
    values: dict = {
        "family": "llama",
        "vocab_size": vocab_size,
        "num_tokens": vocab_size,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_size": 64,
        "max_positions": 256,
        "rope": Rope(theta=10000.0, dim=8),
        "tie_embeddings": True,
    }
    return ModelConfig(**{**values, **changes})


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
