"""Every second experiment runs on real models; the others are in another file, for balance."""

import pytest
from smoke_runs import NAMES, run_all


@pytest.mark.slow
def test_experiments_run_on_a_real_plugin(shared, tmp_path):
    run_all(NAMES[::2], shared / "data", tmp_path)
