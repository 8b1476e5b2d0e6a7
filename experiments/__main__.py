"""The command `python -m experiments`: measure an experiment, refill the pages, make a report."""

import sys
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from onceedit_jax.cli.environment import begin_process, prepare_environment
from onceedit_jax.errors import OnceEditError
from onceedit_jax.storage.visible import one_line, visible

PROGRAM = "python -m experiments"


def measure(
    name: Positional[str],
    *,
    data: Path,
    limit: int | None = None,
    setup: Path | None = None,
    out: Path = Path("results"),
    work: Path = Path("runs/experiments"),
    mesh: str | None = None,
) -> None:
    """Measure what an experiment has not measured yet, and fill its page.

    Two other commands measure nothing: `python -m experiments report` makes one HTML page of all
    results, and `python -m experiments pages` fills the pages from the results that are there.

    Args:
        name: of the experiment, the file experiments/NAME.py.
        data: folder of the data sets.
        limit: number of edits, in place of the configuration's.
        setup: a configuration in place of configs/NAME.yaml.
        out: folder of all results.
        work: folder of the edited plug-ins, kept from one experiment to the next.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
    """
    from experiments.framework.runner import run_experiment
    from onceedit_jax.distributed.mesh import parse_mesh

    place = run_experiment(
        name, data=data, out=out, work=work, setup_file=setup, limit=limit, mesh=parse_mesh(mesh)
    )
    print(f"written: {place}")


def report(
    results: Positional[Path] = Path("results"),
    *,
    out: Path | None = None,
    data: Path | None = None,
    readme: Path | None = None,
) -> None:
    """Make one HTML page of all results, with every record that was scored.

    Args:
        results: folder of the experiments' results.
        out: the HTML file (default: report.html in that folder).
        data: folder of the data sets, to show each record's prompt.
        readme: a Markdown file whose marked tables are filled as well.
    """
    from experiments.framework.html_report import fill_readme, write_report

    out = out or results / "report.html"
    count = write_report(results, out, data=data)
    print(visible(f"written: {out} ({count} records)"))
    if readme:
        fill_readme(readme, results)
        print(visible(f"written: {readme}"))


def pages(results: Positional[Path] = Path("results")) -> None:
    """Fill the marked places of every page from its results, and draw the figures.

    Args:
        results: folder of the experiments' results.
    """
    from experiments.framework.page import fill_page
    from experiments.framework.results import result_folders

    for place in result_folders(results):
        fill_page(place)
        print(f"written: {place}")


def main(arguments: list[str]) -> int:
    """Run a command; an error is one line. Returns the exit code."""
    command = {"report": report, "pages": pages}.get(arguments[0]) if arguments else None
    program = f"{PROGRAM} {arguments[0]}" if command else PROGRAM
    try:
        tyro.cli(
            command or measure,
            prog=program,
            args=arguments[1:] if command else arguments,
            config=(OmitArgPrefixes,),
        )
    except OnceEditError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the next run continues after the last measured cell", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    begin_process()
    prepare_environment()
    sys.exit(main(sys.argv[1:]))
