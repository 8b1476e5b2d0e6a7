"""Real facts, and rivals that edit every target by itself or fuse by other rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from experiments import realworld
from experiments.framework import Cell, Experiment, Result, Results, Table, Workspace
from experiments.framework.abilities import abilities, abilities_table
from experiments.framework.definition import short
from experiments.framework.gate_rows import untrained_plugin
from experiments.framework.methods import (
    MethodsSetup,
    edit_target,
    effort,
    method_cells,
    parameters,
    settings_of,
)
from experiments.framework.probe_tables import OURS, by_fact, probe_tables
from experiments.framework.real_facts import Draw, draw
from experiments.framework.systems import Mask, System, check_system, edited_alone, fused
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.settings import EditSettings

TITLE = "Real facts: rivals that edit every target, and other rules of fusion"
QUESTION = "How do methods that change every target answer what users ask about an edit?"

FUSED = "fused"
GATED = ", behind the gate"
UNRELATED = "zsre"  # whose questions about other things gates and side memories learn from


@dataclass(frozen=True)
class RivalsSetup(realworld.RealSetup, MethodsSetup):
    """What is compared, beside the methods of `realworld`.

    Attributes:
      fused: further rules by name: `rule` as in a cell's description, `editing` settings of the
        plug-in's edit, and `targets` where not all are asked.
      ours: measure the methods of `realworld` on the same facts too.
    """

    fused: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ours: bool = True


def cells(setup: RivalsSetup) -> Mapping[str, Cell]:
    """For each draw each rule of fusion, each method and target, and perhaps ours."""
    found: dict[str, Cell] = {}
    for name, cell in realworld.cells(setup).items():
        if "others" in cell:
            continue
        cell = {**cell, "abilities": setup.others}
        for rule, options in setup.fused.items():
            asked = {"targets": list(setup.targets), **options}
            found[f"{name}: {rule}"] = {**cell, "method": FUSED, "name": rule, **asked}
        by_target = {spec: method_cells(setup, spec) for spec in setup.targets}
        for method in setup.methods:
            for spec, described in by_target.items():
                found[f"{name}: {method}, {short(spec)}"] = {**cell, **described[method]}
        if setup.ours:
            found[f"{name}: {OURS}"] = {**cell, "method": OURS}
    return found


def run(workspace: Workspace, setup: RivalsSetup, cell: Cell) -> Result:
    """Edit, ask every probe, and measure what else has changed."""
    if cell["method"] == OURS:
        return _ours(workspace, setup, cell)
    drawn = draw(workspace.data, cell["facts"], cell["draw"], development=cell["development"])
    drawn = drawn.asking(cell["asked"])
    edit = _fused if cell["method"] == FUSED else _alone
    return edit(workspace, setup, cell, drawn)


def _ours(workspace: Workspace, setup: RivalsSetup, cell: Cell) -> Result:
    """The methods of `realworld` on the same draw."""
    result = realworld.run(workspace, setup, cell)
    others = realworld.run(workspace, setup, {**cell, "others": setup.others})
    settings, (model, _) = workspace.settings(), workspace.base(setup.plugin)
    described = {"method": settings.method}
    budget = {
        "method": OURS,
        "target": "all",
        "seconds": result["seconds"],
        "preparation": 0.0,
        "effort": f"{result['epochs']} epochs",
        "parameters": parameters(settings, described, model.params, model.config, cell["facts"]),
    }
    return {**result, **others, "budget": [budget]}


def _fused(workspace: Workspace, setup: RivalsSetup, cell: Cell, drawn: Draw) -> Result:
    """A plug-in whose gate learns from unrelated questions, fused by another rule."""
    settings = workspace.settings(cell["editing"])
    plugin = _plugin(workspace, tuple(drawn.records), settings, tuple(_unrelated(workspace, drawn)))
    ensemble = workspace.ensemble(plugin, cell["targets"], cell["rule"])
    systems = {spec: fused(ensemble, place) for place, spec in enumerate(cell["targets"])}
    described = {"method": settings.method}
    model = workspace.base(setup.plugin)[0]
    budget = {
        "method": cell["name"],
        "target": "all",
        "seconds": plugin.editing_seconds,
        "preparation": 0.0,
        "effort": f"{plugin.info.metrics.epochs} epochs",
        "parameters": parameters(settings, described, model.params, model.config, cell["facts"]),
    }
    return {**_measured(workspace, cell, drawn, cell["name"], systems), "budget": [budget]}


def _alone(workspace: Workspace, setup: RivalsSetup, cell: Cell, drawn: Draw) -> Result:
    """One target, edited by itself."""
    method, before = cell["method"], workspace.alone(cell["target"])
    target, records = before.target, drawn.records
    unrelated = [row.prompt for row in _unrelated(workspace, drawn)]
    jax.clear_caches()  # so that every method's time includes its own compilation
    edited, editor = edit_target(workspace, cell, target, records, unrelated)
    layer = cell["layers"] if isinstance(cell["layers"], int) else 0
    system = edited_alone(method, before, edited.result, layer=layer, read=editor.read)
    settings, config = settings_of(workspace, cell), target.model.config
    budget = {
        "method": method,
        "target": target.name,
        "seconds": edited.seconds,
        "preparation": edited.preparation,
        "effort": effort(editor, edited.result),
        "parameters": parameters(settings, cell, target.model.params, config, cell["facts"]),
    }
    return {
        **_measured(workspace, cell, drawn, method, {cell["target"]: system}),
        "budget": [budget],
    }


def _measured(
    workspace: Workspace, cell: Cell, drawn: Draw, method: str, systems: Mapping[str, System]
) -> Result:
    """Each system as it is, and behind the gate.

    Behind the gate an edit answers where the gate `fact` opens, in place of its own router or gate;
    elsewhere the target answers as before. GRACE has no such row: it would have a value for prompts
    that are far from its keys.
    """
    gate = _gate(workspace, tuple(drawn.records))
    texts = workspace.texts("even")[: cell["abilities"]]
    variants = {method: systems}
    if method != "grace":
        behind = {spec: replace(system, reaches=gate) for spec, system in systems.items()}
        variants[method + GATED] = behind
    answered: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, Any]] = {}
    for name, variant in variants.items():
        for spec, system in variant.items():
            before = workspace.alone(spec)
            checked = check_system(system, before, drawn.probes, seed=workspace.setup.seed)
            answered.setdefault(name, {})[short(spec)] = by_fact(checked)
            kept.setdefault(name, {})[short(spec)] = abilities(system, before, texts)
    return {"methods": answered, "abilities": kept}


@lru_cache(maxsize=1)
def _plugin(
    workspace: Workspace,
    records: tuple[EditRecord, ...],
    settings: EditSettings,
    unrelated: tuple[Any, ...],
) -> EditedPlugin:
    """The edited plug-in, which several rules fuse."""
    return workspace.edit(UNRELATED, records, settings, unrelated=unrelated)


@lru_cache(maxsize=1)
def _gate(workspace: Workspace, records: tuple[EditRecord, ...]) -> Any:
    """The gate `fact` of some edits: it reads the unedited plug-in, so nothing is edited."""
    plugin = untrained_plugin(workspace, records)
    gate = plugin.fitted(plugin.default_gate)

    def opens(prompts: Sequence[str]) -> Mask:
        return np.asarray(plugin.alphas(prompts, gate) >= gate.threshold)

    return opens


def _unrelated(workspace: Workspace, drawn: Draw) -> list[Any]:
    """Questions about other things, none of them asked."""
    asked = {probe.prompt for probe in drawn.probes}
    return [row for row in workspace.unrelated(UNRELATED) if row.prompt not in asked]


def tables(setup: RivalsSetup, results: Results) -> Sequence[Table]:
    """The tables of `realworld`, then what each method costs."""
    drawn = _by_draw(results)
    sizes: dict[str, list[Result]] = {}
    for name, result in drawn.items():
        sizes.setdefault(name.split(",")[0], []).append(result)
    budget = Table(
        "budget",
        "What an edit costs: seconds, those of what is prepared once for a target, how long is "
        "searched or trained at most, and how many numbers are changed or added.",
        ("draw", "method", "target", "seconds", "preparation", "effort", "parameters"),
        [[name, *row.values()] for name, result in drawn.items() for row in result["budget"]],
    )
    return [*probe_tables(sizes), abilities_table(drawn), budget]


def _by_draw(results: Results) -> dict[str, Any]:
    """The cells of each draw as one result, as those of `realworld` are."""
    joined: dict[str, Any] = {}
    for name, result in results.items():
        empty = {"methods": {}, "abilities": {}, "budget": []}
        one = joined.setdefault(name.split(":")[0], empty)
        for part in ("methods", "abilities"):
            for method, targets in result[part].items():
                one[part].setdefault(method, {}).update(targets)
        one["budget"] += result["budget"]
    return joined


EXPERIMENT = Experiment(TITLE, QUESTION, RivalsSetup, cells, run, tables)
