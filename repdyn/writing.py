"""Files and folders that appear whole or not at all, also where the writer is killed or is not alone."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "Scratch",
    "earlier_of",
    "hold",
    "is_scratch",
    "replace_folder",
    "scratch_folder",
    "sweep_scratch",
    "whole_file",
]

_MARK = ".repdyn-"  # between the name of the destination and eight random characters
_EARLIER = ".earlier"
_ATTEMPTS = 100  # of a swap, while other writers swap the same folder
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux' renameat2
_HERE = -100  # AT_FDCWD


class Scratch:
    """A folder beside its destination that is marked as in use for as long as this process holds it.

    Attributes
    ----------
    path
        The folder.
    """

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            made = tempfile.mkdtemp(prefix=f".{target.name}{_MARK}", dir=target.parent)
            self.path = Path(made)
            self._held = hold(self.path, wait=True)
            if self.path.is_dir():  # else a sweep took it before it was held
                break
            self._let_go()
        self.path.chmod(0o755)

    def close(self) -> None:
        """Remove what is left of the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(_set_aside(self.path), ignore_errors=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, to be filled and then moved there; removed at the end.

    Folders that killed writers left beside ``target`` are removed first.
    """
    sweep_scratch(target)
    scratch = Scratch(target)
    try:
        yield scratch.path
    finally:
        scratch.close()
    sweep_scratch(target)  # an earlier folder that was set aside is needed no more


def replace_folder(scratch: Path, target: Path) -> None:
    """Move a finished folder to its destination; what was there is in ``scratch`` afterwards, or gone.

    Linux exchanges the two in one step. Elsewhere the earlier folder is set aside first, under a name by
    which :func:`earlier_of` finds it again if the process is killed in between.

    Raises
    ------
    OSError
        If the file system refuses; what was at ``target`` is still there.
    """
    for attempt in range(_ATTEMPTS):
        try:
            if _exchange(scratch, target):
                return
            aside = _set_aside(scratch)
            with suppress(FileNotFoundError):
                target.rename(aside)
            try:
                scratch.rename(target)
            except OSError:
                if target.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                elif aside.is_dir():
                    aside.rename(target)
                raise
        except OSError as error:
            # Another writer has just put its own result there.
            crowded = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not crowded or attempt == _ATTEMPTS - 1:
                raise
        else:
            shutil.rmtree(aside, ignore_errors=True)
            return


def earlier_of(target: Path) -> Path | None:
    """Where the earlier folder is if a writer was killed while it replaced ``target``; else ``None``."""
    if target.exists():
        return None
    found: list[tuple[float, Path]] = []
    for path in _siblings(target):
        if path.name.endswith(_EARLIER):
            # Another writer may remove its own between the listing and this.
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def is_scratch(name: str) -> bool:
    """Whether a name is one that a writer gives to what is not finished yet, or set aside."""
    return name.startswith(".") and _MARK in name


def sweep_scratch(target: Path) -> None:
    """Remove the folders and files that killed writers left beside ``target``; those in use are kept."""
    kept = earlier_of(target)
    for path in _siblings(target):
        if path == kept:
            continue
        held = hold(path, wait=False)
        if held is None:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A new file beside ``target``, to be written; it replaces ``target`` at the end, if nothing was raised.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_file(folder / "a.csv") as scratch:
    ...     _ = scratch.write_text("id")
    >>> (folder / "a.csv").read_text(), len(list(folder.iterdir()))
    ('id', 1)
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():  # /dev/stdout and pipes cannot be replaced, only written
        yield target
        return
    sweep_scratch(target)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}{_MARK}", dir=target.parent)
    scratch = Path(name)
    held = hold(scratch, wait=True)
    try:
        os.fchmod(descriptor, _mode(target)) if hasattr(os, "fchmod") else None
        yield scratch
        os.fsync(descriptor)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
        os.close(descriptor)
        if held is not None:
            os.close(held)


def _mode(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _set_aside(scratch: Path) -> Path:
    return scratch.with_name(scratch.name + _EARLIER)


def _siblings(target: Path) -> list[Path]:
    ours = re.compile(rf"\.{re.escape(target.name)}{re.escape(_MARK)}[a-z0-9_]{{8}}({re.escape(_EARLIER)})?")
    try:
        beside = sorted(target.parent.iterdir())
    except OSError:
        return []
    return [path for path in beside if ours.fullmatch(path.name) and not path.is_symlink()]


def hold(path: Path, wait: bool) -> int | None:
    """Mark a folder or file as in use; ``None`` where another process holds it or no lock can be had."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; ``False`` where the system cannot, or ``other`` is not there."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))
