"""What an evaluation leaves behind: the summary JSON, and warnings that name a remedy."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onceedit_jax.storage.text_files import write_whole
from onceedit_jax.storage.versions import versions

# Below the first, and with a difference above the others, an evaluation gets a warning.
LOW_LOCALITY = 0.3
GENERALITY_GAP = 0.3
TARGET_GAP = 0.1

Results = Sequence[Mapping[str, Any]]


def summary(
    results: Results, *, plugin: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary JSON of an evaluation; docs/data-formats.md has its schema.

    Args:
      results: one entry per target and mode, see `Evaluation.results`.
      plugin: name of the edited plug-in, its scores alone and its default rule.
      settings: settings of the edit and of the evaluation.
    """
    return {
        "results": [dict(result) for result in results],
        "plugin": dict(plugin),
        "settings": dict(settings),
        "versions": versions(),
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN and infinities become null.

    Raises:
      RunError: the file cannot be written.
    """
    write_whole(Path(path), json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, all or none of them; NaN and infinities become null.

    Raises:
      RunError: the file cannot be written.
    """
    lines = (json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
    write_whole(Path(path), "".join(lines))


def warnings(
    results: Results,
    *,
    alphas: Mapping[str, Sequence[float]],
    losses: Mapping[str, Sequence[float]],
    coverage: Mapping[str, float | None],
    trained: Sequence[str] = (),
) -> list[str]:
    """Suspicious results of an evaluation, each with a remedy.

    Args:
      results: as in `summary`.
      alphas: from metric names ("rel", "gen", "loc", ...) to the alphas of its prompts.
      losses: from target names to the search's mean losses, before it and after each step.
      coverage: from target names to the share of a text's tokens that are anchors, if known.
      trained: evaluated questions that the plug-in was trained on.
    """
    messages: list[str] = []
    if trained:
        messages.append(
            f"{len(trained)} evaluated questions were trained on, {trained[0][:70]!r} among them: "
            "their scores prove nothing. Edit with --evaluated set to this file"
        )
    low_locality: list[str] = []
    for result in results:
        after = result["after"]
        name = f"{result['target']} ({result['mode']}, {rule_label(result)})"
        rel, gen, loc = after.get("rel"), after.get("gen"), after.get("loc")
        if loc is not None and loc < LOW_LOCALITY:
            low_locality.append(f"{name} has Loc {loc:.3f}")
        if rel is not None and gen is not None and gen < rel - GENERALITY_GAP:
            messages.append(
                f"generality far under reliability: {name} has Gen {gen:.3f}, Rel {rel:.3f}. The "
                "plug-in has learnt only the exact prompts, or its gate stays closed on rephrases "
                f"(mean alpha there {_mean(alphas.get('gen', ()))}): edit with --examples, so that "
                "it learns other wordings, or lower --alpha-threshold"
            )
    if low_locality:
        messages.insert(0, _low_locality(low_locality, alphas.get("loc", ())))
    for target, steps in losses.items():
        if len(steps) > 1 and not steps[-1] < steps[0]:
            messages.append(
                f"search loss not falling: {target} went from {steps[0]:.4g} to {steps[-1]:.4g} in "
                f"{len(steps) - 1} steps. Lower the search's learning rate, or use --search lookup "
                "if it starts from zeros"
            )
    return messages + _targets_behind(results, coverage)


def _low_locality(names: Sequence[str], alphas: Sequence[float]) -> str:
    text = (
        f"low locality: {'; '.join(names)}. If alpha is high on locality prompts, train the gate "
        "on more unrelated rows of their kind (`onceedit edit --unrelated`), raise "
        "--alpha-threshold, or use the gate fact"
    )
    # Alpha depends on the plug-in alone, so one histogram is for all targets.
    return f"{text}. Alpha on locality prompts:\n{histogram(alphas)}" if len(alphas) else text


def _targets_behind(results: Results, coverage: Mapping[str, float | None]) -> list[str]:
    # Only results of one mode and rule are compared: generation scores lower than teacher forcing.
    groups: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for result in results:
        if result["after"].get("avg") is not None:
            key = (result["mode"], rule_label(result))
            groups[key].append((result["target"], result["after"]["avg"]))
    messages = []
    for (mode, rule), members in groups.items():
        best, highest = max(members, key=lambda member: member[1])
        for target, average in members:
            if average < highest - TARGET_GAP:
                messages.append(
                    f"target behind the others: {target} has Avg {average:.3f}, {best} "
                    f"{highest:.3f} ({mode}, {rule}). {_remedy(rule, coverage.get(target))}"
                )
    return messages


def _remedy(rule: str, coverage: float | None) -> str:
    """The remedy for a target with a low Avg by this rule."""
    closer = "a plug-in whose tokenizer is closer"
    if rule == "draft":
        return f"It prefers its own words to drafts: use --confidence sure, or {closer}"
    if rule.startswith("draft"):
        return f"Its tokenizer may not be able to write what the plug-in drafts: use {closer}"
    if rule == "vocabulary":
        return f"Words that its tokenizer splits otherwise get lost: use --rule draft, or {closer}"
    measured = "not measured" if coverage is None else f"{coverage:.3f}"
    return (
        f"Its anchor coverage is {measured}; if that is low, anchors spell few answers: use "
        f"--rule draft, or {closer}"
    )


def histogram(values: Sequence[float], *, bins: int = 10, width: int = 40) -> str:
    """Values in [0, 1] as lines of text, one for each bin: its range, a bar and a count."""
    counts, edges = np.histogram(np.clip(values, 0.0, 1.0), bins=bins, range=(0.0, 1.0))
    scale = width / max(1, counts.max())
    return "\n".join(
        f"  {low:.1f}-{high:.1f} {'#' * math.ceil(count * scale):<{width}} {count}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    )


def rule_label(result: Mapping[str, Any]) -> str:
    """How tables and messages name a result's rule: with its search, where it has one."""
    search = result.get("search") or "none"
    return result["fusion"] if search == "none" else f"{result['fusion']}/{search}"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if len(values) else "unknown"


def _plain(value: Any) -> Any:
    """The value with JSON's types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
