"""Saved results as repositories of the Hugging Face Hub, with a model card written from the result."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repdyn.artifacts import is_result, load_artifact
from repdyn.hub import upload
from repdyn.provenance import SIGNATURE, made_by, without_folders

__all__ = ["CARD", "HubMixin", "card", "digest_rows", "escaped", "fenced", "publish", "table"]

CARD = "README.md"
_FILES = ("model.safetensors", SIGNATURE)
_ROLE = re.compile(r":\w+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")
_MARKUP = re.compile(r"[^\w\s.,;%+=/-]|_")
_SETTINGS_SHOWN, _LONGEST = 40, 300


class HubMixin:
    """``push_to_hub`` for classes with ``save_pretrained`` or ``save``."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Save to a repository of the Hugging Face Hub, with a model card that states what it is.

        The card holds what this object prints: verdict, controls and intervals, where it has them; its
        settings, digests and versions. ``config.json`` and ``model.safetensors`` are uploaded as ``save``
        writes them. An earlier result of repdyn is replaced, and files of others are never.

        Parameters
        ----------
        repo_id
            ``"user/name"``. It is created if it does not exist.
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
            If nothing is fitted, the account may not write there, the repository holds what repdyn did not
            write, or the Hub cannot be reached.

        Examples
        --------
        >>> detector.push_to_hub("ada/pictures-detector", private=True)  # doctest: +SKIP
        'https://huggingface.co/ada/pictures-detector/commit/…'
        """
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "result"
            own: Any = self
            (own.save_pretrained if hasattr(own, "save_pretrained") else own.save)(folder)
            return publish(
                folder, {"": self}, repo_id, commit_message=commit_message, private=private, token=token,
                branch=branch,
            )  # fmt: skip


def publish(folder: Path, held: Mapping[str, object], repo_id: str, **options: Any) -> str:
    """Write the card into a folder of saved results and upload it.

    Parameters
    ----------
    folder
        A copy that may be written to.
    held
        The result in each folder within; the empty name is the folder itself.
    repo_id
        ``"user/name"``.
    options
        Of :func:`repdyn.hub.upload`.
    """
    (folder / CARD).write_text(card(folder, held, repo_id), encoding="utf-8")
    return upload(folder, repo_id, marker="config.json", own=_FILES, is_own=is_result, **options)


def card(folder: Path, held: Mapping[str, object], repo_id: str) -> str:
    """The model card of saved results; parameters are those of :func:`publish`.

    Every text in it is escaped, and absolute paths are cut down to their last part.
    """
    from huggingface_hub import ModelCardData

    from repdyn import __version__

    main = held[""]
    artifact = load_artifact(folder)
    tags = ["repdyn", artifact.kind.replace(" ", "-").replace("_", "-")]
    data = ModelCardData(library_name="repdyn", tags=tags)
    lines = ["---", data.to_yaml(), "---", "", f"# {escaped(repo_id.rpartition('/')[2])}", ""]
    lines += [_described(type(main)), ""]
    for name, result in held.items():
        lines += [f"## {escaped(name)}: {_described(type(result))}", ""] if name else []
        lines += _verdict(result)
        lines += fenced(_printed(result), "text")
    lines += ["## How to load it", ""]
    lines += fenced(_loading(type(main), repo_id), "python")
    lines += [
        "Nothing is unpickled: `model.safetensors` holds arrays, `config.json` all else. The digest of both "
        "is verified when they are loaded.",
        "",
        "## How it was made",
        "",
    ]
    made = made_by(folder)
    rows = [
        ("command", made.get("command", "not recorded; it was made from Python")),
        ("seed", made.get("seed", _seed(artifact.config))),
        ("library", f"repdyn {made.get('repdyn', __version__)}, uploaded with {__version__}"),
        ("kind", f"{artifact.kind} ({type(main).__name__}), schema {artifact.schema}"),
        *digest_rows(folder, "model.safetensors", "config.json"),
    ]
    lines += table(("", ""), rows)
    settings = list(_settings(artifact.config))
    lines += ["", "## Settings", "", *table(("setting", "value"), settings[:_SETTINGS_SHOWN])]
    if len(settings) > _SETTINGS_SHOWN:
        lines.append(f"\n{len(settings) - _SETTINGS_SHOWN} more are in `config.json`.")
    return "\n".join(lines) + "\n"


def table(head: tuple[str, str], rows: list[tuple[str, Any]]) -> list[str]:
    """Lines of a Markdown table of two columns; entries that are None are left out."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows:
        if value is not None:
            text = str(value)
            shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
            lines.append(f"| {escaped(name)} | {escaped(shown)} |")
    return lines


def digest_rows(folder: Path, *files: str) -> Iterator[tuple[str, str]]:
    """Rows of a table: SHA-256 of some files."""
    for file in files:
        with (folder / file).open("rb") as opened:
            yield f"SHA-256 of {file}", hashlib.file_digest(opened, "sha256").hexdigest()


def _described(kind: type) -> str:
    """The first sentence of a class, from its documentation."""
    text = (inspect.getdoc(kind) or kind.__name__).partition("\n\n")[0]
    return escaped(f"{kind.__name__}: " + _ROLE.sub(r"\1", text).replace("``", ""))


def _verdict(result: object) -> list[str]:
    """The verdict and its reason, if there is one."""
    found = getattr(result, "verdict", None)
    if isinstance(found, Mapping):
        found = "; ".join(f"{name}: {one}" for name, one in found.items())
    if not isinstance(found, str):
        return []
    reason = getattr(result, "reason", None)
    return [f"**Verdict: {escaped(found)}**" + (f". {escaped(reason)}" if reason else ""), ""]


def _printed(result: object) -> str:
    """What a result prints; a network without a text of its own would print its layers."""
    # That of `object`, which has no module, would print an address in memory.
    if not getattr(type(result).__repr__, "__module__", "torch").startswith("torch"):
        return repr(result)
    name = type(result).__name__
    return f"{name}, fitted. It holds no verdict; evaluate it on samples that it was not fitted to."


def _loading(kind: type, repo_id: str) -> str:
    """Code that loads the result."""
    room, name = ".".join(kind.__module__.split(".")[:2]), kind.__name__
    if getattr(sys.modules.get(room), name, None) is kind:
        if hasattr(kind, "from_pretrained"):
            return f"from {room} import {name}\n\nfitted = {name}.from_pretrained({repo_id!r})"
        return f"from {room} import {name}\n\nfitted = {name}.load({'hf://' + repo_id!r}, model)"
    return f"import repdyn\n\nfitted = repdyn.load_result({'hf://' + repo_id!r})"


def _seed(config: Mapping[str, Any]) -> Any:
    """A seed among the settings, in the order of the file."""
    return next((value for name, value in _settings(config) if name.rpartition(".")[2] == "seed"), None)


def _settings(config: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of all short settings, nested ones with the names of what they are in."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{within}{name}.")
        elif isinstance(value, list) and len(value) > 12:
            yield f"{within}{name}", f"{len(value)} entries"
        elif value is not None:
            yield f"{within}{name}", str(value)


def fenced(text: str, language: str) -> list[str]:
    """A block of code, whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [line.expandtabs() for line in without_folders(text).splitlines()]
    return [f"{fence}{language}", *lines, fence, ""]


def escaped(text: object) -> str:
    """Text whose Markdown and HTML are shown as they are, in one line and without folders of this machine."""
    plain = " ".join(without_folders(str(text)).split())
    printable = "".join(character for character in plain if character.isprintable())
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable)
