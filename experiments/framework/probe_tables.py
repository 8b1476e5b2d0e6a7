"""Tables of what methods answer to probes, over all facts of all draws, with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.framework.definition import Result, Table
from onceedit_jax.evaluation.check import Checked
from onceedit_jax.evaluation.probes import interval

FORMS = "form: "
MAIN = (
    "Rel", "Gen", "Forms", "Worst form", "Sentence", "In a text", "Same subject",
    "Same subject: intrusion", "Same subject, in a text", "Another time or person",
    "Same relation", "Unrelated", "Long",
)  # fmt: skip
REASONED = ("Reversed", "Yes", "No", "Negated", "2-hop", "3-hop")
COMPARED = ("Rel", "Gen", "Forms", "Same subject")  # their mean is what methods are compared by
OURS = "one edit"
Values = Mapping[str, Mapping[str, float]]  # by column, then by fact


def by_fact(each: Checked) -> dict[str, dict[int, float]]:
    """What a result stores of a check: by column, the mean of each fact."""
    return {
        name: {fact: round(value, 4) for fact, value in column.by_fact.items()}
        for name, column in each.columns.items()
    }


def probe_tables(groups: Mapping[str, Sequence[Result]]) -> list[Table]:
    """The worse target of each method, every target, and what `OURS` differs from others by.

    A column that nothing was asked for is left out.

    Args:
      groups: by label, the results of draws that are averaged. `methods` of a result has for each
        method its targets' values, as `by_fact` gives them.
    """
    main: list[list[object]] = []
    targets: list[list[object]] = []
    reasoned: list[list[object]] = []
    against: list[list[object]] = []
    of_groups = {label: _pooled(measured) for label, measured in groups.items()}
    columns = [
        values
        for methods in of_groups.values()
        for targets_of in methods.values()
        for values in targets_of.values()
    ]
    names = [name for name in MAIN if any(values.get(name) for values in columns)]
    for label, pooled in of_groups.items():
        ours = pooled.get(OURS, {})
        for method, found in pooled.items():
            main.append([label, method, *(with_interval(*_worse(found, name)) for name in names)])
            reasoned.append([label, method, *(_worse(found, name)[0] for name in REASONED)])
            targets += [
                [label, target, method, *(_mean(values, name)[0] for name in names)]
                for target, values in found.items()
            ]
            against += [
                [label, target, method, with_interval(*_difference(ours[target], values))]
                for target, values in found.items()
                if method != OURS and target in ours
            ]
    return [
        Table(
            "columns",
            "Free generation: the worse target of each column, the mean over all facts of all "
            "draws with its 95% bootstrap interval. Forms: the mean of twelve. Intrusion: the "
            "edited fact is said where something else was asked.",
            ("facts", "method", *names),
            main,
        ),
        Table(
            "against",
            f"{OURS[0].upper()}{OURS[1:]} less the other method: the mean of "
            f"{', '.join(COMPARED)}, paired by fact, with its 95% bootstrap interval.",
            ("facts", "target", "other method", "difference"),
            against,
        ),
        Table("targets", "Each target apart.", ("facts", "target", "method", *names), targets),
        Table(
            "reasoned",
            "Questions that need more than the edit's own answer, the worse target: the share of "
            "right answers.",
            ("facts", "method", *REASONED),
            reasoned,
        ),
    ]


def _pooled(measured: Sequence[Result]) -> dict[str, dict[str, Values]]:
    """By method and target, the columns over the facts of all draws."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for draw_number, cell in enumerate(measured):
        for method, targets in cell["methods"].items():
            for target, columns in targets.items():
                own = found.setdefault(method, {}).setdefault(target, {})
                for name, facts in _with_forms(columns).items():
                    values = own.setdefault(name, {})
                    values.update({f"{draw_number}/{fact}": v for fact, v in facts.items()})
    return {
        method: {target: _with_worst(columns) for target, columns in targets.items()}
        for method, targets in found.items()
    }


def _with_forms(columns: Values) -> Values:
    """The columns and, as one more, each fact's mean over the forms."""
    forms = [values for name, values in columns.items() if name.startswith(FORMS)]
    facts = forms[0] if forms else {}
    means = {fact: float(np.mean([form[fact] for form in forms])) for fact in facts}
    return {**columns, "Forms": means}


def _with_worst(columns: Values) -> Values:
    """The columns and, as one more, the form whose mean is lowest."""
    forms = [values for name, values in columns.items() if name.startswith(FORMS)]
    worst = min(forms, key=lambda form: float(np.mean(list(form.values()))), default={})
    return {**columns, "Worst form": worst}


def _mean(columns: Values, name: str) -> tuple[float | None, ...]:
    """A column's mean and interval; None where it has no probe."""
    values = np.array(list(columns.get(name, {}).values()))
    return (float(values.mean()), *interval(values)) if len(values) else (None, None, None)


def _worse(found: Mapping[str, Values], name: str) -> tuple[float | None, ...]:
    """The mean and interval of the target where a column is worse."""
    means = [mean for columns in found.values() if (mean := _mean(columns, name))[0] is not None]
    if not means:
        return (None, None, None)
    return (max if name.endswith("intrusion") else min)(means)


def _difference(ours: Values, other: Values) -> tuple[float | None, ...]:
    """How much better we are, paired by fact, over facts that have all columns compared."""
    facts = sorted(set.intersection(*(set(ours.get(name, ())) for name in COMPARED)))
    differences = {
        fact: float(np.mean([ours[name][fact] - other[name][fact] for name in COMPARED]))
        for fact in facts
    }
    return _mean({"difference": differences}, "difference")


def with_interval(mean: float | None, low: float | None, high: float | None) -> str | None:
    """A mean and its interval as a table shows them."""
    return None if mean is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"
