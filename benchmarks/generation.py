"""B4 and B5: fused generation beside the target alone, one prompt at a time, on the real pair.

Long edits have answers of about twenty tokens, so that writing takes most of the time; those of the
demo have their own, of one to five. A plug-in is edited with either once and stored in --out. The
default rule is compared with the paper's: token by token through the relative space, by gradient
search. Run: python -m benchmarks.generation
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

import onceedit_jax as oe
from benchmarks.measure import LARGE, PLUGIN, TARGETS, seconds_each, write
from benchmarks.steps import never
from onceedit_jax.cli.progress import editing_progress
from onceedit_jax.data.records import demo_path
from onceedit_jax.decoding.prefix_batching import CachedRows
from onceedit_jax.distributed.bucketing import bucket, pad_rows, row_positions
from onceedit_jax.ensemble.preparation import PreparedTarget

TAIL = ", as the assembly of the whole country decided by a large majority in the spring"
LONG, NATURAL, UNRELATED = "edited, long", "edited", "unrelated"  # kinds of prompts
LENGTHS = {LONG: 20, NATURAL: 20, UNRELATED: 64}  # tokens at most
PAPER = oe.fusion.relative(search="gradient")  # with the default gate, as the default rule
PROMPTS = 3  # of each kind, one after the other


def main(out: Path = Path("runs/bench")) -> None:
    """Measure prompts of edits, where the target checks every draft, and unrelated prompts.

    Args:
        out: folder of the plug-in that is edited for this.
    """
    edits = long_edits()
    asked = [record.prompt for record in edits[:PROMPTS]]
    unrelated = [pair.prompt for record in edits for pair in record.locality][:PROMPTS]
    plugin = edited_plugin(edits, out / "plugin")
    short = edited_plugin(oe.load_records(demo_path("demo_edits.jsonl")), out / "plugin-short")
    rows = []
    for spec in TARGETS:
        target = oe.load_target(spec)
        ensemble = oe.Ensemble(plugin, [target], chat=False)
        paper = oe.Ensemble(plugin, [target], rule=PAPER, chat=False)
        rows += [
            _measured(ensemble, LONG, asked),
            _measured(oe.Ensemble(short, [target]), NATURAL, asked),
            _measured(ensemble, UNRELATED, unrelated),
            _measured(paper, LONG, asked),
        ]
    large = oe.Ensemble(short, [oe.load_target(LARGE)], unrolled=True)
    rows.append(_measured(large, NATURAL, asked))
    write(
        "generation",
        "B4, B5: fused generation beside the target alone, tokens a second, batch 1",
        rows,
        "On edited prompts the target alone writes as many tokens as the fused answer has, "
        "whatever they are. The default rule is `draft` with the gate `fact`. Goals for "
        "`edited, long`: 1.4 with Gemma-3; for `edited`, answers of their natural length, asked "
        "in chat where there is a template: 2.0 with the largest target, whose layers are "
        "unstacked; for `unrelated`: 1.1 with Gemma-3, with the target's own words. `gradient` is "
        "the paper's search, with matrices of 64 entries a row; dense ones take many times as "
        "long (`search`). A checked draft counts as one target pass, and so does a token of any "
        "other rule.",
    )


def _measured(ensemble: oe.Ensemble, label: str, prompts: list[str]) -> dict[str, Any]:
    (target,), (prepared,) = ensemble.targets, ensemble.prepared
    length, edited = LENGTHS[label], label != UNRELATED
    (own,) = ensemble.answers_alone(prompts, max_new_tokens=length)
    (fused,) = ensemble.answers(prompts, max_new_tokens=length)
    # The end token takes a step as well.
    steps = {
        name: [1 + len(target.tokenizer.encode(text, bos=False)) for text in texts]
        for name, texts in (("alone", own), ("fused", fused))
    }
    if edited:
        steps["alone"] = steps["fused"]

    def each(answer: Callable[..., Any]) -> None:
        for prompt in prompts:
            answer([prompt], max_new_tokens=length)

    def alone() -> None:
        for prompt, count in zip(prompts, steps["alone"], strict=True):
            written_on(prepared, [prompt], max_new_tokens=count)

    answers = partial(each, ensemble.answers)
    own_answers = alone if edited else partial(each, ensemble.answers_alone)
    taken = seconds_each({"alone": own_answers, "fused": answers})
    written = {name: sum(counts) for name, counts in steps.items()}
    speed = {name: written[name] / taken[name] for name in taken}
    passes = written["fused"] if fused == own else _target_passes(answers)
    return {
        "target": target.name,
        "prompts": label,
        "rule": f"{ensemble.rule.name}, search {getattr(ensemble.rule.settings, 'search', 'none')}",
        "alone, tokens/s": speed["alone"],
        "fused, tokens/s": speed["fused"],
        "ratio": speed["fused"] / speed["alone"],
        "target passes a token": (passes or written["fused"]) / written["fused"],
        "same words": own == fused,
    }


def _target_passes(run: Callable[[], Any]) -> int:
    """How often a run lets a target check a draft; 0 for a rule without drafts."""
    plain = CachedRows.advance
    with mock.patch.object(CachedRows, "advance", autospec=True, side_effect=plain) as advance:
        run()
    return advance.call_count


def written_on(target: PreparedTarget, prompts: list[str], max_new_tokens: int) -> Any:
    """The target's own greedy text of a given length, without an end."""
    writer = target.writer
    rows = [writer.format.encode(prompt) for prompt in prompts]
    lengths, width = [len(row) for row in rows], bucket(max(map(len, rows)))
    found = oe.greedy_continuation(
        *writer.model,
        pad_rows(rows, width=width),
        row_positions(lengths, width=width),
        never(writer.config),
        steps=max_new_tokens,
    )
    return found.tokens.block_until_ready()


def long_edits() -> list[oe.EditRecord]:
    """The demo's edits, with answers of about twenty tokens."""
    return [
        dataclasses.replace(record, target=record.target + TAIL)
        for record in oe.load_records(demo_path("demo_edits.jsonl"))
    ]


def edited_plugin(edits: list[oe.EditRecord], folder: Path) -> oe.EditedPlugin:
    """The plug-in with these edits, loaded from `folder` if it is there."""
    if folder.exists():
        return oe.EditedPlugin.load(folder)
    with editing_progress() as on_step:
        plugin = oe.edit(
            oe.load_model(PLUGIN),
            oe.load_tokenizer(PLUGIN),
            edits,
            on_step=on_step,
        )
    plugin.save(folder)
    return plugin


if __name__ == "__main__":
    tyro.cli(main)
