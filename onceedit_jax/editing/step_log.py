"""Keeps the progress of an edit for TensorBoard; needs the extra `tensorboard`.

Whatever follows an edit is a function of `Progress`: the `on_step` of `edit` and of `add_edits`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onceedit_jax.distributed.hosts import is_first
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.errors import InputError, RunError

OnStep = Callable[[Progress], None]
_TAGS = ("loss", "reliability", "gate_accuracy", "epoch")


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[OnStep]:
    """What writes each step's loss, reliability, gate accuracy and epoch as scalars.

    Args:
      folder: of one run; a run that goes on adds to it.

    Raises:
      InputError: the extra is not installed.
      RunError: the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"--log-dir {folder}: TensorBoard's writer is not installed; install the extra: "
            "pip install 'onceedit-jax[tensorboard]'"
        ) from error
    if not is_first(together=True):  # of several hosts, which take the same steps
        yield lambda step: None
        return
    try:
        writer = SummaryWriter(logdir=str(folder))
    except OSError as error:
        raise RunError(
            f"--log-dir {folder}: cannot be written ({error.strerror}); check permissions and free "
            "space, or choose another folder"
        ) from error

    def log(step: Progress) -> None:
        for tag in _TAGS:
            writer.add_scalar(f"edit/{tag}", getattr(step, tag), step.step)

    with writer:
        yield log
