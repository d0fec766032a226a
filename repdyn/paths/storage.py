"""Where a store of paths is: a folder of this machine, or a URL that fsspec knows (`s3://`, `gs://`, …)."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.writing import hold

__all__ = ["Folder", "Remote", "Storage", "as_bytes", "refuse_exhaustion", "storage_at", "writing_failed"]

PARTIAL = ".part"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# pathlib makes one slash of the two in s3://bucket/a.paths; no folder is called "s3:".
_SWALLOWED = re.compile(r"^([a-z][a-z0-9+.-]+):/(?=[^/])")


class Storage(Protocol):
    """Named files, each complete or absent, below one root.

    Names are relative, with slashes. What is read and is not there raises :class:`FileNotFoundError`.
    """

    def read(self, name: str) -> bytes: ...
    def read_many(self, names: Sequence[str]) -> list[bytes]: ...
    def write(self, name: str, data: bytes | NDArray[Any]) -> None: ...
    def remove(self, name: str) -> None: ...
    def remove_below(self, name: str) -> None: ...
    def sizes(self) -> Callable[[str], int | None]: ...
    def exists(self) -> bool: ...
    def is_empty(self) -> bool: ...
    def sweep(self) -> None: ...


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        """A file's contents; what is no file there, or lies below one, is missing."""
        try:
            return (self.path / name).read_bytes()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(error.errno, error.strerror, str(self.path / name)) from None

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """The contents of several files."""
        return [self.read(name) for name in names]

    def write(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Write a file beside its place and move it there, so that it is complete or absent.

        Raises
        ------
        RepdynError
            If the disk is full or refuses; what was there before is still there.
        """
        target = self.path / name
        scratch, held = None, None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # A name that nobody can foresee: no other writer uses it, and nobody can put a link there.
            descriptor, name = tempfile.mkstemp(PARTIAL, f".{target.name}-", target.parent)
            scratch = Path(name)
            held = hold(scratch, wait=True)  # so that another writer does not sweep it
            with os.fdopen(descriptor, "wb") as file:
                file.write(as_bytes(data))
                file.flush()
                # Without this a power cut could leave the new name on an empty file.
                os.fsync(file.fileno())
            scratch.chmod(0o644)
            scratch.replace(target)
        except OSError as error:
            if scratch is not None:
                scratch.unlink(missing_ok=True)
            raise writing_failed(target, error) from error
        finally:
            if held is not None:
                os.close(held)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def remove_below(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""
        shutil.rmtree(self.path / name, ignore_errors=True)

    def sizes(self) -> Callable[[str], int | None]:
        """What tells the size of a file by its name, ``None`` where there is none."""
        return self._size

    def exists(self) -> bool:
        """Whether anything is there."""
        return self.path.exists()

    def is_empty(self) -> bool:
        """Whether it is a folder with nothing in it."""
        return self.path.is_dir() and not any(self.path.iterdir())

    def sweep(self) -> None:
        """Remove what killed writers left half written; what a live one is writing stays."""
        for leftover in self.path.rglob(f".*{PARTIAL}"):
            held = hold(leftover, wait=False)
            if held is not None:
                leftover.unlink(missing_ok=True)
                os.close(held)

    def scratch(self) -> Folder:
        """A new folder beside this one, to be filled and then moved here."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
            made.chmod(0o755)
        except OSError as error:
            raise writing_failed(self.path, error) from error
        return Folder(made)

    def take_over(self, scratch: Folder) -> None:
        """Move a finished folder here; what was here is removed only after that."""
        earlier = scratch.path.with_name(scratch.path.name + ".earlier")
        try:
            if self.path.exists():
                self.path.rename(earlier)
            scratch.path.rename(self.path)
        except OSError as error:
            if earlier.exists() and not self.path.exists():
                earlier.rename(self.path)
            raise writing_failed(self.path, error) from error
        shutil.rmtree(earlier, ignore_errors=True)

    def _size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return None


class Remote:
    """What fsspec reaches by a URL: an object is put there in one piece, so it is complete or absent."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        scheme = url.partition(":")[0]
        try:
            self.fs, root = url_to_fs(url)
        except ImportError as error:
            # fsspec names the package: "Install s3fs to access S3".
            raise RepdynError(f"{url}: {str(error).rstrip('.')}, with pip") from None
        except ValueError as error:
            raise RepdynError(f"{url}: {scheme}:// cannot be reached ({error})") from None
        self.root = root.rstrip("/")
        self._url = url

    def __str__(self) -> str:
        return self._url

    def at(self, name: str) -> str:
        """A file's name as the file system knows it."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """An object's contents."""
        try:
            return bytes(self.fs.cat_file(self.at(name)))
        except FileNotFoundError:
            raise
        except Exception as error:  # every service has its own exceptions, few of them are OSError
            raise RepdynError(f"{self}/{name}: cannot be read ({_reason(error)})") from None

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """The contents of several objects, asked for together."""
        return self.fetch([(name, None, None) for name in names])

    def fetch(self, ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes]:
        """Read parts of objects, ``(name, start, stop)`` each, asked for together."""
        names, starts, stops = zip(*ranges)
        try:
            found = self.fs.cat_ranges([self.at(name) for name in names], list(starts), list(stops))
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be read ({_reason(error)})") from None
        for name, part in zip(names, found):
            if isinstance(part, FileNotFoundError):
                raise FileNotFoundError(f"{self}/{name}")
            if isinstance(part, Exception):
                raise RepdynError(f"{self}/{name}: cannot be read ({_reason(part)})")
        return [bytes(part) for part in found]

    def write(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Put an object, in one piece."""
        try:
            try:
                self.fs.pipe_file(self.at(name), bytes(as_bytes(data)))
            except FileNotFoundError:
                # A system of folders wants them made; a bucket that does not exist is not ours to make.
                if not self.fs.exists(self.root.partition("/")[0] or "/"):
                    raise
                self.fs.makedirs(self.at(name).rpartition("/")[0], exist_ok=True)
                self.fs.pipe_file(self.at(name), bytes(as_bytes(data)))
        except Exception as error:  # as above
            raise RepdynError(
                f"{self}/{name}: cannot be written ({_reason(error)}); is the address right, may you write?"
            ) from None

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self.fs.rm_file(self.at(name))
        except FileNotFoundError:
            return
        except Exception as error:  # as above
            raise RepdynError(f"{self}/{name}: cannot be removed ({_reason(error)})") from None

    def remove_below(self, name: str) -> None:
        """Remove all below a name, if there is any."""
        try:
            self.fs.invalidate_cache()
            self.fs.rm(self.at(name), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # as above
            raise RepdynError(f"{self}/{name}: cannot be removed ({_reason(error)})") from None

    def sizes(self) -> Callable[[str], int | None]:
        """What tells the size of an object by its name: one listing, taken now."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            found = {}
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be listed ({_reason(error)})") from None
        start = len(self.root) + 1
        return {str(name)[start:]: int(known["size"]) for name, known in found.items()}.get

    def exists(self) -> bool:
        """Whether anything is there."""
        self.fs.invalidate_cache()
        try:
            return bool(self.fs.exists(self.root))
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be reached ({_reason(error)})") from None

    def is_empty(self) -> bool:
        """Whether there is nothing below it."""
        self.fs.invalidate_cache()
        return self.exists() and self.fs.isdir(self.root) and not self.fs.find(self.root)

    def sweep(self) -> None:
        """Nothing: what was not put whole is not there."""


def storage_at(path: str | os.PathLike[str]) -> Folder | Remote:
    """The place that a path or URL names.

    Raises
    ------
    RepdynError
        If the URL's file system is unknown or its package is not installed (it is named).
    """
    text = os.fspath(path)
    if not isinstance(path, str):
        text = _SWALLOWED.sub(r"\1://", text)
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Remote(text.rstrip("/")) if "://" in text else Folder(Path(text))


def as_bytes(data: bytes | NDArray[Any]) -> bytes | memoryview:
    """The bytes of an array in C order, not copied."""
    return data.reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else data


def refuse_exhaustion(error: Exception) -> None:
    """Say that a process has too many files open, which is no damage of what it could not open."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise RepdynError(
            f"{error.filename}: cannot be opened, this process has too many files open; raise `ulimit -n`"
        ) from None


def writing_failed(target: Path, error: OSError) -> RepdynError:
    """Say in one line why something could not be written."""
    if error.errno in _NO_SPACE:
        return RepdynError(
            f"{target}: no space left on the disk; what was complete is kept, free some space and run again"
        )
    refuse_exhaustion(error)
    return RepdynError(f"{target}: cannot be written ({error.strerror or error}); choose another path")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
