"""MEMIT and AlphaEdit on the plug-in, beside full and low-rank tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.framework.definition import (
    OPEN,
    Cell,
    Experiment,
    Figure,
    Page,
    Result,
    Setup,
    Table,
)
from experiments.framework.forgetting import forgetting
from experiments.framework.methods import LOCATED, TRAINED, edit_alone, editor_of_cell
from experiments.framework.workspace import Lab
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.editor import editor_inputs
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.gates.weight_token import init_gate

METRICS = ("rel", "gen", "loc", "avg")
GATE = "memory"  # the one that needs no training, and so is the same for every method


@dataclass(frozen=True)
class LocateSetup(Setup):
    """What is compared.

    Attributes:
      dataset: whose edits.
      methods: names, with settings that differ from the method's defaults.
      layers: where MEMIT and AlphaEdit write.
      texts: how many texts C is taken over.
      measured: how many others perplexity is taken on.
      ridge: see `editors.statistics.ridged`; AlphaEdit takes C as it is.
      prefixes: texts' beginnings that are put before a prompt.
    """

    dataset: str = "zsre"
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: Sequence[int] = (4, 5, 6, 7, 8)
    texts: int = 300
    measured: int = 60
    ridge: float = 1e-3
    prefixes: int = 2


def cells(setup: LocateSetup) -> Mapping[str, Cell]:
    """One a method."""
    found: dict[str, Cell] = {}
    for name, options in setup.methods.items():
        if name not in (*TRAINED, *LOCATED):
            raise InputError(f"methods: no {name!r}; there are {', '.join((*TRAINED, *LOCATED))}")
        found[name] = {
            "dataset": setup.dataset,
            "method": name,
            "options": dict(options),
            "measured": setup.measured,
        }
        if name in LOCATED:
            found[name] |= {
                "layers": list(setup.layers),
                "texts": setup.texts,
                "ridge": setup.ridge,
                "prefixes": setup.prefixes,
            }
    return found


def run(lab: Lab, setup: LocateSetup, cell: Cell) -> Result:
    """Edit the plug-in, then score it by itself and through the targets, and what it forgot."""
    records = lab.records(cell["dataset"])
    edit = _trained if cell["method"] in TRAINED else _located
    plugin = edit(lab, cell)
    ensemble = lab.ensemble(plugin, setup.targets, fusion=lab.rule("draft", gate=GATE))
    found = lab.evaluate(ensemble, records)
    texts = lab.texts("even")[: cell["measured"]]
    model, tokenizer = lab.base(setup.plugin)
    return {
        **found,
        "alone": plugin_alone(plugin, records).as_dict(),
        "before": forgetting(model.params, model.config, tokenizer, texts),
        "after": forgetting(plugin.params, plugin.config, tokenizer, texts),
        "seconds": plugin.editing_seconds,
    }


def _trained(lab: Lab, cell: Cell) -> EditedPlugin:
    settings = lab.settings({**cell["options"], "method": cell["method"]})
    return lab.plugin(cell["dataset"], settings)


def _located(lab: Lab, cell: Cell) -> EditedPlugin:
    dataset, (model, tokenizer) = cell["dataset"], lab.base(lab.setup.plugin)
    records, texts = lab.records(dataset), lab.texts("odd")[: cell["texts"]]
    inputs = editor_inputs(records, tokenizer, texts=texts)
    edited = edit_alone(editor_of_cell(cell), model.params, model.config, inputs)
    trained = Trained(edited.result.params, init_gate(model.config.hidden_size), [])
    return lab.seal(dataset, trained, records, spent=edited.preparation + edited.seconds)


def page(setup: LocateSetup, results: Mapping[str, Result]) -> Page:
    """Quality, time and forgetting of each method."""
    own = [
        [
            name,
            result["alone"]["rel"],
            result["alone"]["gen"],
            result["after"]["perplexity"],
            result["after"]["facts"],
            result["seconds"],
        ]
        for name, result in results.items()
    ]
    fused = [
        [name, score["target"], *(score["after"][metric] for metric in METRICS)]
        for name, result in results.items()
        for score in result["scores"]
    ]
    before = next(iter(results.values()))["before"]
    told = [
        f"{name} Rel {rel:.2f}, Gen {gen:.2f}, perplexity {perplexity:.1f}, facts {facts:.2f}, "
        f"{seconds:.0f} s"
        for name, rel, gen, perplexity, facts, seconds in own
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for name, rel, _, perplexity, _, seconds in own:
            left.scatter(seconds, rel, label=name)
            right.scatter(perplexity, rel, label=name)
        left.set(xlabel="seconds", ylabel="Rel of the plug-in", xscale="log", ylim=(0, 1.05))
        right.axvline(before["perplexity"], color="grey", linewidth=0.5)
        right.set(xlabel="perplexity after (line: before)", xscale="log", ylim=(0, 1.05))
        right.legend()

    return Page(
        f"The plug-in by itself, {setup.limit} edits: {'; '.join(told)}. Before any edit: "
        f"perplexity {before['perplexity']:.1f}, facts {before['facts']:.2f}.",
        OPEN,
        [
            Table(
                "The plug-in by itself, perplexity and simple facts known, seconds of editing "
                "(with compilation, and C for the methods that need it)",
                ("method", "Rel", "Gen", "perplexity", "facts", "seconds"),
                own,
            ),
            Table(
                f"Through the targets, by the default rule with gate `{GATE}`, which no method "
                "trains",
                ("method", "target", "Rel", "Gen", "Loc", "Avg"),
                fused,
            ),
        ],
        [Figure("methods", "Rel of the plug-in by what it took and what it cost.", draw)],
    )


EXPERIMENT = Experiment(
    title="Locate-then-edit on the plug-in",
    expected=(
        "The paper fine-tunes its plug-in and mentions no other way. MEMIT and AlphaEdit write "
        "edits into a few layers and promise to leave the rest alone: they should be quicker and "
        "forget less, and were made for models many times as large, whose layers have more room."
    ),
    setup=LocateSetup,
    cells=cells,
    run=run,
    page=page,
)
