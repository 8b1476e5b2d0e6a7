"""A check from files to a report: load, ask, and say which answers were wrong."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.relation_heads import known_relations
from onceedit_jax.ensemble.side import OnBlock
from onceedit_jax.evaluation.check import Checked, by_length, check
from onceedit_jax.evaluation.from_files import open_ensemble, rule_and_gate_settings
from onceedit_jax.evaluation.options import CheckOptions
from onceedit_jax.evaluation.own_probes import Edits, probes_of
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.evaluation.questions import load_questions
from onceedit_jax.evaluation.rule_choice import RuleChoice
from onceedit_jax.evaluation.summaries import write_json
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import Gate

PART = 64  # questions that are asked between two signs of progress


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """A finished check.

    Attributes:
      probes: the questions.
      targets: what each target answered to them, in their order.
      numbers: what the edits are called.
    """

    probes: Sequence[Probe]
    targets: Sequence[Checked]
    numbers: Sequence[int]

    def wrong(self, target: Checked) -> list[tuple[Probe, Any]]:
        """The questions that a target answered wrongly, each with its row.

        First comes one of every column, then a second one of every column, and so on.
        """
        seen, ranked = Counter[str](), []
        for probe, row in zip(self.probes, target.rows, strict=True):
            if not row["right"]:
                ranked.append((seen[probe.column], probe, row))
                seen[probe.column] += 1
        ranked.sort(key=lambda each: each[0])
        return [(probe, row) for _, probe, row in ranked]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; docs/data-formats.md has their schema."""
        return {"targets": [self._target(target) for target in self.targets]}

    def _target(self, target: Checked) -> dict[str, Any]:
        columns = {
            name: {
                "value": c.value,
                "low": c.low,
                "high": c.high,
                "edits": c.facts,
                "questions": c.probes,
            }
            for name, c in target.columns.items()
        }
        rows = [self._row(probe, row) for probe, row in zip(self.probes, target.rows, strict=True)]
        return {"target": target.target, "columns": columns, "questions": rows}

    def _row(self, probe: Probe, row: Any) -> dict[str, Any]:
        """A question with its answers."""
        return {
            "column": probe.column,
            "edit": self.numbers[probe.fact],
            "question": probe.prompt,
            "expects": probe.expects,
            "expected": expected(probe, row["before"]),
            "before": row["before"],
            "after": row["after"],
            "right": bool(row["right"]),
            **({"intrusion": bool(row["intrusion"])} if "intrusion" in row else {}),
            "alpha": row["alpha"],
            "edit_meant": self.numbers[row["edit"]] if row["edit"] >= 0 else None,
        }


def check_from_files(
    options: CheckOptions,
    *,
    rule: FusionRule | None = None,
    gate: Gate | None = None,
    on_block: OnBlock = lambda name, done, total: None,
    on_choice: Callable[[RuleChoice], None] | None = None,
    on_questions: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Check an edited plug-in with questions about its edits.

    Args:
      options: plug-in, targets and questions.
      rule: the fusion rule (default: `fusion.draft()`).
      gate: the gate (default: the plug-in's `default_gate`).
      on_block: called with (model name, blocks done, all blocks) while a table is built.
      on_choice: choose each target's rule by `choose_rules`, in place of `rule`; called with each.
      on_questions: called with (questions asked, all questions) before each part and at the end.

    Raises:
      InputError: an input that cannot be read, or settings that do not fit the rule.
      RunError: the file of all answers cannot be written.
    """
    chat = None if options.chat else False
    ensemble = open_ensemble(
        options, rule=rule, gate=gate, chat=chat, on_block=on_block, on_choice=on_choice
    )
    if options.questions is None:
        probes = _own_probes(ensemble.plugin, options)
    else:
        plugin = ensemble.plugin
        probes = load_questions(options.questions, plugin.records, plugin.info.numbers)
    steps = sum(-(-len(places) // PART) * tokens for tokens, places in by_length(probes))
    ensemble = ensemble.unrolled_for(steps)
    report = CheckReport(
        probes,
        check(ensemble, probes, seed=options.seed, part=PART, on_questions=on_questions),
        ensemble.plugin.info.numbers,
    )
    if options.json:
        settings = rule_and_gate_settings(ensemble)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, {**report.as_dict(), "settings": settings})
    return report


def _own_probes(plugin: EditedPlugin, options: CheckOptions) -> list[Probe]:
    """Questions made from the edits, or from some of them."""
    edits = Edits(plugin.records, known_relations(plugin), frozenset(plugin.info.trained_texts))
    order = np.random.default_rng(options.seed).permutation(len(plugin.records))
    return probes_of(edits, sorted(order[: options.limit].tolist()), seed=options.seed)


def expected(probe: Probe, before: str) -> str:
    """The answer that a question should have, as text."""
    if probe.expects == "unchanged":
        return before
    return " / ".join(probe.answers) if probe.expects == "answer" else probe.new
