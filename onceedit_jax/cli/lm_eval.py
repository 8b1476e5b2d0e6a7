"""`onceedit lm-eval`: the lm-evaluation-harness, with edited plug-ins as its model."""

import importlib.util
import sys
from collections.abc import Sequence

from tyro.conf import Positional

from onceedit_jax.errors import InputError


def lm_eval(arguments: Positional[tuple[str, ...]] = ()) -> None:
    """Run lm-eval with the model `onceedit`: the flags are the harness's.

    Args:
      arguments: flags of `lm-eval run`, as in --model_args edited=DIR,target=MODEL --tasks NAME.
    """
    run_harness(arguments)


def run_harness(arguments: Sequence[str]) -> None:
    """Run the harness's own command.

    Raises:
      InputError: the harness is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "lm-eval is not installed; install the extra: pip install 'onceedit-jax[lm-eval]'"
        )
    from lm_eval.__main__ import cli_evaluate

    import onceedit_jax.evaluation.harness  # noqa: F401 (registers the model)

    model = [] if "--model" in arguments else ["--model", "onceedit"]
    sys.argv = ["lm-eval", "run", *model, *arguments]  # where the harness looks for them
    cli_evaluate()
