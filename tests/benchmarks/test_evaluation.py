"""`benchmarks.evaluation`: what counts as needed, and what it says where the data are missing."""

from types import SimpleNamespace

import numpy as np

from benchmarks import evaluation


def test_without_data_it_says_so_and_ends(tmp_path, capsys):
    evaluation.main(data=tmp_path / "none.json", out=tmp_path)
    assert "skipped" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_beginnings_that_texts_share_are_read_once():
    work = evaluation.Work()
    tokens = np.array([[1, 2, 3, 0], [1, 2, 4, 5], [0, 0, 0, 0]])
    places = np.array([[0, 1, 2, -1], [0, 1, 2, 3], [-1, -1, -1, -1]])
    for _ in range(2):
        work._pass("model", None, None, None, tokens, places)
    assert len(work._read["model"]) == 5


def test_tokens_that_end_a_row_are_written_too():
    work = evaluation.Work()
    written = SimpleNamespace(length=np.array([2, 0, 3]), stopped=np.array([True, True, False]))
    found = [SimpleNamespace(written=written)]
    work._segment("model", found, left=np.array([5, 5, 0]))
    assert work._written["model"] == 4
