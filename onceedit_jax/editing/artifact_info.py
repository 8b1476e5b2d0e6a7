"""What `edit.json` says of an edited plug-in: one frozen record, checked once on loading."""

import dataclasses
import getpass
import hashlib
import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.ledger_checks import check_ledger
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import LARGE, parse_json, read_text
from onceedit_jax.storage.checksums import SUMS, digest_of_sums
from onceedit_jax.storage.records import parse_record
from onceedit_jax.storage.schema import shown
from onceedit_jax.storage.text_files import write_whole

FORMAT = 7
READABLE = (4, 5, 6, 7)
MARK = "edit.json"
PARAMS, TOKENIZER, ADAPTERS, HEAD = "params", "tokenizer", "adapters", "head"  # folders beside it
_SEAL = re.compile(r'\{\n  "sha256": "([0-9a-f]{64})",\n')  # how the file begins, from format 7 on


@dataclasses.dataclass(frozen=True)
class BaseInfo:
    """The model that was edited.

    Attributes:
      name: its name.
      content_hash: hash of its unedited weights, the key of its transfer tables.
      hf_config: its config.json.
      config: its configuration, as `ModelConfig.to_dict` gives it.
      spec: where it was loaded from, see `LoadedModel`; an artifact of adapters loads it again.
    """

    name: str
    content_hash: str
    hf_config: dict[str, Any]
    config: dict[str, Any]
    spec: str | None = None


@dataclasses.dataclass(frozen=True)
class EditEntry:
    """One edit.

    Attributes:
      prompt: what is asked.
      target: the new answer.
      subject: what it is about.
      aliases: other names of the subject.
      rephrase: the prompt in other words, which `onceedit check` asks; never trained on.
      adapter: the adapter that has learnt it; None if it is in the weights.
      id: its number in the ledger, from 1; no two edits of a folder ever had the same.
      added: when, in UTC (ISO 8601).
      source: "file:line" that it was read from.
      superseded_by: id of the later edit of the same fact that answers in its place.
      reverted: whether it was taken back.
      accepted: other texts that are right answers, beside `target`.
      more_rephrases: the prompt in still other words, beside `rephrase`; never trained on either.
    """

    prompt: str
    target: str
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    rephrase: str | None = None
    adapter: int | None = None
    id: int = 0
    added: str = ""
    source: str = ""
    superseded_by: int | None = None
    reverted: bool = False
    accepted: tuple[str, ...] = ()
    more_rephrases: tuple[str, ...] = ()

    @property
    def state(self) -> Literal["live", "superseded", "reverted"]:
        """Whether it answers."""
        if self.reverted:
            return "reverted"
        return "live" if self.superseded_by is None else "superseded"

    @classmethod
    def of(cls, record: EditRecord, **known: Any) -> "EditEntry":
        """The entry of an edit, with what else is known of it."""
        return cls(
            record.prompt,
            record.target,
            record.subject,
            record.aliases,
            record.rephrase,
            source=record.source,
            accepted=record.accepted,
            more_rephrases=record.more_rephrases,
            **known,
        )

    def record(self, index: int = 0) -> EditRecord:
        """The edit as it was given."""
        return EditRecord(
            self.prompt,
            self.target,
            subject=self.subject,
            rephrase=self.rephrase,
            aliases=self.aliases,
            index=index,
            source=self.source,
            accepted=self.accepted,
            more_rephrases=self.more_rephrases,
        )


@dataclasses.dataclass(frozen=True)
class Operation:
    """What was done to the edits of a folder.

    Attributes:
      time: when, in UTC (ISO 8601).
      kind: "edit", "add", "replace", "revert" or "compact".
      edits: ids of the edits that were made, taken back or trained again.
      seconds: that it took.
      by: who did it, as they or the system say; "" in artifacts of earlier versions.
    """

    time: str
    kind: str
    edits: tuple[int, ...]
    seconds: float
    by: str = ""

    @classmethod
    def just_done(
        cls, kind: str, edits: Sequence[int], seconds: float, by: str | None = None
    ) -> "Operation":
        """What was done now; by whoever runs this process, unless another one is named."""
        return cls(now(), kind, tuple(edits), seconds, who() if by is None else by)


