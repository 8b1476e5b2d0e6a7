"""Eight devices against one, on real models.

Where there are not eight devices they are simulated:

    JAX_NUM_CPU_DEVICES=8 python -m experiments meshes --data FOLDER
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import Pair
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.mesh import make_mesh, to_host
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.errors import InputError

TITLE = "Eight devices and one"
QUESTION = "Do eight devices give what one device gives?"

DATASET = "zsre"
ONE: Mapping[str, int] = {"data": 1}


@dataclass(frozen=True)
class MeshSetup(Setup):
    """What is compared.

    Attributes:
      meshes: sizes of the axes of each.
      rules: presets that score; the first one answers as well.
      answer_tokens: longest answer.
    """

    meshes: Sequence[Mapping[str, int]] = ({"data": 8}, {"tensor": 8})
    rules: Sequence[str] = ("draft", "relative")
    answer_tokens: int = 6


def named(sizes: Mapping[str, int]) -> str:
    """The name of a mesh: on the page, and of its folder."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())


def cells(setup: MeshSetup) -> Mapping[str, Cell]:
    """One device, which the others are compared with, and each mesh."""
    shared = {"rules": list(setup.rules), "answer_tokens": setup.answer_tokens}
    return {named(sizes): {"mesh": dict(sizes), **shared} for sizes in (ONE, *setup.meshes)}


def run(workspace: Workspace, setup: MeshSetup, cell: Cell) -> Result:
    """Edit, read, score and answer on a mesh; compare states and parameters with one device."""
    own, single = upon(workspace, cell["mesh"]), upon(workspace, ONE)
    plugin = own.plugin(DATASET, own.settings())
    own.base.cache_clear()  # simulated devices share one memory
    records = own.records(DATASET)
    pairs = [Pair(record.prompt, record.target) for record in records]
    pairs += [record.locality[0] for record in records]
    prompts = [pair.prompt for pair in pairs]
    tokens = {}
    for preset in cell["rules"]:
        ensemble = own.ensemble(plugin, setup.targets, {"preset": preset, "gate": "both"})
        tokens[preset] = [
            [text.before.tolist() + text.after.tolist() for text in texts]
            for texts in ensemble.score(pairs).targets
        ]
    ensemble = own.ensemble(plugin, setup.targets, {"preset": cell["rules"][0]})
    answers = ensemble.generate(prompts, max_new_tokens=cell["answer_tokens"])
    states = hidden(ensemble, prompts)
    reference = single.plugin(DATASET, single.settings())
    expected = hidden(single.ensemble(reference, setup.targets), prompts)
    params = [
        [to_host(leaf) for leaf in jax.tree.leaves(edited.params)] for edited in (plugin, reference)
    ]
    return {
        "tokens": tokens,
        "answers": [[list(map(digest, texts)) for texts in answers.before + answers.after]],
        "alphas": answers.alphas.tolist(),
        "states": furthest(states, expected),
        "parameters": furthest(*params),
    }


def upon(workspace: Workspace, sizes: Mapping[str, int]) -> Workspace:
    """A workspace on a mesh, with a folder of its own for what is edited there."""
    count, there = math.prod(sizes.values()), jax.devices()
    if count > len(there):
        raise InputError(
            f"mesh {named(sizes)}: {count} devices, there are {len(there)}; set "
            f"JAX_NUM_CPU_DEVICES={count} to simulate them"
        )
    work = workspace.work / "meshes" / named(sizes)
    return Workspace(workspace.data, work, workspace.setup, make_mesh(sizes, there[:count]))


def hidden(ensemble: Ensemble, prompts: Sequence[str]) -> list[NDArray[np.float32]]:
    """The states `[N, D]` after prompts of the plug-in and of every target."""
    plugin = ensemble.plugin
    models = [(plugin.params, plugin.config, plugin.tokenizer)] + [
        (target.model.params, target.model.config, target.tokenizer) for target in ensemble.targets
    ]
    return [
        states_after(params, config, [tokenizer.encode(prompt) for prompt in prompts])
        for params, config, tokenizer in models
    ]


def furthest(arrays: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference of two lists of arrays, as a share of an array's largest entry.

    NaN where an entry is no number, which the results hold as null.
    """
    shares = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(arrays, expected, strict=True)]
    return float(np.max(shares))  # not `max`, which passes a NaN over


def same(leaves: Any, expected: Any) -> float:
    """Share of the leaves of two equal trees of lists that are the same."""
    pairs = zip(jax.tree.leaves(leaves), jax.tree.leaves(expected), strict=True)
    return float(np.mean([a == b for a, b in pairs]))


def tables(setup: MeshSetup, results: Results) -> Sequence[Table]:
    """A row a mesh, each beside one device."""
    one = results[named(ONE)]
    rows = [
        [
            name,
            *(_shown(result[what]) for what in ("parameters", "states")),
            float(np.abs(np.subtract(result["alphas"], one["alphas"])).max()),
            *(same(result[what], one[what]) for what in ("tokens", "answers")),
        ]
        for name, result in results.items()
        if name != named(ONE)
    ]
    return [
        Table(
            "differences",
            "Largest differences from one device (of parameters and states as a share of an "
            "array's largest entry), and the share of tokens and answers that are the same.",
            ("mesh", "parameters", "states", "alpha", "same tokens", "same answers"),
            rows,
        )
    ]


def _shown(share: float | None) -> str:
    return "no number" if share is None else f"{share:.1e}"


EXPERIMENT = Experiment(TITLE, QUESTION, MeshSetup, cells, run, tables)
