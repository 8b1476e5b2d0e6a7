"""Tables of probes: means over the facts of all draws, the worse target, paired differences."""

from experiments.framework.probe_tables import OURS, by_fact, probe_tables
from onceedit_jax.evaluation.check import checked
from onceedit_jax.evaluation.probes import Probe

COLUMNS = ("Rel", "Gen", "form: lower case", "form: newline after")


def draw(said, other):
    """Two facts asked of two targets: `said` is right where it is "x"; the other method's too."""
    probes = [Probe(column, fact, column, "x") for fact in (0, 1) for column in COLUMNS]
    probes += [Probe("Same subject", fact, "s", "x", "unchanged") for fact in (0, 1)]
    before = ["old"] * len(probes)

    def values(answers):
        return by_fact(checked("", probes, before, [*answers, "old", "x"]))

    return {
        "methods": {
            OURS: {"a": values(said), "b": values(["x"] * 8)},
            "other": {"a": values(other), "b": values(["x"] * 8)},
        }
    }


def tables(*draws):
    made = probe_tables({f"2 facts, {len(draws)} draws": draws})
    return {table.name: [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            for table in made}  # fmt: skip


def mean(shown):
    return float(shown.split()[0])


def test_facts_of_all_draws_count_alike_and_the_worse_target_is_shown():
    right, wrong = ["x"] * 4, ["y"] * 4
    found = tables(draw([*right, *right], [*right, *wrong]), draw([*right, *wrong], [*wrong] * 2))
    ours, other = found["columns"]
    assert (mean(ours["Rel"]), mean(other["Rel"])) == (0.75, 0.25)
    assert mean(ours["Same subject"]) == mean(ours["Same subject: intrusion"]) == 0.5
    by_target = {(row["target"], row["method"]): row["Rel"] for row in found["targets"]}
    assert by_target["a", OURS] == 0.75 and by_target["b", "other"] == 1
    assert "Long" not in ours and found["reasoned"][0]["2-hop"] is None


def test_forms_are_averaged_and_the_worst_of_them_is_named():
    lower_case_wrong = ["x", "x", "y", "x"]
    ours = tables(draw([*lower_case_wrong, *["x"] * 4], ["x"] * 8))["columns"][0]
    assert (mean(ours["Forms"]), mean(ours["Worst form"])) == (0.75, 0.5)


def test_methods_are_compared_fact_by_fact():
    rows = tables(draw(["x"] * 8, [*["x"] * 4, *["y"] * 4]))["against"]
    difference = {row["target"]: row["difference"] for row in rows}
    # Of Rel, Gen, Forms and Same subject the other method gets three wrong for one fact of two.
    assert difference == {"a": "0.375 (0.000 to 0.750)", "b": "0.000 (0.000 to 0.000)"}