@dataclasses.dataclass(frozen=True)
class UnrelatedInfo:
    """How many unrelated rows were trained on and held back, and a hash of them."""

    trained: int
    held_back: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class EditorInfo:
    """The editing method: its name and its own settings."""

    name: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RuleInfo:
    """The default fusion rule, and the gates' thresholds, calibrated on held-back rows.

    Attributes:
      fusion: name of the rule.
      alpha_thresholds: by gate, the alpha below which a target answers by itself.
      trust_thresholds: by gate, the alpha from which a draft may be taken unchecked.
      reach_threshold: how much of an edit's key a text must hold to be in its reach.
      reach_evidence: how much being in reach speaks for an edit, a log-likelihood ratio.
    """

    fusion: str
    alpha_thresholds: dict[str, float]
    trust_thresholds: dict[str, float]
    reach_threshold: float
    reach_evidence: float


@dataclasses.dataclass(frozen=True)
class RelationInfo:
    """The relation head that the gate `fact` uses.

    Attributes:
      layers: of the unedited plug-in that it reads.
      learnt: how it was made, as the head's file says.
    """

    layers: int
    learnt: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EditMetrics:
    """What the edit took and reached on its own training rows.

    Attributes:
      epochs: passes over the rows.
      seconds: of the whole stage: texts, training, compilation, thresholds.
      loss: of the last epoch.
      reliability: share of edits predicted whole in the last epoch.
      gate_accuracy: share of rows on their side of the gate in the last epoch.
      alpha_edits: least, mean and largest alpha of [WEIGHT] on the edits' prompts.
      alpha_held_back: the same on held-back unrelated rows.
      reach_held_back: the same of `reach`.
    """

    epochs: int
    seconds: float
    loss: float | None
    reliability: float | None
    gate_accuracy: float | None
    alpha_edits: dict[str, float]
    alpha_held_back: dict[str, float]
    reach_held_back: dict[str, float]


@dataclasses.dataclass(frozen=True)
class EditInfo:
    """Everything about an edited plug-in that is not an array.

    Attributes:
      base: the model that was edited.
      edits: all edits; those of a ledger that do not answer any more are among them.
      edited_before: how many of them an earlier stage made.
      contradicting: how many contradict another one.
      unrelated: the unrelated rows.
      trained_texts: digests of all texts that were trained on.
      editor: the editing method.
      settings: of the editing stage, as `EditSettings.as_dict` gives them.
      rule: the default rule and the thresholds.
      metrics: what the edit took and reached.
      history: one entry for each epoch.
      versions: of the packages that made it.
      relation: the relation head; None where the edit was made without one.
      operations: what was done to the edits, oldest first.
      in_adapters: whether the edits are in adapters, beside the weights of the base model.
      checksums: by folder beside `edit.json`, the hash of its `SHA256SUMS`: it binds weights,
        adapters and tokenizer to one another. Artifacts of older formats have none.
      format: of the file that it was read from.
    """

    base: BaseInfo
    edits: tuple[EditEntry, ...]
    edited_before: int
    contradicting: int
    unrelated: UnrelatedInfo
    trained_texts: tuple[str, ...]
    editor: EditorInfo
    settings: dict[str, Any]
    rule: RuleInfo
    metrics: EditMetrics
    history: tuple[dict[str, float], ...]
    versions: dict[str, str]
    relation: RelationInfo | None = None
    operations: tuple[Operation, ...] = ()
    in_adapters: bool = False
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    @property
    def numbers(self) -> list[int]:
        """What users call the edits: their ids, which stay when other edits go."""
        return [entry.id or place + 1 for place, entry in enumerate(self.edits)]

    @property
    def live(self) -> tuple[EditEntry, ...]:
        """The edits that answer."""
        return tuple(entry for entry in self.edits if entry.state == "live")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `edit.json` holds them."""
        values = dataclasses.asdict(self)
        return {"format": FORMAT, **{key: values[key] for key in values if key != "format"}}


def write_info(folder: Path, info: EditInfo) -> None:
    """Write the `edit.json` of an artifact; an earlier one is replaced as a whole.

    Raises:
      RunError: it cannot be written.
    """
    info = dataclasses.replace(info, checksums=_checksums(folder, info))
    text = json.dumps(info.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    assert text.startswith("{\n")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    write_whole(folder / MARK, f'{{\n  "sha256": "{digest}",\n' + text.removeprefix("{\n"))


def folders_of(info: EditInfo) -> list[str]:
    """The folders of an artifact that its edits need, or would if they were taken back."""
    if not info.in_adapters:
        return [PARAMS, TOKENIZER]
    numbers = sorted(needed_adapters(info.edits))
    return [HEAD, TOKENIZER, *(f"{ADAPTERS}/{number:04d}" for number in numbers)]


def needed_adapters(entries: Sequence[EditEntry]) -> set[int]:
    """The adapters of edits that answer, or would again if a later one were taken back."""
    return {e.adapter for e in entries if not e.reverted and e.adapter is not None}


def _checksums(folder: Path, info: EditInfo) -> dict[str, str]:
    """The hashes of an artifact's folders: those known, and those of new ones."""
    return {
        name: info.checksums.get(name) or digest_of_sums(folder / name)
        for name in folders_of(info)
        if name in info.checksums or (folder / name / SUMS).exists()
    }


