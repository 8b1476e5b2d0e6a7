"""What `onceedit evaluate`, `check` and `generate` print: tables that fit, texts as they are."""

import io

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onceedit_jax.cli.check import print_check
from onceedit_jax.cli.console import SafeConsole
from onceedit_jax.cli.evaluate import kinds_table, scores_table
from onceedit_jax.cli.generate import print_answers
from onceedit_jax.ensemble import Answers
from onceedit_jax.evaluation.check import checked
from onceedit_jax.evaluation.check_from_files import CheckReport
from onceedit_jax.evaluation.probes import Probe

FINE = {"rel": 1.0, "gen": 0.9, "loc": 0.99, "avg": 0.963}
START = {"rel": 0.1, "gen": 0.2, "loc": 1.0, "avg": 0.433}


def result(target="gemma", mode="teacher-forced", search="none", after=FINE):
    return {
        "target": target,
        "mode": mode,
        "fusion": "relative" if search != "none" else "vocabulary",
        "search": search,
        "contradicting": 2,
        "before": START,
        "after": after,
        "consistent": None,
    }


def printed(value) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(value)
    return out.getvalue()


def test_the_table_tells_scores_without_contradicting_edits():
    opposed = {**result(), "consistent": {"before": START, "after": {**FINE, "rel": 0.875}}}
    assert "without its 2 contradicting edits: Rel 0.875" in printed(scores_table([opposed]))
    assert "contradicting" not in printed(scores_table([result()]))


def test_the_table_has_a_row_a_target_and_mode_and_fits_100_columns():
    results = [
        result(target, mode, "gradient")
        for target in ("demo:gemma3-270m", "an-owner/of-a-model-with-a-long-name-7b")
        for mode in ("teacher-forced", "generate")
    ]
    table = scores_table(results, plugin={"rel": 1.0, "gen": None})
    assert table.row_count == 4
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 100
    (row,) = [
        line for line in text.splitlines() if "demo:gemma3-270m" in line and "teacher" in line
    ]
    assert row.split() == [
        *("demo:gemma3-270m", "teacher-forced", "relative/gradient"),
        *("0.100", "0.200", "1.000", "0.433"),
        *("1.000", "0.900", "0.990", "0.963"),
    ]
    assert "plug-in alone: Rel 1.000, Gen -" in text


def test_absent_scores_and_bracketed_names_are_shown_as_they_are():
    text = printed(scores_table([result("[bold]x", after={**FINE, "gen": None, "avg": None})]))
    assert "[bold]x" in text
    assert text.split()[-3:] == ["-", "0.990", "-"]


def test_what_a_model_writes_is_printed_as_it_is(capsys):
    written = [["[/INST] [bold]yes"]]
    answers = Answers(
        np.ones(1, np.float32), np.array([3], np.int32), written, written, [], np.zeros(1, bool)
    )
    print_answers(["Who is [/b]?"], ["a-target"], answers, [1, 2, 3, 41])
    printed_text = capsys.readouterr().out
    assert "│ 41 " in printed_text.replace("|", "│")
    assert "[/INST] [bold]yes" in printed_text and "Who is [/b]?" in printed_text


def test_wrong_answers_are_listed_a_column_after_another(capsys):
    probes = [
        Probe("Rel", 0, "Who leads [b]?", "Ada"),
        Probe("Rel", 1, "Who rules?", "Bo"),
        Probe("Same subject", 1, "When?", "Bo", "unchanged"),
    ]
    rows = {"alphas": [0.9, 0.9, 0.2], "edits": [0, 1, -1]}
    target = checked("a-target", probes, ["Cy", "Cy", "1900"], ["Cy", "", "Bo"], **rows)
    report = CheckReport(probes, [target], [41, 42])
    assert [probe.prompt for probe, _ in report.wrong(target)] == [
        "Who leads [b]?", "When?", "Who rules?",
    ]  # fmt: skip
    print_check(report, show=2)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Rel 0.00 0.00 to 0.00 2 2" in text and "Same subject: intrusion 1.00" in text
    assert "a-target: 2 of 3 wrong answers" in text
    assert "Who leads [b]? Cy Cy Ada 0.90 41" in text
    assert "When? 1900 Bo as before 0.20 -" in text
    assert "Who rules?" not in text
    right = checked("a-target", probes[:1], ["Cy"], ["Ada"], **{k: v[:1] for k, v in rows.items()})
    print_check(CheckReport(probes[:1], [right], [41, 42]), show=2)
    assert "a-target: 0 wrong answers" in capsys.readouterr().out


def with_kinds(value):
    by_kind = {"Reasoning": {"value": value, "records": 12}, "Alias": {"value": None, "records": 0}}
    return {**FINE, "kinds": {"portability": {"mean": value, "by_kind": by_kind}}}


def test_kinds_have_rows_of_their_own_and_a_mean():
    found = {**result(), "before": with_kinds(0.25), "after": with_kinds(0.75)}
    text = " ".join(printed(kinds_table([found, result()])).split())
    assert "gemma teacher-forced portability: Reasoning 0.250 0.750 12" in text
    assert "gemma teacher-forced portability: Alias - - 0" in text
    assert "gemma teacher-forced portability: mean of the kinds 0.250 0.750" in text
    assert kinds_table([result()]) is None


ESCAPE = "\x1b]0;title\x07\x1b[2J"


def test_control_sequences_are_shown_wherever_they_stand():
    out = io.StringIO()
    console = SafeConsole(file=out, width=200, markup=False, force_terminal=True, color_system=None)
    table = Table(f"header {ESCAPE}", title=f"title {ESCAPE}", caption=f"caption {ESCAPE}")
    table.add_row(f"cell {ESCAPE}")
    table.add_row(Text(f"text {ESCAPE}"))
    console.print(table)
    console.print(scores_table([result(f"model {ESCAPE}")], plugin=None))
    console.print(f"line {ESCAPE}", soft_wrap=True)
    text = out.getvalue()
    assert "\x1b" not in text and "\x07" not in text
    for place in ("header", "title", "caption", "cell", "line"):
        assert place + r" \x1b]0;title\x07\x1b[2J" in " ".join(text.split())


def test_answers_are_printed_with_escapes(capsys):
    written = [[f"an answer {ESCAPE}"]]
    answers = Answers(
        np.ones(1, np.float32), np.array([0], np.int32), written, written, [], np.zeros(1, bool)
    )
    print_answers([f"Who {ESCAPE}?"], [f"model {ESCAPE}"], answers, [1])
    assert "\x1b" not in capsys.readouterr().out
