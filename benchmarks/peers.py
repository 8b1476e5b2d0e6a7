"""B6: prefill and decode beside transformers on PyTorch, with the same weights in float32.

Needs PyTorch. Run: python -m benchmarks.peers
"""

import tempfile
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import onceedit_jax as oe
from benchmarks.measure import LARGE, TARGETS, seconds_each, write
from benchmarks.steps import decoding_seconds, random_prompts, writing
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.types import Params

PROMPT, WRITTEN = 64, 32  # tokens


def main() -> None:
    """Measure both models of the demo, with batches of 1 and 16, and the large one."""
    rows = []
    for spec in (*TARGETS, LARGE):
        target = oe.load_target(spec)
        loaded, large = target.model, spec == LARGE
        with tempfile.TemporaryDirectory() as folder:
            export_hf(folder, loaded.params, loaded.config, loaded.hf_config)
            peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        # As the commands run it: for a model of this size few answers repay the compilation.
        params = unstack_layers(loaded.params) if large else loaded.params
        for batch in (1,) if large else (1, 16):
            rows += _measured(target, params, peer, batch)
    write(
        "peers",
        "B6: prefill and decode beside transformers on PyTorch, float32 (goal: 1.0 x)",
        rows,
        f"Prefill: from {PROMPT} tokens to the next one. Decode: the mean of {WRITTEN - 1} more "
        "tokens, without prefill. Theirs is a loop over the model with its default cache. Layers "
        "of the two small models are stacked, those of the large one are not.",
    )


def _measured(target: oe.Target, params: Params, peer: Any, batch: int) -> list[dict[str, Any]]:
    config = target.model.config
    prompts = random_prompts(config, batch, PROMPT)
    ours = writing(params, config, prompts, steps=WRITTEN)
    theirs = torch.from_numpy(prompts.tokens.astype(np.int64))

    def peer_writes(count: int) -> torch.Tensor:
        written, cache, text = [], None, theirs
        with torch.inference_mode():
            for _ in range(count):
                out = peer(text, past_key_values=cache, use_cache=True, logits_to_keep=1)
                text, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
                written.append(text)
        return torch.cat(written, 1)

    same = bool(np.array_equal(np.asarray(ours["whole"]()), peer_writes(WRITTEN).numpy()))
    taken = seconds_each(
        {
            "ours, prefill": ours["first"],
            "theirs, prefill": lambda: np.asarray(peer_writes(1)),
            "ours, whole": ours["whole"],
            "theirs, whole": lambda: np.asarray(peer_writes(WRITTEN)),
        }
    )
    rows = []
    for label, ours_took, theirs_took in (
        ("prefill", taken["ours, prefill"], taken["theirs, prefill"]),
        (
            "decode",
            *(
                decoding_seconds(taken[f"{side}, prefill"], taken[f"{side}, whole"], WRITTEN)
                for side in ("ours", "theirs")
            ),
        ),
    ):
        rows.append(
            {
                "model": target.name,
                "batch": batch,
                "what": label,
                "ours, ms": 1e3 * ours_took,
                "theirs, ms": 1e3 * theirs_took,
                "times faster": theirs_took / ours_took,
                "same tokens": same,
            }
        )
    return rows


if __name__ == "__main__":
    main()
