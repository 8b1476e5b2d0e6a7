"""Do eight devices give what one gives, on real models?

Where there are not eight devices they are simulated:

    JAX_NUM_CPU_DEVICES=8 onceedit experiment meshes --data FOLDER
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.framework.definition import OPEN, Cell, Experiment, Page, Result, Setup, Table
from experiments.framework.workspace import Lab
from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import Pair
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.mesh import make_mesh, to_host
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.errors import InputError

DATASET = "zsre"
TOLERANCE = 1e-4  # of an array's largest entry
ONE: Mapping[str, int] = {"data": 1}


@dataclass(frozen=True)
class MeshSetup(Setup):
    """What is compared.

    Attributes:
      meshes: sizes of the axes of each.
      rules: presets of the fusion that score; the first one answers as well.
      answer_tokens: of an answer, at most.
    """

    meshes: Sequence[Mapping[str, int]] = ({"data": 8}, {"tensor": 8})
    rules: Sequence[str] = ("draft", "relative")
    answer_tokens: int = 6


def named(sizes: Mapping[str, int]) -> str:
    """How the page calls a mesh; its folder too."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())


def cells(setup: MeshSetup) -> Mapping[str, Cell]:
    """One device, which the others are compared with, and each mesh."""
    shared = {"rules": list(setup.rules), "answer_tokens": setup.answer_tokens}
    return {named(sizes): {"mesh": dict(sizes), **shared} for sizes in (ONE, *setup.meshes)}


def run(lab: Lab, setup: MeshSetup, cell: Cell) -> Result:
    """Edit, read, score and answer on a mesh; states and parameters beside those of one device."""
    own, single = upon(lab, cell["mesh"]), upon(lab, ONE)
    plugin = own.plugin(DATASET, own.settings())
    own.base.cache_clear()  # simulated devices share one memory
    records = own.records(DATASET)
    pairs = [Pair(record.prompt, record.target) for record in records]
    pairs += [record.locality[0] for record in records]
    prompts = [pair.prompt for pair in pairs]
    tokens = {}
    for rule in cell["rules"]:
        ensemble = own.ensemble(plugin, setup.targets, fusion=own.rule(rule, gate="both"))
        tokens[rule] = [
            [text.before.tolist() + text.after.tolist() for text in texts]
            for texts in ensemble.score(pairs).targets
        ]
    ensemble = own.ensemble(plugin, setup.targets, fusion=own.rule(cell["rules"][0]))
    answers = ensemble.generate(prompts, max_new_tokens=cell["answer_tokens"])
    states = hidden(ensemble, prompts)
    reference = single.plugin(DATASET, single.settings())
    wanted = hidden(single.ensemble(reference, setup.targets), prompts)
    params = [
        [to_host(leaf) for leaf in jax.tree.leaves(found.params)] for found in (plugin, reference)
    ]
    return {
        "tokens": tokens,
        "answers": [[list(map(digest, texts)) for texts in answers.before + answers.after]],
        "alphas": answers.alphas.tolist(),
        "states": furthest(states, wanted),
        "parameters": furthest(*params),
    }


def upon(lab: Lab, sizes: Mapping[str, int]) -> Lab:
    """A lab whose models lie on a mesh, with a folder of its own for what is edited there."""
    count, there = math.prod(sizes.values()), jax.devices()
    if count > len(there):
        raise InputError(
            f"mesh {named(sizes)}: {count} devices, there are {len(there)}; set "
            f"JAX_NUM_CPU_DEVICES={count} to simulate them"
        )
    return Lab(
        lab.data, lab.work / "meshes" / named(sizes), lab.setup, make_mesh(sizes, there[:count])
    )


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


def furthest(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> float:
    """The largest difference of two lists of arrays, as a share of an array's largest entry.

    NaN where an entry is no number, which the results hold as null.
    """
    shares = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, wanted, strict=True)]
    return float(np.max(shares))  # not `max`, which passes a NaN over


def same(found: Any, wanted: Any) -> float:
    """Share of the leaves of two equal trees of lists that are the same."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return float(np.mean([a == b for a, b in pairs]))


def page(setup: MeshSetup, results: Mapping[str, Result]) -> Page:
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
    told = "; ".join(
        f"{name}: parameters within {parameters} and states within {states} of their largest "
        f"entry, {tokens:.1%} of the tokens and {answers:.1%} of the answers the same"
        for name, parameters, states, _, tokens, answers in rows
    )
    wrong = [
        name
        for name, result in results.items()
        if any(result[w] is None or result[w] > TOLERANCE for w in ("parameters", "states"))
        or min(same(result[what], one[what]) for what in ("tokens", "answers")) < 1
    ]
    held = f"It does not hold on {' and '.join(wrong)}." if wrong else "It holds."
    return Page(
        f"Beside one device, {told}. {held}" if rows else "One device alone is measured.",
        OPEN,
        [
            Table(
                "Largest differences from one device, and what is the same",
                ("mesh", "parameters", "states", "alpha", "tokens", "answers"),
                rows,
            )
        ],
    )


def _shown(share: float | None) -> str:
    return "no number" if share is None else f"{share:.1e}"


EXPERIMENT = Experiment(
    title="Eight devices and one",
    expected=(
        "Editing, scoring and answering on any mesh give what one device gives: parameters and "
        "states in float32 within 1e-4 of an array's largest entry, the same tokens. SmolLM2 has "
        "9 query heads on 3 key/value heads and Gemma-3 has 4 on 1, which eight devices cannot "
        "share as they are."
    ),
    setup=MeshSetup,
    cells=cells,
    run=run,
    page=page,
)