def now() -> str:
    """The time in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def who() -> str:
    """Who runs this process, by the environment or the system, and where."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        name = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{name}@{platform.node()}"


def read_info(folder: Path, *, verify: bool = True) -> EditInfo:
    """What the `edit.json` of an artifact says, without reading any array.

    Args:
      folder: the artifact.
      verify: check the hash that the file holds of itself.

    Raises:
      InputError: no readable `edit.json` of a known format, or a ledger that contradicts itself;
        the message names the key at fault.
    """
    path = folder / MARK
    try:
        text = read_text(path, most=LARGE, inside=folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder}: no edited plug-in here ({MARK} is missing); give the folder that "
            "`onceedit edit --out` wrote"
        ) from error
    values = parse_json(text, path)
    if values.get("format") not in READABLE:
        raise InputError(
            f"{path}: artifact format {shown(values.get('format'))}, this version reads "
            f"{', '.join(map(str, READABLE))}; edit again with this version"
        )
    if verify:
        _check_seal(path, text, values)
    info: EditInfo = parse_record(EditInfo, _upgraded(values), str(path))
    check_ledger(info, path)
    return info


def _check_seal(path: Path, text: str, values: dict[str, Any]) -> None:
    """Check the hash of the whole text, as the text says it in its first lines."""
    seal = _SEAL.match(text)
    if seal is None:
        if values["format"] < 7 and "sha256" not in values:  # those formats had none
            return
        raise InputError(f"{path}: does not begin with its SHA-256; it was changed: edit again")
    digest = hashlib.sha256(("{\n" + text[seal.end() :]).encode("utf-8")).hexdigest()
    if digest != seal[1]:
        raise InputError(
            f"{path}: is damaged: its SHA-256 is {digest}, expected {seal[1]}; restore it or edit "
            "again (if you changed it yourself, `onceedit export --no-verify` opens it)"
        )


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The values of an older format as those of this one."""
    settings = values.get("settings")
    if values["format"] == 4 and isinstance(settings, dict):
        # Format 4 named the method among the settings and knew no other editors.
        values = {**values, "editor": {"name": settings.get("method", "full"), "settings": {}}}
    edits = values.get("edits")
    if values["format"] < 6 and isinstance(edits, list):  # edits had no ids
        numbered = [
            {**edit, "id": i + 1} if isinstance(edit, dict) else edit
            for i, edit in enumerate(edits)
        ]
        values = {**values, "edits": numbered}
    return values
