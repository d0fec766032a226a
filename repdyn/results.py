"""Results: frozen dataclasses that save, load, print and plot themselves from their fields.

A subclass states its fields and a kind. Everything else follows from the annotations::

    @dataclass(frozen=True, eq=False)
    class Accuracy(Result, kind="accuracy"):
        accuracy: Mapping[str, Estimate]
        confusion: NDArray[np.int64] | None
        verdict: str

A folder holds arrays in ``model.safetensors`` under the names of their fields, and all else in
``config.json``. Arrays inside of containers are written as ``{"tensor": name}``.
"""

from __future__ import annotations

import html
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import Artifact, load_artifact, refusing_damage, save_artifact
from repdyn.conformity import check_types, without_alias
from repdyn.errors import RepdynError
from repdyn.hub import repository
from repdyn.intervals import Estimate
from repdyn.publishing import HubMixin

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Result", "plain", "registered"]

_KINDS: dict[str, type[Result]] = {}
_ROWS_SHOWN = 40  # of the table in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Result(HubMixin):
    """Base of what an analysis returns.

    Attributes
    ----------
    saved_kind
        The word in ``config.json`` that says what the folder holds, set by ``class X(Result, kind="x")``.
    figures
        Fields and properties that :meth:`to_dict` gives; all fields that are not arrays where empty.
    """

    saved_kind: ClassVar[str] = ""
    figures: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if not kind:
            return
        taken = _KINDS.get(kind)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"the kind {kind!r} belongs to {taken.__qualname__}; give {cls.__name__} another")
        cls.saved_kind = kind
        _KINDS[kind] = cls

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``: text, numbers, lists and dictionaries."""
        names = self.figures or tuple(
            field.name for field in fields(self) if not isinstance(getattr(self, field.name), np.ndarray)
        )
        return {name: plain(getattr(self, name)) for name in names}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, which is wholly there or not at all.

        Raises
        ------
        RepdynError
            If something that is not a repdyn result is in the way, or the folder cannot be written.
        """
        save_artifact(path, self.saved_kind, *self._record())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder is missing, holds another kind, or is damaged.
        """
        artifact = load_artifact(path, cls.saved_kind)
        with refusing_damage(path, cls.__name__):
            if artifact.schema < 2:
                artifact = cls._upgrade(artifact, Path(path))
            loaded = cls._revive(artifact.config, artifact.tensors)
            check_types(loaded)
            repr(loaded)  # a damaged result must fail here, not when it is first printed
            loaded.to_dict()
        return loaded

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """As :meth:`load`, of a folder or of ``"user/name"`` on the Hugging Face Hub.

        Parameters
        ----------
        path
            A folder, or what :meth:`push_to_hub` wrote to.
        revision, token
            Branch, tag or commit on the Hub, and the account's token.

        Raises
        ------
        RepdynError
            As :meth:`load`; and if there is no such repository, or the Hub cannot be reached.
        """
        return cls.load(repository(path, revision, token))

    def plot(self) -> Figure:
        """The figures with their intervals.

        Raises
        ------
        RepdynError
            If none of its figures has an interval.
        """
        from repdyn.views.intervals import intervals  # plotly is slow to import

        found = {
            name: (value["value"], value["low"], value["high"])
            for name, value in _flat(self.to_dict())
            if isinstance(value, dict)
        }
        if not found:
            raise RepdynError(
                f"{type(self).__name__}: none of its figures has an interval, so nothing is drawn"
            )
        return intervals(type(self).__name__, found)

    def __repr__(self) -> str:
        rows = [(name, _shown(value)) for name, value in _flat(self.to_dict())]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        """For notebooks: verdict, figures with their intervals, and the picture below."""
        from repdyn.views.notebook import figure_html, table_html  # plotly is slow to import

        figures = self.to_dict()
        rows = [(name, _shown(value)) for name, value in _flat(figures) if name not in ("verdict", "reason")]
        verdict, reason = (figures.get(key) for key in ("verdict", "reason"))
        table = table_html(
            type(self).__name__,
            rows,
            verdict if isinstance(verdict, str) else None,
            reason if isinstance(reason, str) else None,
            _ROWS_SHOWN,
        )
        try:
            return table + figure_html(self.plot())
        except RepdynError as error:  # there is nothing to draw
            return f"{table}<p>{html.escape(str(error))}</p>"

    def to_frame(self) -> Any:
        """All figures as a table, one row each.

        Returns
        -------
        pandas.DataFrame or pyarrow.Table
            The second where pandas is not installed. Columns: ``figure``, the name, with the names of what
            it is part of; ``index``, its position in a list (``"0"``, ``"1, 2"``), or empty; ``value``,
            ``low`` and ``high``, a number and its interval, NaN where there is none; ``text``, a figure that
            is no number.

        Raises
        ------
        RepdynError
            If neither library is installed.
        """
        rows = [row for name, value in _flat(self.to_dict()) for row in _long(name, value)]
        columns = {
            key: [row[number] for row in rows]
            for number, key in enumerate(("figure", "index", "value", "low", "high", "text"))
        }
        try:
            import pandas
        except ImportError:
            pass
        else:
            return pandas.DataFrame(columns)
        try:
            import pyarrow
        except ImportError:
            raise RepdynError("to_frame: needs pandas or pyarrow; pip install pandas") from None
        return pyarrow.table(columns)

    def _record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON values and arrays that :meth:`_revive` takes; override where derived fields are not stored."""
        tensors: dict[str, NDArray[Any]] = {}
        config = {
            field.name: value
            for field in fields(self)
            if (value := _encode(getattr(self, field.name), field.name, tensors)) != {"tensor": field.name}
        }
        return config, tensors

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The result of what :meth:`_record` gave."""
        return _build(cls, config, tensors, "")  # type: ignore[no-any-return]

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Bring a folder of schema 1 into the layout of fields; override where it was another."""
        return artifact


