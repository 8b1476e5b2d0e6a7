"""Share an artifact in a repository of the Hugging Face hub, and fetch one from there.

Its files go up as they are, with a model card beside them. Only what an artifact may hold comes
back, and only whole: every file is held against the hashes that the artifact carries.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from onceedit_jax.editing.artifact import ARTIFACT
from onceedit_jax.editing.artifact_info import ADAPTERS, HEAD, MARK, PARAMS, TOKENIZER, read_info
from onceedit_jax.editing.model_card import model_card
from onceedit_jax.editing.verification import Verified, verify
from onceedit_jax.errors import InputError, OnceEditError, RunError
from onceedit_jax.storage.bounded import LARGE, check_regular
from onceedit_jax.storage.checksums import SUMS
from onceedit_jax.storage.files import check_replaceable, fresh_folder
from onceedit_jax.storage.locks import locked

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
# What a repository that was made for an artifact may hold beside one.
_BESIDE = (CARD, ".gitattributes")
MOST_FILES = 100_000
MOST_BYTES = 256 << 30
_FOLDERS = (PARAMS, TOKENIZER, ADAPTERS, HEAD)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PART = re.compile(r"\w[\w.-]*", re.ASCII)
# Of tokenizers and of orbax: no code, and nothing that has to be unpickled.
_ENDINGS = ("", ".json", ".txt", ".model", ".jinja", ".ocdbt", ".checkpoint")
_NUMBERED = re.compile(r"(?:\w+\.)?process_\d+", re.ASCII)


class Pushed(NamedTuple):
    """An artifact that lies in a repository.

    Attributes:
      url: of the commit.
      commit: its hash.
      files: how many files of the artifact it holds.
    """

    url: str
    commit: str
    files: int


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    card: bool = True,
    scores: Path | None = None,
    license: str | None = None,
    endpoint: str | None = None,
) -> Pushed:
    """Put an artifact into a repository, in one commit; the repository is made where there is none.

    Files of an artifact that were there before give way; all others stay. Nobody changes the
    artifact meanwhile: its lock is held.

    Args:
      folder: the artifact.
      repository: OWNER/NAME.
      private: make the repository private, or refuse one that is not.
      revision: a branch; it is made where there is none (default: main).
      card: write the model card, README.md, anew.
      scores: for the card, see `model_card`.
      license: for the card.
      endpoint: of the hub (default: `$HF_ENDPOINT`, or huggingface.co).

    Raises:
      InputError: no artifact, or a damaged one; a repository that holds something else, or is not
        to be written; or the hub is not there.
      RunError: something writes the artifact.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder, api = Path(folder), HfApi(endpoint=endpoint)
    _check_name(repository)
    read_info(folder)  # before a lock is left beside what is no artifact
    with locked(folder):
        info = read_info(folder)
        _refuse_faults(verify(folder), folder, folder, "nothing was pushed")
        sizes = {name: (folder / name).stat().st_size for name in _names(folder)}
        _check_files(sizes, folder)
        text = model_card(info, repository, scores=scores, license=license) if card else None
        added = [CommitOperationAdd(name, str(folder / name)) for name in sorted(sizes)]
        if text is not None:
            added.append(CommitOperationAdd(CARD, text.encode()))
        with _hub(repository, revision):
            _prepare(api, repository, private=private, revision=revision)
            # What another program pushes meanwhile is no part of what is looked at here.
            state = api.repo_info(repository, revision=revision).sha
            there = _listed(api, repository, state)
            _refuse_others(there, repository)
            gone = [name for name in there if _is_own(name) and name not in sizes]
            done = api.create_commit(
                repository,
                [*added, *map(CommitOperationDelete, gone)],
                commit_message=f"{len(info.live)} edits of {info.base.name}",
                revision=revision,
                parent_commit=state,
            )
            arrived = _listed(api, repository, done.oid)
    if missing := sorted(name for name in sizes if arrived.get(name) != sizes[name]):
        raise RunError(
            f"{repository}: {missing[0]} did not arrive as it is; a .gitignore there may leave it "
            "out: remove that file and push again"
        )
    return Pushed(str(done.commit_url), str(done.oid), len(sizes))


