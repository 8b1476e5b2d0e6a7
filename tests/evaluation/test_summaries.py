"""Summaries: the documented JSON, files that are whole or absent, and warnings."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.errors import RunError
from onceedit_jax.evaluation.summaries import (
    histogram,
    summary,
    warnings,
    write_json,
    write_jsonl,
)

FINE = {"rel": 1.0, "gen": 0.9, "loc": 0.99, "avg": 0.963}
START = {"rel": 0.1, "gen": 0.2, "loc": 1.0, "avg": 0.433}


def result(target="gemma", mode="teacher-forced", search="none", before=START, after=FINE):
    return {
        "target": target,
        "mode": mode,
        "fusion": "relative" if search != "none" else "vocabulary",
        "search": search,
        "records": 10,
        "contradicting": 2,
        "before": before,
        "after": after,
        "consistent": None,
    }


def warned(*results, alphas=None, losses=None, coverage=None):
    return warnings(results, alphas=alphas or {}, losses=losses or {}, coverage=coverage or {})


def test_the_summary_has_the_documented_keys_and_survives_json(tmp_path):
    whole = summary([result()], plugin={"name": "smollm2"}, settings={"alpha_threshold": 0.5})
    assert list(whole) == ["results", "plugin", "settings", "versions"]
    assert {"python", "jax", "onceedit-jax"} <= set(whole["versions"])
    write_json(tmp_path / "out.json", whole)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == whole


def test_numpy_values_become_json_values_and_nan_becomes_null(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": tmp_path, "e": (1,)}
    write_json(tmp_path / "out.json", value)
    read = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert read == {"a": 0.5, "b": [0, 1, 2], "c": None, "d": str(tmp_path), "e": [1]}


@given(rows=st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none())))
def test_json_lines_have_one_row_per_line(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("r") / "out.jsonl"
    rows = [{k.encode("utf-8", "replace").decode(): v for k, v in row.items()} for row in rows]
    write_jsonl(path, rows)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert lines[-1] == ""


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=r"out\.json: cannot be written \(No space left"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert os.listdir(tmp_path) == ["out.json"]


def test_writing_into_a_missing_folder_raises(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        write_json(tmp_path / "absent" / "out.json", {})


def test_a_good_evaluation_has_no_warnings():
    fine = {"rel": 1.0, "gen": 0.7, "loc": 0.3, "avg": 0.667}
    assert (
        warned(result(), result(search="gradient", after=fine), losses={"gemma": [2.0, 1.0]}) == []
    )


def test_low_locality_has_one_histogram_of_alpha_for_all_targets():
    low = {**FINE, "loc": 0.29, "avg": 0.73}
    (text,) = warned(
        result("a", after=low), result("b", after=low), alphas={"loc": [0.95, 0.97, 0.05]}
    )
    assert text.startswith("low locality: a (teacher-forced, vocabulary) has Loc 0.290; b (")
    assert "--alpha-threshold" in text
    bins = text.splitlines()[1:]
    assert len(bins) == 10
    assert (bins[0].split()[-1], bins[9].split()[-1]) == ("1", "2")


def test_generality_far_under_reliability_warns_with_its_alpha():
    (text,) = warned(result(after={**FINE, "gen": 0.69}), alphas={"gen": [0.25, 0.75]})
    assert text.startswith("generality far under reliability: gemma")
    assert "mean alpha there 0.50" in text


@pytest.mark.parametrize("steps", [[1.0, 1.0], [1.0, 0.5, 1.5], [1.0, float("nan")]])
def test_a_search_whose_loss_does_not_fall_warns(steps):
    (text,) = warned(result(), losses={"gemma": steps})
    assert text.startswith("search loss not falling: gemma")
    assert "--search lookup" in text


def test_a_target_behind_the_others_warns_with_its_anchor_coverage():
    low = {**FINE, "rel": 0.7, "avg": 0.86}
    (text,) = warned(
        result("a", search="lookup"),
        result("b", search="lookup", after=low),
        coverage={"a": 0.9, "b": 0.41},
    )
    assert text.startswith("target behind the others: b has Avg 0.860, a 0.963")
    assert "anchor coverage is 0.410" in text
    (unknown,) = warned(
        result("a", search="lookup"), result("b", search="lookup", after=low), coverage={"b": None}
    )
    assert "not measured" in unknown


def test_the_remedy_for_a_target_behind_the_others_depends_on_the_rule():
    low = {**FINE, "rel": 0.7, "avg": 0.86}

    def remedy(fusion):
        members = (result("a"), result("b", after=low))
        (text,) = warned(*({**member, "fusion": fusion} for member in members))
        return text.split("use ")[1]

    assert remedy("draft").startswith("--confidence sure")
    assert remedy("vocabulary").startswith("--rule draft")
    assert remedy("draft, sure").startswith("a plug-in")


def test_results_of_different_modes_are_not_compared():
    low = {**FINE, "avg": 0.5}
    assert warned(result("a"), result("b", mode="generate", after=low)) == []


def test_a_histogram_counts_every_value_once():
    lines = histogram([0.0, 0.05, 0.5, 1.0]).splitlines()
    assert [int(line.split()[-1]) for line in lines] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert lines[0].count("#") == 2 * lines[5].count("#") == 40
