"""B6: prefill and decode beside transformers on PyTorch, with the same weights in float32.

Needs PyTorch. Run: python -m benchmarks.peers
"""

import tempfile
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import onceedit_jax as oe
from benchmarks.measure import TARGETS, seconds_each, write
from benchmarks.steps import decoding_seconds, random_prompts, writing
from onceedit_jax.models.export import export_hf

PROMPT, WRITTEN = 64, 32  # tokens


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
