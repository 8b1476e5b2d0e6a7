"""Does the published AdamW search find the token of the closed form, on real next tokens?

Both models read the same prompts, unedited, and are fused half and half in the relative space. The
target of the search is one-hot at the largest anchor, its start zeros; its token is compared with
the lookup's. Where they differ, what counts is how much less of that anchor its token has.

    python experiments/search_agreement.py --data zsre_train.json --out agreement.json
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

import onceedit_jax as oe
from onceedit_jax.console import table_progress
from onceedit_jax.ensemble.pair import Side, build_transfer
from onceedit_jax.evaluation.report import write_json
from onceedit_jax.fusion import PRESETS, fused_anchor
from onceedit_jax.models.decoder import unembed
from onceedit_jax.runner import states_after
from onceedit_jax.versions import versions

CHUNK = 20  # searches at once: each holds a few [CHUNK, V] arrays
TIE = 1e-3  # columns this close count as equal


def main(
    data: Path,
    out: Path,
    plugin: str = "demo:smollm2-135m",
    targets: tuple[str, ...] = ("demo:gemma3-270m", "demo:smollm2-135m"),
    limit: int = 200,
) -> None:
    """Count agreement over the prompts of a data set.

    Args:
        data: file of records; their prompts are read.
        out: JSON file for the counts.
        plugin: the plug-in.
        targets: the target LLMs.
        limit: number of prompts.
    """
    prompts = [record.prompt for record in oe.load_records(data, limit=limit)]
    source, rows = oe.load_target(plugin), []
    for spec in targets:
        target = oe.load_target(spec)
        with table_progress() as on_block:
            transfer, _ = build_transfer(
                Side.of_model(source), Side.of_model(target), PRESETS["relative"], on_block=on_block
            )
        states = [
            states_after(
                side.model.params,
                side.model.config,
                [side.tokenizer.encode(prompt) for prompt in prompts],
            )
            for side in (source, target)
        ]
        same, tied = 0, 0
        for start in range(0, len(prompts), CHUNK):
            logits = tuple(
                unembed(side.model.params, side.model.config, jnp.asarray(part))
                for side, part in zip(
                    (source, target), (s[start : start + CHUNK] for s in states), strict=True
                )
            )
            half = jnp.full(len(logits[0]), 0.5)
            anchors = fused_anchor(*logits, half, transfer.plugin, transfer.target)
            found = oe.search(anchors, transfer.target, jnp.zeros_like(logits[1])).logits
            searched, looked_up = jnp.argmax(found, axis=-1), transfer.lookup[anchors]
            columns = jax.vmap(transfer.target.column)(anchors)
            lines = jnp.arange(len(anchors))
            close = columns[lines, searched] >= (1 - TIE) * columns[lines, looked_up]
            same += int(np.sum(searched == looked_up))
            tied += int(np.sum((searched != looked_up) & close))
        rows.append({"target": target.name, "prompts": len(prompts), "same": same, "tied": tied})
    write_json(out, {"rows": rows, "versions": versions()})
    Console().print_json(data=rows)


if __name__ == "__main__":
    tyro.cli(main)