def pull(
    repository: str,
    out: str | Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch an artifact from a repository, bit by bit as it was pushed, without its card.

    The folder appears when every file is there and has its hash; an earlier artifact is replaced.

    Args:
      repository: OWNER/NAME.
      out: the folder.
      revision: a branch, a tag or a commit (default: main).
      endpoint: of the hub (default: `$HF_ENDPOINT`, or huggingface.co).

    Raises:
      InputError: no such repository or revision, no artifact there, one with files that no artifact
        holds or that are damaged, or the hub is not there; or `out` holds something else.
      RunError: `out` cannot be written.
    """
    from huggingface_hub import HfApi, snapshot_download

    out, api = Path(out), HfApi(endpoint=endpoint)
    _check_name(repository)
    check_replaceable(out, ARTIFACT)  # before anything is fetched
    with _hub(repository, revision):
        commit = str(api.repo_info(repository, revision=revision).sha)
        listed = _listed(api, repository, commit)
    sizes = {name: size for name, size in listed.items() if _is_own(name)}
    _check_files(sizes, repository)
    with fresh_folder(out, ARTIFACT) as fresh:
        _check_space(sum(sizes.values()), fresh)
        with _hub(repository, revision):
            snapshot_download(
                repository,
                revision=commit,
                local_dir=fresh,
                allow_patterns=[MARK, *(f"{name}/*" for name in _FOLDERS)],
                endpoint=api.endpoint,
            )
        shutil.rmtree(fresh / ".cache", ignore_errors=True)  # the client's notes
        _check_arrived(fresh, sizes, repository)
    return out


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise InputError(
            f"{repository}: no name of a repository; expected OWNER/NAME, as in ada/norland-facts"
        )


def _names(folder: Path) -> list[str]:
    """The files of an artifact; what an interrupted write has left is none of them."""
    names = [MARK]
    for top in _FOLDERS:
        for parent, folders, files in os.walk(folder / top):
            folders[:] = [name for name in folders if Path(name).suffix not in (".new", ".old")]
            names += [(Path(parent) / name).relative_to(folder).as_posix() for name in files]
    for name in names:
        check_regular(folder / name, inside=folder)
    return names


def _is_own(name: str) -> bool:
    """Whether a path in a repository is in an artifact's place."""
    return name == MARK or name.partition("/")[0] in _FOLDERS


def _check_files(sizes: Mapping[str, int], place: object) -> None:
    """Refuse what is no artifact, has no hash, or may hold more than arrays and a tokenizer.

    Args:
      sizes: bytes of each file, by its path with slashes.
      place: for messages.
    """
    if MARK not in sizes:
        raise InputError(
            f"{place}: no edited plug-in here ({MARK} is missing); give a repository that "
            "`onceedit push` wrote"
        )
    if len(sizes) > MOST_FILES or sum(sizes.values()) > MOST_BYTES or sizes[MARK] > LARGE:
        raise InputError(
            f"{place}: {len(sizes)} files of {sum(sizes.values())} bytes, {MARK} of {sizes[MARK]}; "
            f"expected at most {MOST_FILES} of {MOST_BYTES}, and {LARGE}: this is no artifact"
        )
    for name in sizes:
        if name != MARK and not _may_be_held(name):
            raise InputError(
                f"{place}: {name!r} is no file of an artifact; expected arrays and a tokenizer, "
                "without code: remove it there"
            )
        if name != MARK and f"{_unit(name)}/{SUMS}" not in sizes:
            raise InputError(
                f"{place}: {name} has no hash ({_unit(name)}/{SUMS} is missing); edit again with "
                "this version, and push again"
            )


def _may_be_held(name: str) -> bool:
    parts = name.split("/")
    if len(parts) < 2 or len(name) > 500 or not all(map(_PART.fullmatch, parts)):
        return False
    return Path(parts[-1]).suffix in _ENDINGS or bool(_NUMBERED.fullmatch(parts[-1]))


def _unit(name: str) -> str:
    """The folder whose hashes a file is among."""
    parts = name.split("/")
    return "/".join(parts[: 2 if parts[0] == ADAPTERS else 1])


def _check_space(needed: int, folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise RunError(
            f"{folder.parent}: {free} bytes are free, and the artifact has {needed}; free some, or "
            "choose another folder"
        )


def _check_arrived(fresh: Path, sizes: Mapping[str, int], repository: str) -> None:
    """Hold what came against what was listed, and against the artifact's own hashes."""
    found = {name: (fresh / name).lstat().st_size for name in _names(fresh)}
    if found != dict(sizes):
        wrong = sorted(dict(found.items() ^ dict(sizes).items()))[0]
        raise InputError(f"{repository}: {wrong} did not come as it was listed; pull again")
    _refuse_faults(verify(fresh), fresh, repository, "nothing was written; pull another revision")


def _refuse_faults(checked: list[Verified], folder: Path, place: object, then: str) -> None:
    for each in checked:
        if each.fault:
            raise InputError(f"{each.fault.replace(str(folder), str(place))}; {then}")


def _prepare(api: "HfApi", repository: str, *, private: bool, revision: str | None) -> None:
    """Make the repository and the branch, where they are not there yet."""
    if not api.repo_exists(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
    if private and not api.repo_info(repository).private:
        raise InputError(
            f"{repository}: is public, and --private makes only a new repository private; make it "
            "private on its page, or give another name. Nothing was pushed"
        )
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)


def _listed(api: "HfApi", repository: str, revision: str | None) -> dict[str, int]:
    """The files of a repository with their bytes; one file more than `MOST_FILES` at most."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repository, recursive=True, revision=revision)
    files = (entry for entry in entries if isinstance(entry, RepoFile))
    return {file.path: file.size for file in islice(files, MOST_FILES + 1)}


def _refuse_others(there: Mapping[str, int], repository: str) -> None:
    others = [name for name in there if name not in _BESIDE]
    if others and MARK not in there:
        raise InputError(
            f"{repository}: holds {', '.join(sorted(others)[:3])}, and no {MARK}; it was not made "
            "for an edited plug-in: give the name of a new repository"
        )


@contextmanager
def _hub(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client throws into errors of one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The client's HTTP library, which changes with its version, has an error that is no OSError.
    unavailable: tuple[type[Exception], ...] = (
        OSError,
        *(each for each in HfHubHTTPError.__bases__ if issubclass(each, Exception)),
    )
    try:
        yield
    except OnceEditError:
        raise
    except RevisionNotFoundError as error:
        raise InputError(
            f"{repository}: has no revision {revision or 'main'}; see its branches and tags on its "
            "page"
        ) from error
    except GatedRepoError as error:
        raise InputError(
            f"{repository}: access is restricted; accept its terms on its page, log in (hf auth "
            "login) and run again"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repository}: no such repository, or it is not yours to see; check the spelling, and "
            "log in (hf auth login, or HF_TOKEN)"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"{repository}: {_refusal(error)}") from error
    except (HFValidationError, ValueError) as error:
        raise InputError(f"{repository}: the hub refuses this ({_text(error)})") from error
    except unavailable as error:
        if isinstance(error, OSError) and error.errno and error.filename:  # a file of this machine
            raise
        raise InputError(
            f"{repository}: the hub is not available ({_text(error)}); check the network, and "
            "HF_ENDPOINT and HF_HUB_OFFLINE if they are set"
        ) from error


def _refusal(error: object) -> str:
    """What the hub says by a status, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub asks who you are; log in (hf auth login), or set HF_TOKEN"
    if status == 403:
        return (
            "your token may not write here; make one with the permission to write, or give a "
            "repository of your own"
        )
    return f"the hub answered {status} ({_text(error)}); run again later"


def _text(error: object) -> str:
    """An error's text on one line, without the addresses and advice of later ones."""
    lines = str(error).split("\n")
    first = next((line.strip() for line in lines if line.strip()), type(error).__name__)
    return first[:300]
