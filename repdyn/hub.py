"""The Hugging Face Hub: addresses of repositories, downloads, uploads, and an error for each that fails.

``huggingface_hub`` does the transfers, and ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and ``HF_HOME``
have their usual meanings. Its ``ModelHubMixin`` is not used, because it passes the entries of ``config.json``
to the constructor, and a saved result keeps its digest and its own entries there.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repdyn.errors import RepdynError

__all__ = ["Repository", "repository", "repository_at", "upload"]

_REVISION = r"refs/(?:pr|convert)/[^/@]+|[^/@]+"
# pathlib turns hf://user/name into hf:/user/name.
_ADDRESS = re.compile(rf"hf:/{{1,2}}(?:models/)?([^/@]+/[^/@]+)(?:@({_REVISION}))?(?:/(.+?))?/?")
_BARE = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Repository(os.PathLike[str]):
    """A repository of the Hub that holds a saved result.

    Attributes
    ----------
    name
        ``"user/name"``.
    revision
        Branch, tag or commit; default: the latest commit.
    folder
        Folder within the repository; empty for its root.
    token
        Of the account; default: that of ``hf auth login`` or ``HF_TOKEN``.
    """

    name: str
    revision: str | None = None
    folder: str = ""
    token: str | None = field(default=None, repr=False)

    def __fspath__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.name}{revision}" + (f"/{self.folder}" if self.folder else "")

    __str__ = __fspath__

    def fetch(self, file: str, commit: str | None = None) -> tuple[Path, str]:
        """Download a file, unless it is in the cache.

        Parameters
        ----------
        file
            Its name within the folder.
        commit
            Of an earlier file that this one belongs to.

        Returns
        -------
        path, commit
            The file in the cache, and its commit.

        Raises
        ------
        RepdynError
            If the repository or the file does not exist, or the Hub cannot be reached.
        """
        inner = f"{self.folder}/{file}" if self.folder else file
        with _clear_errors(str(self), self.revision):
            found = _api(self.token).hf_hub_download(self.name, inner, revision=commit or self.revision)
        path = Path(found)
        return path, path.parents[inner.count("/")].name


def repository(
    path: str | os.PathLike[str], revision: str | None = None, token: str | None = None
) -> str | os.PathLike[str]:
    """What ``from_pretrained`` is given: a folder of this machine, or a repository.

    Parameters
    ----------
    path
        A folder; an address ``hf://user/name``, which ``@REVISION`` and a folder may follow; or
        ``"user/name"``, which is a repository if no such folder exists. A :class:`pathlib.Path` is a folder.
    revision, token
        See :class:`Repository`.

    Raises
    ------
    RepdynError
        If a revision or a token is given for a folder.

    Examples
    --------
    >>> repository("hf://ada/vectors@v2")
    Repository(name='ada/vectors', revision='v2', folder='')
    """
    found = repository_at(path)
    if found is None and isinstance(path, str) and _BARE.fullmatch(path) and not os.path.exists(path):
        found = Repository(path)
    if found is None:
        if revision is not None or token is not None:
            raise RepdynError(f"{os.fspath(path)}: is a folder of this machine, without revisions and tokens")
        return path
    if None not in (revision, found.revision) and revision != found.revision:
        raise RepdynError(f"{found}: names another revision than revision={revision!r}; give one of them")
    return Repository(found.name, revision or found.revision, found.folder, token or found.token)


def repository_at(path: str | os.PathLike[str]) -> Repository | None:
    """The repository of an address ``hf://user/name``, or None for a folder.

    Raises
    ------
    RepdynError
        If the address names a data set or no repository.
    """
    if isinstance(path, Repository):
        return path
    text = os.fspath(path)
    if not re.match("hf:/", text):
        return None
    found = _ADDRESS.fullmatch(text)
    if re.match("hf:/{1,2}(datasets|spaces)/", text):
        raise RepdynError(f"{text}: holds no saved result; repdyn.open_paths opens a store of a data set")
    if found is None:
        raise RepdynError(
            f"{text}: is no address of a repository; expected hf://user/name[@revision][/folder]"
        )
    return Repository(found[1], found[2], found[3] or "")


def upload(
    folder: Path,
    repo_id: str,
    *,
    marker: str,
    own: tuple[str, ...],
    is_own: Callable[[Mapping[str, Any]], bool],
    dataset: bool = False,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
) -> str:
    """Upload a folder with its card to a repository, which is created where it does not exist.

    Files of an earlier result of repdyn and the card are replaced or removed. Other files are kept.

    Parameters
    ----------
    folder
        What to upload.
    repo_id
        ``"user/name"``.
    marker
        The JSON file that says what a folder holds: ``config.json`` or ``zarr.json``.
    own
        Patterns of the other files that are a part of what ``marker`` describes, relative to it.
    is_own
        Whether the contents of a marker are repdyn's.
    dataset
        Whether it is a repository of data.
    commit_message, private, token, branch
        As in ``huggingface_hub``.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    RepdynError
        If the repository holds what repdyn did not write under the same names, the account may not write, or
        the Hub cannot be reached.
    """
    api, kind = _api(token), "dataset" if dataset else "model"
    with _clear_errors(repo_id, branch, writing=True):
        name = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True).repo_id
        held = api.list_repo_files(name, repo_type=kind, revision=branch)
        earlier = []
        for inner in ["", *sorted({file[: -len(marker)] for file in held if file.endswith("/" + marker)})]:
            parts = [file for file in held if any(fnmatch.fnmatchcase(file, inner + part) for part in own)]
            ours = False
            if inner + marker in held:
                known = _json(api.hf_hub_download(name, inner + marker, repo_type=kind, revision=branch))
                ours = isinstance(known, dict) and is_own(known)
                parts.append(inner + marker)
            if ours:
                earlier += parts
            elif parts and not inner:
                raise RepdynError(
                    f"{name}: holds {parts[-1]!r}, which repdyn did not write; choose another repository"
                )
        done = api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            revision=branch,
            commit_message=commit_message or "Upload with repdyn",
            delete_patterns=[re.sub(r"([*?[])", r"[\1]", file) for file in earlier],  # names, not patterns
        )
    return str(getattr(done, "commit_url", done))


@contextmanager
def _clear_errors(where: str, revision: str | None, writing: bool = False) -> Iterator[None]:
    """Turn errors of a transfer into one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except RepdynError:
        raise
    except errors.HFValidationError as error:
        raise RepdynError(f"{where}: is no name of a repository ({_line(error)})") from None
    except errors.GatedRepoError:
        raise RepdynError(f"{where}: its owner must give access; ask on its page, then log in") from None
    except errors.RevisionNotFoundError:
        raise RepdynError(f"{where}: the repository has no branch, tag or commit {revision!r}") from None
    except errors.LocalTokenNotFoundError:
        raise RepdynError(f"{where}: there is no token; run `hf auth login`, or set HF_TOKEN") from None
    except Exception as error:  # of the network's library, which differs between versions
        raise RepdynError(f"{where}: {_reason(error, writing)}") from error


