"""Does the gate know the facts it was never told of? Templates held out of its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework.definition import (
    Cell,
    Experiment,
    Figure,
    Page,
    Result,
    Setup,
    Table,
    judged,
)
from experiments.framework.workspace import Lab
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.text.tokenizer import Tokenizer

KINDS = ("token", "both")
HIGH = 0.7
LEARNT = 0.95  # Rel under it: of edits that are not learnt, nothing is there to be known
SLOT = "{}"
TOLD, UNTOLD, UNEDITED = "gate was told", "held out", "unedited, held-out template"


@dataclass(frozen=True)
class CrossSetup(Setup):
    """What is held out.

    Attributes:
      datasets: whose edits; every edit needs a subject in its prompt.
      share: of the templates whose edits the gate is not told of.
      others: unedited prompts of these templates.
    """

    datasets: Sequence[str] = ("zsre", "counterfact")
    share: float = 0.3
    others: int = 100


def cells(setup: CrossSetup) -> Mapping[str, Cell]:
    """One a data set."""
    shared = {"share": setup.share, "others": setup.others}
    return {name: {"dataset": name, **shared} for name in setup.datasets}


def run(lab: Lab, setup: CrossSetup, cell: Cell) -> Result:
    """Edit with the gate told of some templates only; alpha of everything, and Loc of the rest."""
    dataset, records = cell["dataset"], lab.records(cell["dataset"])
    held = held_out(records, cell["share"], setup.seed)
    ungated = [i for i, record in enumerate(records) if template(record) in held]
    if not ungated:
        raise InputError(f"{dataset}: no edit of {len(records)} is held out; raise share or limit")
    # No example shows a template in other words, and no unrelated row has a held-out one's form:
    # the gate sees none of them in any way.
    rows = [row for row in lab.unrelated(dataset) if not any(has_form(row, form) for form in held)]
    plugin = lab.edit(dataset, records, lab.settings(), unrelated=rows, ungated=ungated)
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
    unedited = unedited_prompts(lab, dataset, records, held, cell["others"])
    groups[UNEDITED] = [pair.prompt for pair in unedited]
    groups = {name: prompts for name, prompts in groups.items() if prompts}
    locality = {}
    for kind in KINDS:
        ensemble = lab.ensemble(plugin, setup.targets, fusion=lab.rule("draft", gate=kind))
        locality[kind] = lab.locality(ensemble, unedited)
    return {
        "held": len(held),
        "ungated": len(ungated),
        "learnt": plugin_alone(plugin, [records[i] for i in ungated]).rel.value,
        "alphas": {
            kind: {name: plugin.alphas(prompts, kind).tolist() for name, prompts in groups.items()}
            for kind in KINDS
        },
        "locality": locality,
    }


def template(record: EditRecord) -> str | None:
    """The prompt with a slot for its subject; None where it is not there."""
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
    lab: Lab, dataset: str, records: Sequence[EditRecord], held: frozenset[str], count: int
) -> list[Pair]:
    """Held-out templates about subjects that no edit has, out of the training split."""
    known = {record.subject for record in records}
    found = [
        Pair(form.replace(SLOT, other.subject), other.true_answers[0])
        for other in lab.examples(dataset)
        for form in sorted(held)
        if other.subject and other.true_answers and other.subject not in known
        # A question of that very form if there is one; else any subject lends its name.
        if dataset == "zsre" or has_form(other, form)
    ]
    order = np.random.default_rng([lab.setup.seed, 6]).permutation(len(found)).tolist()
    return [found[i] for i in order[:count]]


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


def page(setup: CrossSetup, results: Mapping[str, Result]) -> Page:
    """Mean alpha of every group, and locality where nothing was edited."""
    rows, told, opened = [], [], []
    learnt = all(result["learnt"] >= LEARNT for result in results.values())
    for dataset, result in results.items():
        told.append(
            f"{dataset}: the plug-in by itself has Rel {result['learnt']:.3f} on the "
            f"{result['ungated']} edits whose templates are held out."
        )
        for kind, groups in result["alphas"].items():
            for name, alphas in groups.items():
                high = float(np.mean(np.array(alphas) > HIGH))
                loc = min(result["locality"][kind]) if name == UNEDITED else None
                rows.append([dataset, kind, name, len(alphas), float(np.mean(alphas)), high, loc])
            mean = float(np.mean(groups[f"{UNTOLD}: edits"]))
            loc = min(result["locality"][kind])
            if kind == "token":
                opened.append((dataset, mean, float(np.mean(groups[UNEDITED])), loc))
            told.append(
                f"{dataset}, `{kind}`: mean alpha {mean:.3f} on the {result['ungated']} edits the "
                f"gate was not told of ({'above' if mean > HIGH else 'not above'} {HIGH}), "
                f"{float(np.mean(groups[f'{TOLD}: edits'])):.3f} on the others; Loc {loc:.3f} on "
                "unedited prompts of the held-out templates (the worse target)."
            )

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        for axes, (dataset, result) in zip(panels, results.items(), strict=True):
            names = [f"{UNTOLD}: edits", f"{TOLD}: edits", UNEDITED]
            for offset, kind in enumerate(KINDS):
                means = [float(np.mean(result["alphas"][kind][name])) for name in names]
                axes.bar(np.arange(len(names)) + 0.4 * offset, means, 0.4, label=kind)
            axes.set(title=dataset, ylim=(0, 1), ylabel="mean alpha")
            axes.set_xticks(np.arange(len(names)) + 0.2, ["held out", "told", "unedited"])
        panels[-1].legend()

    return Page(
        " ".join(told),
        judged(
            "[WEIGHT] knows what the plug-in has learnt, and not only the form of prompts",
            all(mean > HIGH and loc > HIGH for _, mean, _, loc in opened)
            if opened and learnt
            else None,
            "; ".join(
                f"{dataset}: mean alpha {mean:.2f} on edits it was not told of, {unedited:.2f} on "
                f"unedited prompts of their form, where Loc is {loc:.2f}"
                for dataset, mean, unedited, loc in opened
            )
            or "it is not measured",
        ),
        [
            Table(
                "Alpha by kind of prompt",
                ("edits", "gate", "prompts", "number", "mean", f"share > {HIGH}", "Loc"),
                rows,
            )
        ],
        [Figure("alphas", "Mean alpha where the gate was told, was not told, and must not.", draw)],
    )


EXPERIMENT = Experiment(
    title="Templates that the gate was never told of",
    expected=(
        "If [WEIGHT] reads what the plug-in has learnt, as the paper has it, it opens for an edit "
        "whose answer was trained and whose prompt the gate never saw: alpha above .7. If it reads "
        "the form of prompts, it stays closed there, and opens for unedited prompts of forms that "
        "it knows. The scope memory knows all edits by their subjects. Nothing is learnt in other "
        "words here, which would show the gate what is held out."
    ),
    setup=CrossSetup,
    cells=cells,
    run=run,
    page=page,
)
