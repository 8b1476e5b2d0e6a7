"""An evaluation in parts: it continues after an interruption, and hosts share it."""

from pathlib import Path

import numpy as np
import pytest
from support import tiny_config

from onceedit_jax.distributed.hosts import Host
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.from_files import usual_part
from onceedit_jax.evaluation.protocol import Block
from onceedit_jax.evaluation.resumable import ResumableEvaluation
from onceedit_jax.models.weights import LoadedModel

RECORDS = list("abcdefg")


@pytest.fixture
def parts(tmp_path):
    return ResumableEvaluation(tmp_path / "out.json", "0123456789abcdef")


def measuring(log, fails=()):
    def measure(records):
        if records[0] in fails:
            raise RuntimeError("interrupted")
        log.append("".join(records))
        rows = [{"of": record, "answer": "two\u2028lines"} for record in records]
        return Block(rows, {"tiny": [1.5, len(records)]}, {"tiny": len(records)})

    return measure


def text_of(blocks):
    return "".join(row["of"] for block in blocks for row in block.rows)


def test_parts_come_in_order_and_none_is_measured_twice(parts):
    log = []
    with pytest.raises(RuntimeError, match="interrupted"):
        parts.gather(RECORDS, measuring(log, fails="e"), Host(), size=2)
    assert log == ["ab", "cd"]
    blocks = parts.gather(RECORDS, measuring(log), Host(), size=2)
    assert log == ["ab", "cd", "ef", "g"] and text_of(blocks) == "abcdefg"
    assert [block.losses["tiny"] for block in blocks] == [[1.5, 2], [1.5, 2], [1.5, 2], [1.5, 1]]
    assert [block.decisions["tiny"] for block in blocks] == [2, 2, 2, 1]
    assert blocks[0].rows[0]["answer"] == "two\u2028lines"
    parts.remove()
    assert not parts.folder.exists()


def test_each_host_measures_its_own_parts_and_the_first_returns_all(parts):
    log = []
    assert parts.gather(RECORDS, measuring(log), Host(1, 2), size=2) is None
    assert log == ["cd", "g"]
    assert text_of(parts.gather(RECORDS, measuring(log), Host(0, 2), size=2)) == "abcdefg"
    assert log == ["cd", "g", "ab", "ef"]


def test_a_damaged_part_is_named(parts):
    parts.gather(RECORDS[:1], measuring([]), Host(), size=1)
    (file,) = parts.folder.iterdir()
    file.write_text("{")
    with pytest.raises(InputError, match=r"00000\.jsonl: not a part of an .*delete the file"):
        parts.gather(RECORDS[:1], measuring([]), Host(), size=1)


def test_another_evaluation_has_another_folder(tmp_path):
    out = tmp_path / "out.json"
    first, second = (ResumableEvaluation(out, key * 64) for key in "ab")
    assert first.folder != second.folder


def a_model(hidden, layers):
    """A model of a size, without its weights."""
    config = tiny_config(32_000, hidden_size=hidden, num_layers=layers, mlp_size=4 * hidden)
    return LoadedModel(config, {"leaf": np.zeros(1)}, "made", "", Path(), {})


def test_the_larger_the_largest_target_the_fewer_records_are_lost_with_a_part():
    small, medium, large = a_model(64, 2), a_model(2048, 24), a_model(8192, 80)
    assert usual_part([small]) == 64
    assert [usual_part([small, medium]), usual_part([large, small])] == [16, 1]