def registered() -> dict[str, type[Result]]:
    """Class of each kind of result, of the rooms that were imported."""
    return dict(_KINDS)


def plain(value: Any) -> Any:
    """Text, numbers, lists and dictionaries for JSON.

    Results give their :meth:`Result.to_dict`, other dataclasses their fields, arrays nested lists; complex
    numbers become pairs.
    """
    if isinstance(value, Result | Estimate):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return plain(np.stack([value.real, value.imag], -1) if np.iscomplexobj(value) else value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _encode(value: Any, name: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """JSON value for one field; its arrays go to ``tensors`` under names that begin with ``name``."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "UTO":
            return {"strings": [str(item) for item in value.tolist()]}
        while name in tensors or f"{name}.real" in tensors:  # {"a.b": x} beside {"a": {"b": y}}
            name += "'"
        if np.iscomplexobj(value):
            tensors[f"{name}.real"], tensors[f"{name}.imag"] = value.real, value.imag
            return {"complex": name}
        tensors[name] = value
        return {"tensor": name}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encode(getattr(value, field.name), f"{name}.{field.name}", tensors)
            for field in fields(value)
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _encode(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _build(kind: type, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], within: str) -> Any:
    """A dataclass of its fields in ``config``; arrays are in ``tensors`` under ``within`` and their names."""
    given: dict[str, Any] = {}
    for field in fields(kind):
        hint, name = _hints(kind)[field.name], f"{within}{field.name}"
        if field.name in config:
            given[field.name] = _decode(hint, config[field.name], tensors, name)
        elif name in tensors:
            given[field.name] = tensors[name]
        elif f"{name}.real" in tensors:  # schema 1
            given[field.name] = tensors[f"{name}.real"] + 1j * tensors[f"{name}.imag"]
        elif type(None) in get_args(hint):
            given[field.name] = None
        # A field that has a default was added later than the folder; any other raises below.
    return kind(**given)


def _decode(hint: Any, value: Any, tensors: Mapping[str, NDArray[Any]], name: str) -> Any:
    """The value that :func:`_encode` was given, of the type that the annotation names."""
    if isinstance(value, dict) and len(value) == 1:
        if isinstance(value.get("tensor"), str):
            return tensors[value["tensor"]]
        if isinstance(value.get("complex"), str):
            return tensors[f"{value['complex']}.real"] + 1j * tensors[f"{value['complex']}.imag"]
        if isinstance(value.get("strings"), list):
            return np.asarray(value["strings"], dtype=np.str_)
    hint = without_alias(hint)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return None if value is None else _decode(_member(inner, value), value, tensors, name)
    if isinstance(value, dict) and isinstance(kind, type):
        if is_dataclass(kind):
            return _build(kind, value, tensors, f"{name}.")
        of_key, of_value = inner if len(inner) == 2 else (str, Any)
        return {
            int(key) if of_key is int else key: _decode(of_value, item, tensors, f"{name}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        if kind is np.ndarray:  # what earlier versions wrote as a list
            return np.asarray(value, dtype=_scalar(hint))
        if kind is tuple and len(inner) == len(value) and Ellipsis not in inner:
            hints: Sequence[Any] = inner
        else:
            hints = [inner[0] if inner else Any] * len(value)
        items = [
            _decode(one, item, tensors, f"{name}.{k}") for k, (one, item) in enumerate(zip(hints, value))
        ]
        return tuple(items) if kind is tuple else items
    return value


def _member(members: Sequence[Any], value: Any) -> Any:
    """The member of a union that a JSON value was written from."""
    for hint in members:
        hint = without_alias(hint)
        kind = get_origin(hint) or hint
        if not isinstance(kind, type):
            continue
        if isinstance(value, dict) and (is_dataclass(kind) or issubclass(kind, Mapping)):
            return hint
        if (
            isinstance(value, list)
            and issubclass(kind, list | tuple | np.ndarray | Sequence)
            and kind is not str
        ):
            return hint
        if isinstance(value, kind):
            return hint
    return Any


def _scalar(hint: Any) -> Any:
    inner = get_args(get_args(hint)[1]) if len(get_args(hint)) > 1 else ()
    return inner[0] if inner and isinstance(inner[0], type) and issubclass(inner[0], np.generic) else None


def _flat(value: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values without nesting: ``top1, translation``; a figure with its interval stays whole."""
    for key, item in value.items():
        name = f"{within}, {key}" if within else str(key)
        if isinstance(item, dict) and not {"value", "low", "high"} <= set(item):
            yield from _flat(item, name)
        else:
            yield name, item


def _long(name: str, value: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Rows ``(name, position, value, low, high, text)`` of a plain value; lists give a row for each entry."""
    none = float("nan")
    index = ", ".join(map(str, place))
    if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
        numbers = [none if value[key] is None else float(value[key]) for key in ("value", "low", "high")]
        yield (name, index, *numbers, None)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _long(f"{name}, {key}", item, place)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _long(name, item, (*place, number))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield (name, index, float(value), none, none, None)
    elif value is not None:
        yield (name, index, none, none, none, str(value))


def _shown(value: Any) -> str:
    """One line for a plain value."""
    if isinstance(value, dict):
        return repr(Estimate(value["value"], value["low"], value["high"]))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = ", ".join(_shown(item) for item in value[:8])
        return f"{text}, … ({len(value)})" if len(value) > 8 else text
    return str(value)