def _reason(error: Exception, writing: bool) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (above := chain[-1].__cause__ or chain[-1].__context__) is not None and above not in chain:
        chain.append(above)
    missing = "" if writing else "there is no such folder, nothing of that name is in the cache, and "
    if any(isinstance(one, errors.OfflineModeIsEnabled) for one in chain):
        return f"{missing}HF_HUB_OFFLINE keeps from asking the Hub; unset it"
    status = next(
        (found.status_code for one in chain if (found := getattr(one, "response", None)) is not None), None
    )
    if status == 401 and writing:
        return "the Hub writes for known accounts only; run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"this token may not do that; give one that may {'write' if writing else 'read'} there"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such folder, and no such repository on the Hub, or it is private; check the name, "
            "or run `hf auth login`"
        )
    if status == 401:
        return "the Hub does not know this token; run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        return "holds no result of repdyn (config.json and model.safetensors); nothing else in it is read"
    if status is not None:
        return f"the Hub answers with status {status} ({_line(error)}); try again later"
    if not isinstance(chain[-1], OSError) and "http" not in type(chain[-1]).__module__:
        return f"the transfer failed ({_line(error)})"
    return f"{missing}the Hub cannot be reached ({_line(chain[-1])}); check the network and HF_ENDPOINT"


def _api(token: str | None) -> Any:
    from huggingface_hub import HfApi  # takes half a second, which no local folder needs

    from repdyn import __version__

    return HfApi(token=token, library_name="repdyn", library_version=__version__)


def _json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:150]}" if text else type(error).__name__
