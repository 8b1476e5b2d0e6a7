"""ZsRE: reliability, generality, and locality measured four ways, by fusion rule and gate.

Every ZsRE locality prompt begins with "nq question:" and no edit prompt does, so that a gate could
pass by reading the format. Locality is therefore measured on

- `given`: the data set's own prompts, with a plug-in trained on unrelated rows as they are;
- `stripped`: the same without the prefix, in training and evaluation;
- `same form`: questions of other ZsRE records, in the edits' own form, none of them edited;
- `plain text`: running text.

    python experiments/zsre_localities.py --data FOLDER --out DIR

FOLDER holds zsre_eval.json, zsre_train.json, zsre_unrelated_nq.json and me_ppl.json. A run that was
interrupted goes on where it was: plug-ins and rows that are in DIR, from the same settings, stay.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import onceedit_jax as oe
from onceedit_jax.console import editing_progress, table_progress
from onceedit_jax.data.records import without_nq
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.evaluation.report import write_json
from onceedit_jax.fusion import PRESETS
from onceedit_jax.versions import versions

RELATIVE = dataclasses.replace(PRESETS["relative"], gate="both")
RULES = {
    "draft": PRESETS["draft"],
    "vocabulary": PRESETS["vocabulary"],
    "relative, lookup": RELATIVE,
    "relative, gradient": dataclasses.replace(RELATIVE, search="gradient"),
    "draft, token gate": dataclasses.replace(PRESETS["draft"], gate="token"),
    "relative, lookup, token gate": PRESETS["relative"],
}


def main(
    data: Path,
    out: Path,
    plugin: str = "demo:smollm2-135m",
    targets: tuple[str, ...] = ("demo:gemma3-270m", "demo:smollm2-135m"),
    limit: int = 50,
    others: int = 200,
    rules: tuple[str, ...] = tuple(RULES),
    settings: oe.EditSettings = oe.EditSettings(),  # noqa: B008 (frozen)
) -> None:
    """Edit twice (unrelated rows as they are, and stripped), score every rule and locality.

    Args:
        data: folder of the data sets.
        out: folder for the edited plug-ins and results.json.
        plugin: the plug-in.
        targets: the target LLMs.
        limit: number of edits.
        others: questions of `same form`, and texts of `plain text`.
        rules: which of the fusion rules.
        settings: the editing stage.
    """
    given = oe.load_records(data / "zsre_eval.json", limit=limit)
    unrelated = oe.load_unrelated(data / "zsre_unrelated_nq.json")
    tokenizer, model = oe.load_tokenizer(plugin), oe.load_model(plugin)
    loaded = [oe.load_target(target) for target in targets]
    same_form = [
        oe.Pair(record.prompt, record.true_answers[0])
        for record in oe.load_records(data / "zsre_train.json", limit=others)
        if record.true_answers
    ]
    plain = [pair for pair in map(_halves, oe.load_unrelated(data / "me_ppl.json")) if pair][
        :others
    ]
    console, results = Console(soft_wrap=True), out / "results.json"
    rows = _rows_of_earlier_run(results, settings, limit, others)
    done = {(row["plugin"], row["rule"]) for row in rows}
    for form in ("stripped", "given"):
        records = given if form == "given" else [without_nq(record) for record in given]
        texts = unrelated if form == "given" else [without_nq(row) for row in unrelated]
        if any(plugin == form for plugin, _ in done):
            edited = oe.EditedPlugin.load(out / form)
        else:
            with editing_progress() as on_step:
                edited = oe.edit(model, tokenizer, records, texts, settings, on_step=on_step)
            edited.save(out / form)
            alone = plugin_alone(edited, records).as_dict()
            rows.append({"plugin": form, "target": "(plug-in alone)", "rule": "-", **alone})
        for rule in (rule for rule in rules if (form, rule) not in done):
            with table_progress() as on_block:
                ensemble = oe.Ensemble(edited, loaded, fusion=RULES[rule], on_block=on_block)
            found = oe.evaluate(ensemble, records)
            local = {
                "same form": _locality(ensemble, same_form),
                "plain text": _locality(ensemble, plain),
            }
            for t, result in enumerate(found.results):
                rows.append(
                    {
                        "plugin": form,
                        "target": result["target"],
                        "rule": rule,
                        "contradicting": result["contradicting"],
                        **result["after"],
                        **{name: values[t] for name, values in local.items()},
                        "alpha_threshold": ensemble.threshold,
                    }
                )
            write_json(
                results,
                {
                    "rows": rows,
                    "settings": settings.as_dict(),
                    "limit": limit,
                    "others": others,
                    "versions": versions(),
                },
            )
    table = Table("plug-in", "target", "rule", "Rel", "Gen", "Loc", "same form", "plain text")
    for row in rows:
        numbers = [row.get(name) for name in ("rel", "gen", "loc", "same form", "plain text")]
        shown = ["-" if value is None else f"{value:.3f}" for value in numbers]
        table.add_row(row["plugin"], row["target"], row["rule"], *shown)
    console.print(table)
    console.print(f"written: {results}")


def _rows_of_earlier_run(
    results: Path, settings: oe.EditSettings, limit: int, others: int
) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    earlier = json.loads(results.read_text(encoding="utf-8"))
    same = {"settings": settings.as_dict(), "limit": limit, "others": others}
    return earlier["rows"] if same.items() <= earlier.items() else []


def _locality(ensemble: oe.Ensemble, pairs: Sequence[oe.Pair]) -> list[float]:
    """Each target's agreement with itself before, averaged over texts."""
    return [
        float(np.mean([np.mean(text.before == text.after) for text in texts]))
        for texts in ensemble.score(pairs).targets
    ]


def _halves(row: oe.UnrelatedRow) -> oe.Pair | None:
    """Twelve words of a text as the prompt, the next six as what follows it."""
    words = row.prompt.split()
    return oe.Pair(" ".join(words[:12]), " ".join(words[12:18])) if len(words) >= 18 else None


if __name__ == "__main__":
    tyro.cli(main)
