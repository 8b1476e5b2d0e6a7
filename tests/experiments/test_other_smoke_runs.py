"""The experiments that test_smoke_runs.py leaves out run on real models."""

import pytest
from smoke_runs import NAMES, run_all


@pytest.mark.slow
def test_experiments_run_on_a_real_plugin(shared, tmp_path):
    run_all(NAMES[1::2], shared / "data", tmp_path)
