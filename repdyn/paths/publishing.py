"""A store of paths as a data set of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repdyn.hub import upload
from repdyn.paths.layout import is_paths, read_layout
from repdyn.publishing import CARD, digest_rows, escaped, fenced, table

__all__ = ["StoreOnHub"]

_FILES = ("paths/*", "tokens/*", "lengths/*", "logits/*", "labels/*", "ids/*", "checksums/*")


class StoreOnHub:
    """``push_to_hub`` for paths."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload to a data set of the Hugging Face Hub, with a card; :func:`open_paths` opens it.

        The files of a store in a folder are uploaded as they are, with the provenance in its ``zarr.json``.
        Other paths are first saved to a temporary folder. A store of repdyn that was there is replaced.

        Parameters
        ----------
        repo_id
            ``"user/name"``. It is created if it does not exist. Its address is ``hf://datasets/user/name``.
        commit_message
            Default: ``"Upload with repdyn"``.
        private
            Whether a new repository is private; default: as the account is set.
        token
            Default: that of ``hf auth login`` or ``HF_TOKEN``.
        branch
            An existing branch; default: ``main``.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        RepdynError
            If the account may not write there, the repository holds what repdyn did not write, or the Hub
            cannot be reached.

        Examples
        --------
        >>> paths.push_to_hub("ada/pictures-paths")  # doctest: +SKIP
        'https://huggingface.co/datasets/ada/pictures-paths/commit/…'
        >>> repdyn.open_paths("hf://datasets/ada/pictures-paths")  # doctest: +SKIP
        """
        paths: Any = self
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "store"
            if _is_whole(paths):
                _link(paths.path, folder)
            else:
                paths.save(folder)
            (folder / CARD).write_text(_card(paths, folder, repo_id), encoding="utf-8")
            return upload(
                folder, repo_id, marker="zarr.json", own=_FILES, is_own=is_paths, dataset=True,
                commit_message=commit_message, private=private, token=token, branch=branch,
            )  # fmt: skip


def _is_whole(paths: Any) -> bool:
    """Whether these paths are all that a store in a folder holds; samples and points may have been chosen."""
    if not isinstance(paths.path, Path) or not paths.is_unchosen:
        return False
    layout = read_layout(paths.path)
    own = (paths.points, len(paths), dict(paths.meta))
    return own == (layout.points, layout.size, dict(layout.meta))


def _link(store: Path, folder: Path) -> None:
    """A folder of links to the files of a store, so that a card can lie beside them."""
    for file in store.absolute().rglob("*"):
        name = file.relative_to(store.absolute())
        if file.is_file() and name.name[0] != "." and name.parts != (CARD,):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(file)


def _card(paths: Any, folder: Path, repo_id: str) -> str:
    """The card of a data set, from the paths alone; every text in it is escaped."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(tags=["repdyn", "representation-paths"], viewer=False)
    meta: Mapping[str, Any] = paths.meta
    lines = ["---", data.to_yaml(), "---", "", f"# {escaped(repo_id.rpartition('/')[2])}", ""]
    lines += [
        "The representations of samples at points of a model, in order of depth: a store of repdyn.",
        "",
    ]
    first, _, others = repr(paths).partition("\n")
    first = first.partition(", in ")[0] + ", in this repository"  # instead of a folder of this machine
    lines += fenced(f"{first}\n{others}", "text")
    lines += ["## How to open it", ""]
    lines += fenced(
        f"import repdyn\n\npaths = repdyn.open_paths({'hf://datasets/' + repo_id!r})  # read by ranges",
        "python",
    )
    lines += ["To read it through memory maps, download it first:", ""]
    lines += fenced(
        "import huggingface_hub\n\n"
        f"folder = huggingface_hub.snapshot_download({repo_id!r}, repo_type='dataset')\n"
        "paths = repdyn.open_paths(folder)",
        "python",
    )
    lines += ["It is a Zarr v3 group, which any reader of Zarr opens.", "", "## How it was made", ""]
    versions = meta.get("versions")
    rows: list[tuple[str, Any]] = [
        (name, meta.get(name))
        for name in ("model", "digest", "pooling", "preprocessing", "data", "seed", "created", "device")
    ]
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{name} {one}" for name, one in versions.items())))
    rows += digest_rows(folder, "zarr.json")
    lines += table(("", ""), rows)
    return "\n".join(lines) + "\n"
