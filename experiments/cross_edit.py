"""Templates that are held out of the gate's training: does it know the edits all the same?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.gates.registry import gate_by_name
from onceedit_jax.text.tokenizer import Tokenizer

TITLE = "Templates held out of the gate's training"
QUESTION = "Does the gate open for an edit whose form of prompt it was never trained on?"

KINDS = ("token", "both")
HIGH = 0.7
SLOT = "{}"
# Groups of prompts, as results name them.
TOLD, UNTOLD, UNEDITED = "gate was told", "held out", "unedited, held-out template"
SHOWN = {TOLD: "in the gate's training", UNTOLD: "held out"}


@dataclass(frozen=True)
class CrossSetup(Setup):
    """What is held out.

    Attributes:
      datasets: whose edits; every edit needs a subject in its prompt.
      share: of the templates, whose edits are held out of the gate's training.
      others: number of unedited prompts of these templates.
    """

    datasets: Sequence[str] = ("zsre", "counterfact")
    share: float = 0.3
    others: int = 100


def cells(setup: CrossSetup) -> Mapping[str, Cell]:
    """One cell a data set."""
    shared = {"share": setup.share, "others": setup.others}
    return {name: {"dataset": name, **shared} for name in setup.datasets}


def run(workspace: Workspace, setup: CrossSetup, cell: Cell) -> Result:
    """Edit with templates held out; alpha of every group, and Loc of the unedited prompts."""
    dataset, records = cell["dataset"], workspace.records(cell["dataset"])
    held = held_out(records, cell["share"], setup.seed)
    ungated = [i for i, record in enumerate(records) if template(record) in held]
    if not ungated:
        raise InputError(f"{dataset}: no edit of {len(records)} is held out; raise share or limit")
    # No example shows a template in other words, and no unrelated row has a held-out one's form:
    # the gate sees none of them in any way.
    rows = [
        row for row in workspace.unrelated(dataset) if not any(has_form(row, form) for form in held)
    ]
    plugin = workspace.edit(dataset, records, workspace.settings(), unrelated=rows, ungated=ungated)
    groups: dict[str, list[str]] = {}
    for name, members in ((UNTOLD, ungated), (TOLD, sorted({*range(len(records))} - {*ungated}))):
        chosen = [records[i] for i in members]
        rare, common = by_rarity(chosen, plugin.tokenizer)
        groups |= {
            f"{name}: edits": [record.prompt for record in chosen],
            f"{name}: edits, rare subjects": [record.prompt for record in rare],
            f"{name}: edits, common subjects": [record.prompt for record in common],
            f"{name}: rephrases": [record.rephrase for record in chosen if record.rephrase],
            f"{name}: one-hop questions": [p.prompt for r in chosen for p in r.portability],
        }
    unedited = unedited_prompts(workspace, dataset, records, held, cell["others"])
    groups[UNEDITED] = [pair.prompt for pair in unedited]
    groups = {name: prompts for name, prompts in groups.items() if prompts}
    locality = {}
    for kind in KINDS:
        rule = {"preset": "draft", "gate": kind}
        ensemble = workspace.ensemble(plugin, setup.targets, rule)
        locality[kind] = workspace.locality(ensemble, unedited)
    return {
        "held": len(held),
        "ungated": len(ungated),
        "learnt": plugin_alone(plugin, [records[i] for i in ungated]).rel.value,
        "alphas": {
            kind: {name: plugin.alphas(prompts, gate).tolist() for name, prompts in groups.items()}
            for kind, gate in ((kind, gate_by_name(kind)) for kind in KINDS)
        },
        "locality": locality,
    }


def template(record: EditRecord) -> str | None:
    """The prompt with a slot for its subject; None where the subject is not in it."""
    if not record.subject or record.subject not in record.prompt:
        return None
    return record.prompt.replace(record.subject, SLOT)


def held_out(records: Sequence[EditRecord], share: float, seed: int) -> frozenset[str]:
    """A share of the edits' templates, by the seed."""
    forms = sorted({form for record in records if (form := template(record))})
    order = np.random.default_rng([seed, 5]).permutation(len(forms)).tolist()
    return frozenset(forms[i] for i in order[: round(share * len(forms))])


