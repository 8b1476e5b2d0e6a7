"""The model card of an artifact: what a repository says of its edits, and how to use them.

Texts of edits are shown as they are: nothing in them is markup or HTML for whoever renders a card.
"""

import html
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onceedit_jax.editing.artifact_info import EditInfo
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import LARGE, read_json
from onceedit_jax.storage.sources import hub_id
from onceedit_jax.storage.visible import one_line

MOST_EDITS = 50
MOST_CHARACTERS = 300  # of a cell
_TAGS = ("onceedit", "knowledge-editing", "model-editing")
_MARKUP = re.compile(r"[\\`*_\[\]|~$:@]|(?<=www)\.", re.IGNORECASE)
_METRICS = {"rel": "Rel", "gen": "Gen", "loc": "Loc", "portability": "Portability"}


def model_card(
    info: EditInfo, repository: str, *, scores: Path | None = None, license: str | None = None
) -> str:
    """A card in Markdown, with the hub's YAML before it.

    Args:
      info: what the artifact says of itself.
      repository: where it goes, OWNER/NAME.
      scores: a summary of `onceedit evaluate`, or the JSON of `onceedit check`.
      license: the hub's name of a licence; None for none, as the edits do not say.

    Raises:
      InputError: the scores are neither of the two.
    """
    name = repository.rpartition("/")[2]
    parts = [
        _front_matter(info, license),
        f"# {escaped(name)}",
        f"{_count(len(info.live), 'edit')} of **{escaped(info.base.name)}**, made with "
        "[onceedit-jax](https://github.com/onceedit/onceedit-jax): one small model is edited once, "
        "and target LLMs of other vocabularies answer with its new facts beside it.",
        _use(info, repository, name),
        _edits(info),
        _how(info),
        *([] if scores is None else [_scores(scores)]),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text as one cell or line of Markdown that is neither markup nor HTML."""
    line = one_line(text.replace("\r", "\n").replace("\t", " "))
    if len(line) > MOST_CHARACTERS:
        line = line[:MOST_CHARACTERS] + "…"
    return html.escape(_MARKUP.sub(lambda found: "\\" + found[0], line), quote=False)


def _front_matter(info: EditInfo, license: str | None) -> str:
    base = hub_id(info.base.spec) if info.base.spec else None
    values: dict[str, Any] = {
        "library_name": "onceedit-jax",
        **({"base_model": base} if base else {}),
        **({"license": license} if license else {}),
        "tags": list(_TAGS),
    }
    # Plain JSON is YAML: no text of a model's name can become a key.
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _use(info: EditInfo, repository: str, name: str) -> str:
    asked = one_line(info.live[0].prompt) if info.live else "..."
    spec = info.base.spec
    # A path of the machine that made it leads nowhere else.
    named = spec is not None and not Path(spec).is_absolute()
    flag = "" if named or not info.in_adapters else " --base BASE"
    load = f"{name!r}" if not flag else f"{name!r}, base='BASE'"
    shell = (
        f"pip install onceedit-jax\nonceedit pull {repository} --out {shlex.quote(name)}\n"
        f"onceedit generate --edited {shlex.quote(name)}{flag} --target MODEL "
        f"--prompt {shlex.quote(asked)}"
    )
    python = (
        f"import onceedit_jax as oe\n\noe.pull({repository!r}, {name!r})\n"
        f"plugin = oe.EditedPlugin.load({load})\n"
        "ensemble = oe.Ensemble(plugin, [oe.load_target('MODEL')])\n"
        f"print(ensemble.answers([{asked!r}]))"
    )
    return "\n\n".join(
        [
            "## Use it",
            _base(info, named=named),
            "MODEL is the target LLM: a Hugging Face folder, a hub id or a GGUF file.",
            _block("bash", shell),
            _block("python", python),
        ]
    )


def _base(info: EditInfo, *, named: bool) -> str:
    digest = f"its content hash is `{re.sub(r'[^0-9A-Za-z-]', '', info.base.content_hash)}`"
    if not info.in_adapters:
        return f"The edited weights are here. They were {escaped(info.base.name)}'s; {digest}."
    where = f"taken from {escaped(info.base.spec)}" if named and info.base.spec else "BASE below"
    return (
        f"The edits are in adapters, without the weights of {escaped(info.base.name)}. These are "
        f"needed too ({where}), and no others do: {digest}."
    )


def _block(language: str, code: str) -> str:
    """A block of code; its fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _edits(info: EditInfo) -> str:
    live = info.live
    rows = [
        (str(number), entry.prompt, entry.target)
        for number, entry in zip(info.numbers, info.edits, strict=True)
        if entry.state == "live"
    ]
    table = _table(("id", "prompt", "new answer"), rows[:MOST_EDITS])
    more = len(live) - MOST_EDITS
    tail = [f"And {more} more, in `edit.json`."] if more > 0 else []
    return "\n\n".join(["## Edits", _ledger(info), table, *tail])


def _ledger(info: EditInfo) -> str:
    states = Counter(entry.state for entry in info.edits)
    line = (
        f"{states['live']} answer, {states['superseded']} gave way to a later edit of the same "
        f"fact, {states['reverted']} were taken back"
    )
    if info.operations:
        last = info.operations[-1]
        line += f"; last changed by `{last.kind}` at {escaped(last.time)}"
    return line + "."


def _how(info: EditInfo) -> str:
    metrics = info.metrics
    rows: list[tuple[str, str]] = [
        ("editing method", info.editor.name),
        ("passes over the rows", str(metrics.epochs)),
        ("seconds", f"{metrics.seconds:.0f}"),
        ("unrelated rows", str(info.unrelated.trained)),
        ("default rule", info.rule.fusion),
        ("relation head", "yes" if info.relation else "no"),
    ]
    if metrics.reliability is not None:
        rows.insert(2, ("edits predicted whole at the end", f"{metrics.reliability:.3f}"))
    rows += [each for each in info.versions.items() if each[0] != "machine"]
    return "## How it was edited\n\n" + _table(("", ""), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores(path: Path) -> str:
    values = read_json(path, most=LARGE)
    try:
        if "results" in values:
            table = _evaluated(values["results"])
        else:
            table = _checked(values["targets"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: neither the summary of `onceedit evaluate --out` nor the answers of "
            "`onceedit check --json`; give one of these"
        ) from error
    return f"## Scores\n\n{table}"


def _evaluated(results: Sequence[Mapping[str, Any]]) -> str:
    metrics = [
        key for key in _METRICS if any(each["after"].get(key) is not None for each in results)
    ]
    rows = [
        (
            str(each["target"]),
            str(each["mode"]),
            str(each["fusion"]),
            str(int(each["records"])),
            *(f"{_share(each['before'][key])} → {_share(each['after'][key])}" for key in metrics),
        )
        for each in results
    ]
    header = ("target", "mode", "rule", "records", *(_METRICS[key] for key in metrics))
    return "Before and after the edit, by `onceedit evaluate`.\n\n" + _table(header, rows)


def _checked(targets: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            str(each["target"]),
            name,
            _share(column["value"]),
            f"{_share(column['low'])} to {_share(column['high'])}",
            str(int(column["questions"])),
        )
        for each in targets
        for name, column in each["columns"].items()
    ]
    header = ("target", "questions of the kind", "right", "95% interval", "questions")
    return "By `onceedit check`.\n\n" + _table(header, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{float(value):.3f}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
