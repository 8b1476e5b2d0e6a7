"""MEMIT and AlphaEdit on the plug-in, beside full and low-rank tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.forgetting import forgetting
from experiments.framework.methods import LOCATED, TRAINED, edit_alone, editor_of_cell
from experiments.framework.scores import HEADINGS, score_rows
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.editor import editor_inputs
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.gates.weight_token import init_gate

TITLE = "Locate-then-edit on the plug-in"
QUESTION = "Do MEMIT and AlphaEdit edit a plug-in better than tuning does?"

GATE = "memory"  # needs no training, and so is the same for every method


@dataclass(frozen=True)
class LocateSetup(Setup):
    """What is compared.

    Attributes:
      dataset: whose edits.
      methods: names, with settings that differ from the method's defaults.
      layers: that MEMIT and AlphaEdit change.
      texts: number of texts that C is taken over.
      measured: number of other texts that perplexity is taken on.
      ridge: see `editors.statistics.ridged`; AlphaEdit takes C as it is.
      prefixes: number of the texts' beginnings that are put before a prompt.
    """

    dataset: str = "zsre"
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: Sequence[int] = (4, 5, 6, 7, 8)
    texts: int = 300
    measured: int = 60
    ridge: float = 1e-3
    prefixes: int = 2


def cells(setup: LocateSetup) -> Mapping[str, Cell]:
    """One cell a method."""
    found: dict[str, Cell] = {}
    known = (*TRAINED, *LOCATED)
    for name, options in setup.methods.items():
        if name not in known:
            raise InputError(f"methods: unknown {name!r}; expected some of {', '.join(known)}")
        cell = {
            "dataset": setup.dataset,
            "method": name,
            "options": dict(options),
            "measured": setup.measured,
        }
        if name in LOCATED:
            cell |= {
                "layers": list(setup.layers),
                "texts": setup.texts,
                "ridge": setup.ridge,
                "prefixes": setup.prefixes,
            }
        found[name] = cell
    return found


def run(workspace: Workspace, setup: LocateSetup, cell: Cell) -> Result:
    """Edit the plug-in; score it by itself and through the targets; measure what it forgot."""
    records = workspace.records(cell["dataset"])
    edit = _trained if cell["method"] in TRAINED else _located
    plugin = edit(workspace, cell)
    ensemble = workspace.ensemble(plugin, setup.targets, {"preset": "draft", "gate": GATE})
    texts = workspace.texts("even")[: cell["measured"]]
    model, tokenizer = workspace.base(setup.plugin)
    return {
        **workspace.evaluate(ensemble, records),
        "alone": plugin_alone(plugin, records).as_dict(),
        "before": forgetting(model.params, model.config, tokenizer, texts),
        "after": forgetting(plugin.params, plugin.config, tokenizer, texts),
        "seconds": plugin.editing_seconds,
    }


def _trained(workspace: Workspace, cell: Cell) -> EditedPlugin:
    settings = workspace.settings({**cell["options"], "method": cell["method"]})
    return workspace.plugin(cell["dataset"], settings)


def _located(workspace: Workspace, cell: Cell) -> EditedPlugin:
    dataset, (model, tokenizer) = cell["dataset"], workspace.base(workspace.setup.plugin)
    records, texts = workspace.records(dataset), workspace.texts("odd")[: cell["texts"]]
    inputs = editor_inputs(records, tokenizer, texts=texts)
    edited = edit_alone(editor_of_cell(cell), model.params, model.config, inputs)
    trained = Trained(edited.result.params, init_gate(model.config.hidden_size), [])
    seconds = edited.preparation + edited.seconds
    return workspace.finalize(dataset, trained, records, seconds=seconds)


def tables(setup: LocateSetup, results: Results) -> Sequence[Table]:
    """The plug-in by itself, and the targets' scores."""
    before = next(iter(results.values()))["before"]
    alone = [
        [
            name,
            *(result["alone"][metric] for metric in ("rel", "gen")),
            *(result["after"][metric] for metric in ("perplexity", "facts")),
            result["seconds"],
        ]
        for name, result in results.items()
    ]
    return [
        Table(
            "plugin",
            "The plug-in by itself: perplexity, share of simple facts known, and seconds of "
            "editing, which include compilation and, where a method needs it, C.",
            ("method", "Rel", "Gen", "perplexity", "facts", "seconds"),
            [["unedited", None, None, before["perplexity"], before["facts"], None], *alone],
        ),
        Table(
            "scores",
            f"Through the targets, by the default rule with the gate `{GATE}`, which no method "
            "trains.",
            ("method", "target", *HEADINGS),
            [row for name, r in results.items() for row in score_rows([name], r["scores"])],
        ),
    ]


def figures(setup: LocateSetup, results: Results) -> Sequence[Figure]:
    """Rel by time and by perplexity."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for name, result in results.items():
            left.scatter(result["seconds"], result["alone"]["rel"], label=name)
            right.scatter(result["after"]["perplexity"], result["alone"]["rel"], label=name)
        left.set(xlabel="seconds", ylabel="Rel of the plug-in", xscale="log", ylim=(0, 1.05))
        before = next(iter(results.values()))["before"]["perplexity"]
        right.axvline(before, color="grey", linewidth=0.5)
        right.set(xlabel="perplexity after (line: before)", xscale="log", ylim=(0, 1.05))
        right.legend()

    caption = "Rel of the plug-in, by seconds of editing and by perplexity afterwards."
    return [Figure("methods", caption, draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, LocateSetup, cells, run, tables, figures)
