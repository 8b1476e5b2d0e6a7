"""B6: prefill and decode beside transformers on PyTorch, with the same weights in float32.

Needs PyTorch. Run: python -m benchmarks.peers
"""

import tempfile
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

import onceedit_jax as oe
from benchmarks.measure import TARGETS, seconds_each, write
from onceedit_jax.decoding.greedy import Endings, greedy_continuation, prefill
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.export import export_hf

PROMPT, WRITTEN = 64, 32  # tokens


@partial(jax.jit, static_argnames="config")
def first_token(params: Any, config: ModelConfig, tokens: Any, positions: Any) -> jax.Array:
    """Prefill, and the token that follows."""
    state, _ = prefill(params, config, tokens, positions, room=WRITTEN)
    return most_likely(unembed(params, config, state))


def main() -> None:
    """Measure both models of the demo, with batches of 1 and 16."""
    rows = []
    for spec in TARGETS:
        target = oe.load_target(spec)
        with tempfile.TemporaryDirectory() as folder:
            loaded = target.model
            export_hf(folder, loaded.params, loaded.config, loaded.hf_config)
            peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for batch in (1, 16):
            rows += _measured(target, peer, batch)
    write(
        "peers",
        "B6: prefill and decode beside transformers on PyTorch, float32 (goal: 1.0 x)",
        rows,
        f"Prefill: from {PROMPT} tokens to the next one. Decode: the mean of {WRITTEN - 1} more "
        "tokens, without prefill. Theirs is a loop over the model with its default cache.",
    )


def _measured(target: oe.Target, peer: Any, batch: int) -> list[dict[str, Any]]:
    params, config = target.model.params, target.model.config
    tokens = np.random.default_rng(0).integers(100, 5000, (batch, PROMPT)).astype(np.int32)
    positions = np.tile(np.arange(PROMPT, dtype=np.int32), (batch, 1))
    never = jnp.zeros(config.vocab_size, bool)
    endings = Endings(never, never, never)
    theirs = torch.from_numpy(tokens.astype(np.int64))

    def ours_whole() -> jax.Array:
        arguments = (params, config, tokens, positions, endings)
        return greedy_continuation(*arguments, steps=WRITTEN).tokens

    def peer_writes(count: int) -> torch.Tensor:
        written, cache, text = [], None, theirs
        with torch.inference_mode():
            for _ in range(count):
                out = peer(text, past_key_values=cache, use_cache=True, logits_to_keep=1)
                text, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
                written.append(text)
        return torch.cat(written, 1)

    same = bool(np.array_equal(np.asarray(ours_whole()), peer_writes(WRITTEN).numpy()))
    taken = seconds_each(
        {
            "ours, prefill": lambda: first_token(params, config, tokens, positions),
            "theirs, prefill": lambda: np.asarray(peer_writes(1)),
            "ours, whole": ours_whole,
            "theirs, whole": lambda: np.asarray(peer_writes(WRITTEN)),
        }
    )
    rows = []
    for label, ours, theirs_took in (
        ("prefill", taken["ours, prefill"], taken["theirs, prefill"]),
        (
            "decode",
            (taken["ours, whole"] - taken["ours, prefill"]) / (WRITTEN - 1),
            (taken["theirs, whole"] - taken["theirs, prefill"]) / (WRITTEN - 1),
        ),
    ):
        rows.append(
            {
                "model": target.name,
                "batch": batch,
                "what": label,
                "ours, ms": 1e3 * ours,
                "theirs, ms": 1e3 * theirs_took,
                "times faster": theirs_took / ours,
                "same tokens": same,
            }
        )
    return rows


if __name__ == "__main__":
    main()
