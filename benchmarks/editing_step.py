"""B7: one step of full fine-tuning beside the same step in PyTorch, each side in its own process.

The rows are the demo's ten edits five times and its unrelated texts, 16 rows a step. Needs PyTorch.
Run: python -m benchmarks.editing_step
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import tyro

import onceedit_jax as oe
from benchmarks.measure import PLUGIN, Clock, write
from benchmarks.steps import training_seconds
from onceedit_jax.cli.environment import with_huge_pages
from onceedit_jax.data.records import demo_path
from onceedit_jax.editing.batches import TrainingRow, edit_row, gate_row
from onceedit_jax.models.export import export_hf

SETTINGS = oe.EditSettings(
    method="full",
    learning_rate=1e-4,
    batch_size=16,
    epochs=2,
    early_stop=0,
    schedule="constant",
)
ROUNDS = 2


def main(side: Literal["both", "ours", "torch"] = "both") -> None:
    """Time the second of two epochs over all rows.

    Args:
        side: which side; one alone prints its seconds a step and its peak memory.
    """
    if side != "both":
        taken = {"ours": _ours, "torch": _torch}[side](training_rows())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": statistics.median(taken), "peak": peak}))
        return
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    huge = with_huge_pages(plain) or plain
    sides = {"ours": ("ours", huge), "torch": ("torch", plain), "torch, huge": ("torch", huge)}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, (module, environment) in sides.items():
            command = [sys.executable, "-m", "benchmarks.editing_step", "--side", module]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            )
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {name: statistics.median(r["seconds"] for r in done) for name, done in runs.items()}
    memory = {name: statistics.median(r["peak"] for r in done) for name, done in runs.items()}
    row = {
        "rows": len(training_rows()),
        "ours, s": seconds["ours"],
        "torch, s": seconds["torch"],
        "times faster": seconds["torch"] / seconds["ours"],
        "torch in huge pages, s": seconds["torch, huge"],
        "times faster than that": seconds["torch, huge"] / seconds["ours"],
        "ours, MB": memory["ours"],
        "torch, MB": memory["torch"],
        "memory": memory["ours"] / memory["torch"],
    }
    write(
        "editing_step",
        "B7: a step of full fine-tuning beside the same step in PyTorch (goal: 1.2 x, memory 1 x)",
        [row],
        "Both sides have the same rows, objective and AdamW, in float32. PyTorch pads a batch to "
        "its longest row and runs the vocabulary head at target tokens only, as ours does. "
        "Ours runs as the onceedit command runs it, with its memory in huge pages. PyTorch "
        "runs with its defaults, and in huge pages too. Memory is a process's peak, including "
        "loading.",
        how=f"Medians over the steps of an epoch and {ROUNDS} processes a side, in turns.",
    )


def training_rows() -> list[TrainingRow]:
    """The demo's edits five times, and its unrelated texts once."""
    tokenizer = oe.load_tokenizer(PLUGIN)
    edits = oe.load_records(demo_path("demo_edits.jsonl"))
    rows = [edit_row(record, tokenizer, max_tokens=256) for record in edits] * 5
    return rows + [
        gate_row(text.prompt, tokenizer, related=False, max_tokens=256)
        for text in oe.load_unrelated(demo_path("demo_unrelated.json"))
    ]


def _ours(rows: Sequence[TrainingRow]) -> list[float]:
    model = oe.load_model(PLUGIN)
    return training_seconds(model.params, model.config, rows, SETTINGS)


def _torch(rows: Sequence[TrainingRow]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        ours = oe.load_model(PLUGIN)
        export_hf(folder, ours.params, ours.config, ours.hf_config)
        del ours
        jax.clear_caches()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    gate = torch.zeros(model.config.hidden_size, requires_grad=True)
    groups: list[dict[str, Any]] = [
        {"params": model.parameters()},
        {"params": [gate], "lr": SETTINGS.gate_learning_rate},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay
    )
    clock = Clock()
    for epoch in range(SETTINGS.epochs):
        order = np.random.default_rng([SETTINGS.seed, epoch]).permutation(len(rows))
        for start in range(0, len(rows), SETTINGS.batch_size):
            chosen = [rows[i] for i in order[start : start + SETTINGS.batch_size]]
            loss = _torch_loss(torch, model, gate, chosen)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), gate], SETTINGS.clip_norm)
            optimizer.step()
            clock.lap(counts=epoch > 0)
    return clock.laps


def _torch_loss(torch: Any, model: Any, gate: Any, rows: Sequence[TrainingRow]) -> Any:
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
        mask[i, : len(row.tokens)] = 1
    hidden = model.model(tokens, attention_mask=mask).last_hidden_state
    places = [(i, c) for i, r in enumerate(rows) for c in range(r.target_start, len(r.tokens))]
    ends = torch.tensor([max(row.target_start - 1, 0) for row in rows])
    labels = torch.tensor([float(bool(row.related)) for row in rows])
    gates = hidden[torch.arange(len(rows)), ends] @ gate
    loss = SETTINGS.gate_weight * torch.nn.functional.binary_cross_entropy_with_logits(
        gates, labels
    )
    if places:
        line, column = torch.tensor(places).T
        logits = model.lm_head(hidden[line, column - 1])
        loss = loss + torch.nn.functional.cross_entropy(logits, tokens[line, column])
    return loss


if __name__ == "__main__":
    tyro.cli(main)
