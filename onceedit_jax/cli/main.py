"""The `onceedit` command: parses flags, calls inward, turns errors into one line and an exit code.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError, OnceEditError

Format = Literal["auto", "zsre", "counterfact", "mquake", "jsonl", "csv"]
Fusion = Literal["draft", "vocabulary", "relative", "deepen"]
Gate = Literal["token", "memory", "both"]
Weights = Literal["float32", "bfloat16", "float16", "int8"]
Targets = Annotated[UseAppendAction[list[str]], arg(name="target", metavar="T")]

app = tyro.extras.SubcommandApp()


@app.command
def demo(*, out: Path = Path("runs/demo"), mesh: str | None = None) -> None:
    """Edit SmolLM2-135M with ten facts and ask two LLMs, before and after.

    Args:
        out: folder for the edited plug-in and the results.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
    """
    from onceedit_jax.cli.demo import run_demo

    run_demo(out, mesh=mesh)


@app.command
def edit(
    *,
    plugin: str,
    edits: Path,
    unrelated: Path,
    out: Path,
    format: Format = "auto",
    limit: int | None = None,
    examples: Path | None = None,
    evaluated: Path | None = None,
    strip_nq: bool = False,
    drop_leaks: bool = False,
    start: Path | None = None,
    replay: float = 1.0,
    resume: bool = False,
    mesh: str | None = None,
    distributed: str | None = None,
    settings: OmitArgPrefixes[EditSettings] = EditSettings(),  # noqa: B008 (frozen)
) -> None:
    """Edit a plug-in once, with all the edits of a file.

    Args:
        plugin: folder, hub id, .gguf file or demo:NAME of the plug-in.
        edits: file of edits.
        unrelated: file of texts that no edit concerns.
        out: folder for the edited plug-in.
        format: layout of the edits.
        limit: only the first edits.
        examples: file of other records whose rephrases show how questions may be put otherwise.
        evaluated: file of further records that will be evaluated; what is there is not trained on.
        strip_nq: take "nq question:" off unrelated rows, so that the gate cannot read the format.
        drop_leaks: leave out unrelated rows that are evaluated, rather than refuse.
        start: folder of a plug-in edited earlier, to go on from; its edits stay.
        replay: earlier edits trained again, for each new one.
        resume: continue an interrupted run of the same edits and settings.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
        distributed: auto, or ADDRESS:PORT,COUNT,INDEX, where several hosts edit together.
        settings: the editing stage.
    """
    from onceedit_jax.cli import workflow

    workflow.edit(
        plugin, edits, unrelated, out, format=format, limit=limit, examples=examples,
        evaluated=evaluated, strip_nq=strip_nq, leave_out_leaks=drop_leaks, start=start,
        replay=replay, resume=resume, mesh=mesh, distributed=distributed,
        settings=settings,
    )  # fmt: skip


@app.command
def evaluate(
    *,
    edited: Path,
    target: Targets,
    data: str,
    out: Path,
    dataset: Format = "auto",
    limit: int | None = None,
    mode: Literal["teacher-forced", "generate", "both"] = "teacher-forced",
    strip_nq: bool = False,
    fusion: Fusion | None = None,
    weight: Literal["gate", "fixed"] | None = None,
    fixed_alpha: float | None = None,
    gate: Gate | None = None,
    normalization: Literal["centered", "deepen"] | None = None,
    start: Literal["zeros", "prior"] | None = None,
    target_kind: Literal["one-hot", "distribution"] | None = None,
    search: Literal["lookup", "gradient"] | None = None,
    confidence: Literal["probability", "sure"] | None = None,
    trust: bool = False,
    alpha_threshold: float | None = None,
    table: Literal["topk", "dense", "exact"] | None = None,
    max_new_tokens: int = 20,
    target_dtype: Weights = "float32",
    mesh: str | None = None,
    distributed: str | None = None,
    part: int = 64,
) -> None:
    """Measure reliability, generality, locality and portability of each target.

    Args:
        edited: folder of the edited plug-in.
        target: a target LLM; give the flag once for each.
        data: file of records, or the hub name of a data set.
        out: JSON file for the summary; the records go beside it as .jsonl.
        dataset: layout of the records.
        limit: only the first records.
        mode: next tokens given the true prefix, free generation, or both.
        strip_nq: take "nq question:" off locality prompts.
        fusion: a preset (default: the one fixed in the artifact).
        weight: alpha from the gate, or fixed.
        fixed_alpha: alpha of weight=fixed.
        gate: the learnt token (the paper's), the scope memory, or both.
        normalization: of the transfer matrices.
        start: of the search.
        target_kind: what the search aims at.
        search: the closed form, or the published gradient search.
        confidence: of a draft: the plug-in's probability, or sure of it.
        trust: take drafts unchecked where alpha is high, and do not ask the target.
        alpha_threshold: under it a target answers alone (default: the one in the artifact).
        table: how the transfer matrices are held.
        max_new_tokens: longest generated answer.
        target_dtype: of the targets' weights; int8 is for their layers, with bfloat16 for the rest.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
        distributed: auto, or ADDRESS:PORT,COUNT,INDEX, where several hosts share the records, or
            the models, if mesh has all hosts' devices.
        part: records measured and kept at a time; a run that was cut goes on after the last.
    """
    from onceedit_jax.cli import workflow

    overrides = _given(
        weight=weight, fixed_alpha=fixed_alpha, gate=gate, normalization=normalization,
        start=start, target=target_kind, search=search, confidence=confidence,
        trust=trust or None,
    )  # fmt: skip
    workflow.evaluate(
        edited, target, data, out, dataset=dataset, limit=limit, mode=mode, strip_nq=strip_nq,
        fusion=fusion, overrides=overrides,
        alpha_threshold=alpha_threshold, table=table, max_new_tokens=max_new_tokens,
        dtype=target_dtype, mesh=mesh, distributed=distributed, part=part,
    )  # fmt: skip


@app.command
def generate(
    *,
    edited: Path,
    target: Targets,
    prompt: Annotated[UseAppendAction[list[str]], arg(name="prompt", metavar="TEXT")],
    fusion: Fusion | None = None,
    gate: Gate | None = None,
    trust: bool = False,
    alpha_threshold: float | None = None,
    max_new_tokens: int = 20,
    target_dtype: Weights = "float32",
    mesh: str | None = None,
) -> None:
    """Answer prompts before and after the edit, with alpha.

    Args:
        edited: folder of the edited plug-in.
        target: a target LLM; give the flag once for each.
        prompt: a question; give the flag once for each.
        fusion: a preset (default: the one fixed in the artifact).
        gate: the learnt token (the paper's), the scope memory, or both.
        trust: take drafts unchecked where alpha is high, and do not ask the target.
        alpha_threshold: under it a target answers alone (default: the one in the artifact).
        max_new_tokens: longest answer.
        target_dtype: of the targets' weights; int8 is for their layers, with bfloat16 for the rest.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
    """
    from onceedit_jax.cli import workflow

    workflow.generate(
        edited, target, prompt, fusion=fusion, overrides=_given(gate=gate, trust=trust or None),
        alpha_threshold=alpha_threshold, max_new_tokens=max_new_tokens,
        dtype=target_dtype, mesh=mesh,
    )  # fmt: skip


@app.command
def transfer(
    *,
    plugin: str,
    target: str,
    normalization: Literal["centered", "deepen"] = "centered",
    fidelity: bool = False,
    mesh: str | None = None,
) -> None:
    """Build a pair's transfer tables and report anchors and health.

    Args:
        plugin: folder, hub id, .gguf file or demo:NAME of the plug-in.
        target: the same of the target LLM.
        normalization: of the transfer matrices.
        fidelity: hold the tables against exact products on real text (minutes more).
        mesh: how devices share the work, as in data=4,tensor=2 (default: one device does it).
    """
    from onceedit_jax.cli import workflow

    workflow.transfer(plugin, target, normalization, measure_fidelity=fidelity, mesh=mesh)


@app.command
def experiment(
    name: Positional[str],
    *,
    data: Path,
    limit: int | None = None,
    setup: Path | None = None,
    out: Path = Path("results"),
    work: Path = Path("runs/experiments"),
    folder: Path = Path("experiments"),
    mesh: str | None = None,
) -> None:
    """Measure what an experiment has not measured yet, and write its page.

    Args:
        name: of the experiment: FOLDER/NAME.py, configured by configs/NAME.yaml beside FOLDER.
        data: folder of the data sets.
        limit: number of edits, in place of the configuration's.
        setup: another configuration than the experiment's own.
        out: folder of all results.
        work: folder of the edited plug-ins, kept from one experiment to the next.
        folder: folder of the experiments.
        mesh: how devices share the work, as in data=4,tensor=2 (default: each a part of the rows).
    """
    from experiments.framework.runner import run_experiment
    from onceedit_jax.cli.workflow import parse_mesh

    place = run_experiment(
        name, data=data, out=out, work=work, folder=folder, setup_file=setup, limit=limit,
        mesh=parse_mesh(mesh),
    )  # fmt: skip
    print(f"written: {place}")


@app.command
def report(
    results: Positional[Path],
    *,
    out: Path | None = None,
    data: Path | None = None,
    readme: Path | None = None,
) -> None:
    """Make one HTML page of all experiments' results, with every record that was scored.

    Args:
        results: folder of the experiments' results.
        out: the HTML file (default: report.html in that folder).
        data: folder of the data sets, to show each record's prompt.
        readme: a Markdown file whose marked results are filled in as well.
    """
    from experiments.framework.html_report import fill_readme, write_report

    out = out or results / "report.html"
    print(f"written: {out} ({write_report(results, out, data=data)} records)")
    if readme:
        fill_readme(readme, results)
        print(f"written: {readme}")


@app.command
def plan(
    *,
    plugin: str,
    target: str,
    mesh: str = "data=1",
    chip: Literal["h100", "v5e", "v5p"] = "h100",
    rows: int = 1,
    context: int = 1024,
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
    target_dtype: Weights | None = None,
) -> None:
    """Say what a pair will take on devices that are not here: memory, arithmetic, time.

    Args:
        plugin: config.json of the plug-in, or a folder that holds one (configs/models/ has some).
        target: the same of the target LLM.
        mesh: how so many devices share the work, as in data=2,tensor=8.
        chip: whose published peaks the times are predicted from.
        rows: prompts answered at once.
        context: tokens that a row has room for.
        dtype: of weights and caches.
        target_dtype: of the target's, if another; int8 is for layers, with bfloat16 for the rest.
    """
    from onceedit_jax.cli.workflow import out_console
    from onceedit_jax.planning import report
    from onceedit_jax.planning.pair import plan_pair

    pair = plan_pair(
        plugin, target, mesh, chip=chip, rows=rows, context=context, dtype=dtype,
        target_dtype=target_dtype,
    )  # fmt: skip
    for part in (report.table(pair), *report.summary(pair)):
        out_console.print(part)


@app.command
def export(
    *, edited: Path, out: Path, dtype: Literal["float32", "bfloat16", "float16"] = "float32"
) -> None:
    """Write an edited plug-in as a Hugging Face folder, with gate.safetensors beside it.

    Args:
        edited: folder of the edited plug-in.
        out: folder to write.
        dtype: of the weights.
    """
    from onceedit_jax.cli import workflow

    workflow.export(edited, out, dtype)


@app.command
def info(edited: Positional[Path]) -> None:
    """Print what an edited plug-in is made of.

    Args:
        edited: folder of the edited plug-in.
    """
    from onceedit_jax.cli import workflow

    workflow.info(edited)


def _given(**flags: Any) -> dict[str, Any]:
    """The flags that were typed."""
    return {name: value for name, value in flags.items() if value is not None}


def run() -> None:
    """Entry point of the `onceedit` command: `main`, with memory in huge pages."""
    if sys.executable and (environment := with_huge_pages(os.environ)):
        with contextlib.suppress(OSError):  # then it runs as it is
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    main()


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment to start over in, once; None where there is nothing to gain.

    A training step asks for buffers of hundreds of megabytes and gives them back, and in pages of
    4 KB the kernel is busy with them for a third of the step. The C library takes huge pages where
    it is told to, which only the environment of a new process can do.
    """
    setting = "glibc.malloc.hugetlb=1"
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        libc = ""
    tunables = environment.get("GLIBC_TUNABLES", "")
    if not libc.startswith("glibc") or "glibc.malloc.hugetlb" in tunables:
        return None
    joined = f"{tunables}:{setting}" if tunables else setting
    return {**environment, "GLIBC_TUNABLES": joined}


def main() -> None:
    """Parse the arguments and run a command; errors become one line and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    keep_compilations()
    # It would advise to install PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app.cli(
            prog="onceedit",
            description="Edit one small model once; every target LLM answers with the new facts. "
            "Every command takes --config FILE.yaml (flags as keys) and --debug (tracebacks).",
            args=_with_config(arguments),
        )
    except OnceEditError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        sys.exit(1)


def keep_compilations() -> None:
    """Let JAX keep compiled programs in the cache folder, unless the user says where.

    By environment: JAX reads it when it is imported, which `--help` never does.
    """
    from onceedit_jax.storage.sources import cache_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the flags it holds, but for those that are typed too."""
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    if at + 1 >= len(arguments):
        raise InputError("--config: expected the name of a YAML file after it")
    path = Path(arguments[at + 1])
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}; expected flags and their values")
    rest = arguments[:at] + arguments[at + 2 :]
    # Left out, not only put before: a flag that may be given several times would hold both.
    typed = {
        part.split("=")[0].removeprefix("--no-").removeprefix("--").replace("_", "-")
        for part in rest
        if part.startswith("--")
    }
    flags = [
        flag
        for name, value in values.items()
        if str(name).replace("_", "-") not in typed
        for flag in _flag(str(name), value)
    ]
    return rest[:1] + flags + rest[1:]


def _flag(name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    if isinstance(value, list):
        return [part for item in value for part in (f"--{dashed}", str(item))]
    return [f"--{dashed}", str(value)]
