"""Storage of a store of paths: a local folder, or a URL of an fsspec file system (`s3://`, `gs://`, …)."""

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
# pathlib turns s3://bucket/a.paths into s3:/bucket/a.paths; a folder is not called "s3:".
_ONE_SLASH = re.compile(r"^([a-z][a-z0-9+.-]+):/(?=[^/])")


class Storage(Protocol):
    """Named files below one root, each complete or absent.

    Names are relative, with slashes. Reading a missing file raises :class:`FileNotFoundError`.
    """

    def read(self, name: str) -> bytes: ...
    def read_many(self, names: Sequence[str]) -> list[bytes]: ...
    def write(self, name: str, data: bytes | NDArray[Any]) -> None: ...
    def remove(self, name: str) -> None: ...
    def remove_below(self, name: str) -> None: ...
    def sizes(self) -> Callable[[str], int | None]: ...
    def exists(self) -> bool: ...
    def is_empty(self) -> bool: ...
    def entries(self) -> list[str]: ...
    def sweep(self) -> None: ...


class Folder:
    """A local folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        """Contents of a file; a folder, or a name below a file, counts as missing."""
        try:
            return (self.path / name).read_bytes()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(error.errno, error.strerror, str(self.path / name)) from None

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Contents of several files."""
        return [self.read(name) for name in names]

    def write(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Write a file under a temporary name and rename it, so that it is complete or absent.

        Raises
        ------
        RepdynError
            If writing fails; an earlier file is left unchanged.
        """
        target = self.path / name
        scratch, held = None, None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # An unpredictable name: no other writer uses it, and no link can be planted there.
            descriptor, name = tempfile.mkstemp(PARTIAL, f".{target.name}-", target.parent)
            scratch = Path(name)
            held = hold(scratch, wait=True)  # another writer's sweep leaves locked files
            with os.fdopen(descriptor, "wb") as file:
                file.write(as_bytes(data))
                file.flush()
                # Without fsync a power failure could leave an empty file under the new name.
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
        """Remove a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def remove_below(self, name: str) -> None:
        """Remove a folder and its contents, if it exists."""
        shutil.rmtree(self.path / name, ignore_errors=True)

    def sizes(self) -> Callable[[str], int | None]:
        """A function from a file name to its size in bytes, or ``None``."""
        return self._size

    def exists(self) -> bool:
        """Whether the location exists."""
        return self.path.exists()

    def is_empty(self) -> bool:
        """Whether it is an empty folder."""
        return self.path.is_dir() and not any(self.path.iterdir())

    def entries(self) -> list[str]:
        """Names of what lies at the root, in order, without temporary files."""
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.endswith(PARTIAL))

    def sweep(self) -> None:
        """Remove temporary files of killed writers; those of running writers are locked and stay."""
        for leftover in self.path.rglob(f".*{PARTIAL}"):
            held = hold(leftover, wait=False)
            if held is not None:
                leftover.unlink(missing_ok=True)
                os.close(held)

    def scratch(self) -> Folder:
        """A new temporary folder next to this one, for :meth:`take_over`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
            made.chmod(0o755)
        except OSError as error:
            raise writing_failed(self.path, error) from error
        return Folder(made)

    def take_over(self, scratch: Folder) -> None:
        """Rename a finished folder to this path; the earlier folder is removed afterwards."""
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
        """Size of a file in bytes, or ``None``."""
        try:
            return (self.path / name).stat().st_size
        except OSError:  # missing or out of reach: its chunk is not complete
            return None


class Remote:
    """An fsspec file system at a URL. Objects are put in one piece, so each is complete or absent."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        scheme = url.partition(":")[0]
        try:
            self.fs, root = url_to_fs(url)
        except ImportError as error:
            # The message of fsspec names the package: "Install s3fs to access S3".
            raise RepdynError(f"{url}: {str(error).rstrip('.')}, with pip") from None
        except ValueError as error:
            raise RepdynError(f"{url}: {scheme}:// cannot be reached ({error})") from None
        self.root = root.rstrip("/")
        self._url = url

    def __str__(self) -> str:
        return self._url

    def at(self, name: str) -> str:
        """Full name of a file in the file system."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """Contents of an object."""
        try:
            return bytes(self.fs.cat_file(self.at(name)))
        except FileNotFoundError:
            raise
        except Exception as error:  # services raise exceptions of their own, few of them OSError
            raise RepdynError(f"{self}/{name}: cannot be read ({_reason(error)})") from None

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Contents of several objects, requested concurrently."""
        return self.fetch([(name, None, None) for name in names])

    def fetch(self, ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes]:
        """Read parts ``(name, start, stop)`` of objects, requested concurrently."""
        names, starts, stops = zip(*ranges)
        try:
            parts = self.fs.cat_ranges([self.at(name) for name in names], list(starts), list(stops))
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be read ({_reason(error)})") from None
        for name, part in zip(names, parts):
            if isinstance(part, FileNotFoundError):
                raise FileNotFoundError(f"{self}/{name}")
            if isinstance(part, Exception):
                raise RepdynError(f"{self}/{name}: cannot be read ({_reason(part)})")
        return [bytes(part) for part in parts]

    def write(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Put an object in one piece."""
        try:
            try:
                self.fs.pipe_file(self.at(name), bytes(as_bytes(data)))
            except FileNotFoundError:
                # File systems with folders need them created; a missing bucket is not created.
                if not self.fs.exists(self.root.partition("/")[0] or "/"):
                    raise
                self.fs.makedirs(self.at(name).rpartition("/")[0], exist_ok=True)
                self.fs.pipe_file(self.at(name), bytes(as_bytes(data)))
        except Exception as error:  # as above
            raise RepdynError(
                f"{self}/{name}: cannot be written ({_reason(error)}); check the address and the "
                "permission to write"
            ) from None

    def remove(self, name: str) -> None:
        """Remove an object, if it exists."""
        try:
            self.fs.rm_file(self.at(name))
        except FileNotFoundError:
            return
        except Exception as error:  # as above
            raise RepdynError(f"{self}/{name}: cannot be removed ({_reason(error)})") from None

    def remove_below(self, name: str) -> None:
        """Remove all objects below a name."""
        try:
            self.fs.invalidate_cache()
            self.fs.rm(self.at(name), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # as above
            raise RepdynError(f"{self}/{name}: cannot be removed ({_reason(error)})") from None

    def sizes(self) -> Callable[[str], int | None]:
        """A function from an object name to its size in bytes, or ``None``, from one listing."""
        self.fs.invalidate_cache()
        try:
            listing = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            listing = {}
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be listed ({_reason(error)})") from None
        start = len(self.root) + 1
        return {str(name)[start:]: int(known["size"]) for name, known in listing.items()}.get

    def exists(self) -> bool:
        """Whether the location exists."""
        self.fs.invalidate_cache()
        try:
            return bool(self.fs.exists(self.root))
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be reached ({_reason(error)})") from None

    def is_empty(self) -> bool:
        """Whether it is a folder without objects."""
        self.fs.invalidate_cache()
        return self.exists() and self.fs.isdir(self.root) and not self.fs.find(self.root)

    def entries(self) -> list[str]:
        """First parts of the names of all objects, in order."""
        self.fs.invalidate_cache()
        try:
            below = self.fs.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise RepdynError(f"{self}: cannot be listed ({_reason(error)})") from None
        names = {str(path).rstrip("/").removeprefix(self.root).strip("/") for path in below}
        return sorted(name.partition("/")[0] for name in names if name)  # some list the folder itself

    def sweep(self) -> None:
        """Do nothing: objects are complete or absent."""


def storage_at(path: str | os.PathLike[str]) -> Folder | Remote:
    """The storage at a path or URL.

    Raises
    ------
    RepdynError
        If the file system of the URL is unknown, or its package is not installed (the message names it).
    """
    text = os.fspath(path)
    if not isinstance(path, str):
        text = _ONE_SLASH.sub(r"\1://", text)
    if text.startswith(("postgresql:", "postgres:")):  # the address is not shown: it may hold a password
        raise RepdynError(
            "postgresql://…: a database is read by `repdyn migrate` only; write its vectors to a Parquet file"
        )
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Remote(text.rstrip("/")) if "://" in text else Folder(Path(text))


def as_bytes(data: bytes | NDArray[Any]) -> bytes | memoryview:
    """The bytes of an array in C order, without a copy."""
    return data.reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else data


def refuse_exhaustion(error: Exception) -> None:
    """Raise if the process has too many open files, which is no damage of the file."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise RepdynError(
            f"{error.filename}: cannot be opened, this process has too many files open; raise `ulimit -n`"
        ) from None


def writing_failed(target: Path, error: OSError) -> RepdynError:
    """The error for a failed write, in one line."""
    if error.errno in _NO_SPACE:
        return RepdynError(
            f"{target}: no space left on the disk; complete chunks are kept, free some space and run again"
        )
    refuse_exhaustion(error)
    return RepdynError(f"{target}: cannot be written ({error.strerror or error}); choose another path")


def _reason(error: Exception) -> str:
    """Message of an exception in one line, or its class name."""
    return " ".join(str(error).split()) or type(error).__name__
