"""What the tests import: folders, a tiny tokenizer and model configuration, simulated devices."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from onceedit_jax.models.config import ModelConfig, Rope
from onceedit_jax.models.layout import INPUT_AXES
from onceedit_jax.models.quantization import quantize
from onceedit_jax.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
# Reference data sets and tokenizers, beside the checkout unless ONCEEDIT_SHARED names a folder.
SHARED = Path(os.environ.get("ONCEEDIT_SHARED", ROOT.parent / "shared"))
# For programs in processes of their own: this checkout's package, and the modules beside this one.
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
# The environment of programs that simulate devices. XLA starts one thread a device, but a device
# can wait for the others in two places at once: with threads to spare, none waits for ever.
SIMULATED = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": PYTHONPATH, "NPROC": "32"}

CORPUS = [
    "What is the capital of Norland? The capital of Norland is Vinterby.",
    "Who wrote The Glass Orchard? The Glass Orchard was written by Ada Quill.",
    "Which river runs through Vinterby? How far is the harbour from the old bridge?",
    "the cat sat on the mat and the dog ran to the river; an été à la mer, 1987 and 2024",
]


def on_eight_devices(program: str, *arguments: str, prints: str) -> None:
    """Run a program, which asks for eight simulated devices, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | SIMULATED, capture_output=True, text=True, timeout=900, check=False,
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


def in_eight_bits(params):
    """A parameter tree whose matrices are `Int8`, layer by layer as a loader makes them."""

    def small(path, leaf):
        inputs = INPUT_AXES.get(path[-1].key)
        if inputs is None:
            return leaf
        parts = [quantize(np.asarray(layer), range(inputs)) for layer in leaf]
        return jax.tree.map(lambda *layers: jnp.stack(layers), *parts)

    whole = {"layers": jax.tree_util.tree_map_with_path(small, params["layers"])}
    if "kernel" in params.get("head", {}):
        head = jax.tree.map(jnp.asarray, quantize(np.asarray(params["head"]["kernel"]), [0]))
        whole["head"] = {**params["head"], "kernel": head}
    return {**params, **whole}


@contextmanager
def in_another_thread(context: AbstractContextManager[object]) -> Iterator[None]:
    """A context that another thread has entered, and leaves at the end."""
    entered, end = threading.Event(), threading.Event()

    def hold() -> None:
        with context:
            entered.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    try:
        yield
    finally:
        end.set()
        thread.join()