def has_form(row: UnrelatedRow | EditRecord, form: str) -> bool:
    """Whether a prompt is the template about something else."""
    begin, end = form.split(SLOT, 1)
    return row.prompt.startswith(begin) and row.prompt.endswith(end)


def unedited_prompts(
    workspace: Workspace,
    dataset: str,
    records: Sequence[EditRecord],
    held: frozenset[str],
    count: int,
) -> list[Pair]:
    """Held-out templates about subjects that no edit has, out of the training split."""
    edited = {record.subject for record in records}
    pairs = [
        Pair(form.replace(SLOT, other.subject), other.true_answers[0])
        for other in workspace.examples(dataset)
        for form in sorted(held)
        if other.subject and other.true_answers and other.subject not in edited
        # A question of that very form if there is one; else any subject lends its name.
        if dataset == "zsre" or has_form(other, form)
    ]
    order = np.random.default_rng([workspace.setup.seed, 6]).permutation(len(pairs)).tolist()
    return [pairs[i] for i in order[:count]]


def by_rarity(
    records: Sequence[EditRecord], tokenizer: Tokenizer
) -> tuple[list[EditRecord], list[EditRecord]]:
    """Records with rare and with common subjects, halves by the mean id of the subject's tokens.

    A BPE vocabulary lists its merges from the most frequent on: high ids are rare pieces.
    """
    ids = [float(np.mean(tokenizer.encode(f" {record.subject}"))) for record in records]
    middle = float(np.median(ids)) if ids else 0.0
    return (
        [r for r, mean in zip(records, ids, strict=True) if mean > middle],
        [r for r, mean in zip(records, ids, strict=True) if mean <= middle],
    )


def tables(setup: CrossSetup, results: Results) -> Sequence[Table]:
    """Mean alpha of every group, locality of the unedited prompts, and what was learnt."""
    alphas = [
        [
            dataset,
            kind,
            _shown(name),
            len(values),
            float(np.mean(values)),
            float(np.mean(np.array(values) > HIGH)),
            min(result["locality"][kind]) if name == UNEDITED else None,
        ]
        for dataset, result in results.items()
        for kind, groups in result["alphas"].items()
        for name, values in groups.items()
    ]
    return [
        Table(
            "learnt",
            "Edits whose templates are held out, and the plug-in's own Rel on them.",
            ("edits", "templates held out", "edits held out", "Rel of the plug-in"),
            [[name, r["held"], r["ungated"], r["learnt"]] for name, r in results.items()],
        ),
        Table(
            "alphas",
            "Alpha by kind of prompt. Loc is the worse target's.",
            ("edits", "gate", "prompts", "number", "mean", f"share > {HIGH}", "Loc"),
            alphas,
        ),
    ]


def _shown(group: str) -> str:
    """A group's name on the page."""
    name, colon, rest = group.partition(":")
    return SHOWN.get(name, name) + colon + rest


def figures(setup: CrossSetup, results: Results) -> Sequence[Figure]:
    """Mean alpha by gate, a panel a data set."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        for axes, (dataset, result) in zip(panels, results.items(), strict=True):
            names = [f"{UNTOLD}: edits", f"{TOLD}: edits", UNEDITED]
            for offset, kind in enumerate(KINDS):
                means = [float(np.mean(result["alphas"][kind][name])) for name in names]
                axes.bar(np.arange(len(names)) + 0.4 * offset, means, 0.4, label=kind)
            axes.set(title=dataset, ylim=(0, 1), ylabel="mean alpha")
            axes.set_xticks(np.arange(len(names)) + 0.2, ["held out", "trained", "unedited"])
        panels[-1].legend()

    caption = (
        "Mean alpha on edits held out of the gate's training, on edits in it, and on unedited "
        "prompts of the held-out templates."
    )
    return [Figure("alphas", caption, draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, CrossSetup, cells, run, tables, figures)
