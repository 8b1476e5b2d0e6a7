"""Every experiment runs, on one or two edits."""

import pytest
from smoke_runs import NAMES, ON_A_REAL_MODEL, run_all

# Of each kind one: scores of rules, of batch after batch, of a gate, and counts.
FEW = ("anchor-coverage", "gate-weight", "quality", "continued-training")


def test_a_few_experiments_run_on_a_tiny_model(shared, tmp_path):
    run_all([*FEW], shared / "data", tmp_path)


@pytest.mark.long
def test_experiments_run_on_a_tiny_model(shared, tmp_path):
    run_all([name for name in NAMES if name not in ON_A_REAL_MODEL], shared / "data", tmp_path)
    plugins = [edit.parent.name for edit in (tmp_path / "work" / "plugins").glob("*/edit.json")]
    # Each edits one plug-in for all of them.
    assert {name.split("-")[0] for name in plugins} == {"zsre"}


@pytest.mark.long
def test_experiments_run_on_a_real_model(shared, tmp_path):
    run_all([*ON_A_REAL_MODEL], shared / "data", tmp_path)
