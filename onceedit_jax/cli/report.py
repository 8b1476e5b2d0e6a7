"""`onceedit report`: makes the report on the experiments' results of a checkout."""

from tyro.conf import Positional

from onceedit_jax.cli.experiment import run_in_checkout


def report(arguments: Positional[tuple[str, ...]] = ()) -> None:
    """Make one page of all experiments' results, in a checkout: python -m experiments report.

    Args:
      arguments: the folder of results and further flags.
    """
    run_in_checkout(["report", *arguments])
