"""The log of an edit for TensorBoard: what was reported at each step is what is read back."""

import struct
import sys

import pytest
from editing_cases import FAST, RECORDS, UNRELATED

from onceedit_jax.cli.progress import editing_progress
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.step_log import tensorboard_log
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.errors import InputError, RunError

STEP = Progress(1, 1, 2, 0.5, 0.25, 1.0)


def scalars(folder):
    """From (tag, step) to value, of all files: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_every_step_of_an_edit_is_in_the_log(tiny_model, tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    steps = []
    with tensorboard_log(tmp_path / "run") as log:

        def on_step(step):
            steps.append(step)
            log(step)

        edit(*tiny_model(), RECORDS, UNRELATED, FAST, on_step=on_step)
    found = scalars(tmp_path / "run")
    assert len(steps) > 1 and len(found) == 4 * len(steps)
    for step in steps:
        for tag in ("loss", "reliability", "gate_accuracy", "epoch"):
            assert found[f"edit/{tag}", step.step] == pytest.approx(getattr(step, tag), abs=1e-6)


def test_the_commands_progress_goes_to_the_log_too(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    with editing_progress(tmp_path / "run") as on_step:
        on_step(STEP)
    assert scalars(tmp_path / "run")["edit/loss", 1] == 0.5
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"--log-dir .*file: cannot be written"),
        tensorboard_log(tmp_path / "file"),
    ):
        pass


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with (
        pytest.raises(InputError, match=r"onceedit-jax\[tensorboard\]"),
        editing_progress(tmp_path),
    ):
        pass
    with editing_progress() as on_step:
        on_step(STEP)
