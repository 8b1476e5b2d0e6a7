"""What gates say of prompts, where no target answers: rows of alphas, and shares of them that open.

Nothing is trained for the gate `fact`, so that the plug-in keeps its parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.framework.real_facts import named_edits
from experiments.framework.workspace import Workspace
from onceedit_jax import gates
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.editor import Editor, EditorResult
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.evaluation.probes import Probe, columns
from onceedit_jax.gates.fact import THRESHOLD

Row = Mapping[str, Any]  # what the gates say of one prompt, see `ask`
# By kind of prompt: value, low, high and probes, as of a `Column`.
Shares = Mapping[str, Mapping[str, float]]

UNCHANGED = Editor("unchanged", lambda state, params, config, inputs: EditorResult(params))
OPENS: Mapping[str, Callable[[Row], float]] = {
    "fact": lambda row: float(row["alpha"] >= THRESHOLD),
    "fact, right edit": lambda row: float(row["fact_right"]),
    "lookup": lambda row: float(row["lookup"]),
    "lookup, right edit": lambda row: float(row["lookup_right"]),
    "memory": lambda row: float(row["memory"]),
}


def untrained_plugin(workspace: Workspace, records: Sequence[EditRecord]) -> EditedPlugin:
    """A plug-in with these edits in its gates, and none in its parameters."""
    setup = workspace.setup
    # No texts are written that nothing would be trained on.
    settings = EditSettings(paraphrase_ratio=0.0, context_share=0.0, seed=setup.seed)
    model, tokenizer = workspace.base(setup.plugin)
    return edit(model, tokenizer, records, settings=settings, editor=UNCHANGED, mesh=workspace.mesh)


def ask(plugin: EditedPlugin, probes: Sequence[Probe]) -> list[Row]:
    """What the gates say of every prompt.

    Returns:
      For each prompt its `record` and `metric` (kind); `alpha` of `fact`; whether `memory` and the
      `lookup` of the subject's name open, 1 or 0; and whether `fact` and the lookup take it for
      its own edit, `fact_right` and `lookup_right`.
    """
    prompts = [probe.prompt for probe in probes]
    verdicts = plugin.verdicts(prompts, gates.fact())
    memory = plugin.alphas(prompts, gates.memory()) > 0
    looked = named_edits(plugin.records, prompts)
    return [
        {
            "record": probe.fact,
            "metric": probe.column,
            "alpha": round(float(alpha), 7),
            "fact_right": int(edit == probe.fact and alpha >= THRESHOLD),
            "memory": int(near),
            "lookup": int(place is not None),
            "lookup_right": int(place == probe.fact),
        }
        for probe, alpha, edit, near, place in zip(
            probes, verdicts.alphas, verdicts.edits, memory.tolist(), looked, strict=True
        )
    ]


def once_more(rows: Sequence[Row], metric: str, kinds: Sequence[str]) -> list[Row]:
    """The rows of one kind of prompt again, each under the kind that its record has."""
    return [{**row, "metric": kinds[row["record"]]} for row in rows if row["metric"] == metric]


def shares_by_gate(rows: Sequence[Row], seed: int) -> dict[str, Shares]:
    """By gate and kind of prompt, the share that opens it."""
    return {gate: shares(rows, opens, seed) for gate, opens in OPENS.items()}


def shares(rows: Sequence[Row], opens: Callable[[Row], float], seed: int) -> Shares:
    """By kind of prompt the mean over facts of what `opens` says, with its interval."""
    probes = [Probe(row["metric"], row["record"], "", "") for row in rows]
    found = columns(probes, [{"right": opens(row)} for row in rows], seed=seed)
    return {
        kind: {
            "value": column.value,
            "low": column.low,
            "high": column.high,
            "probes": column.probes,
        }
        for kind, column in found.items()
    }


def alphas_of(
    rows: Sequence[Row], *kinds: str, named: bool = False
) -> Float[np.ndarray, "prompts"]:
    """Alphas of the kinds whose names begin so; perhaps only where a prompt names a subject."""
    chosen = [row["alpha"] for row in rows if row["metric"].startswith(kinds)]
    return np.array([alpha for alpha in chosen if alpha > 0 or not named])
