"""A result is saved, loaded, printed and drawn from its fields alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import nn
from typing_extensions import TypeAliasType

from repdyn.artifacts import load_artifact, save_artifact
from repdyn.conformity import check_values, without_alias
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.results import Result, plain, registered


@dataclass(frozen=True)
class Part:
    """A dataclass inside of a result."""

    weights: NDArray[np.float64]
    size: int


@dataclass(frozen=True, eq=False, repr=False)
class Everything(Result, kind="everything of the test"):
    """A field of each type that results have."""

    matrix: NDArray[np.float64]
    spectrum: NDArray[np.complex128]
    names: NDArray[np.str_]
    mask: NDArray[np.bool_] | None
    figure: Estimate
    table: Mapping[str, Mapping[str, tuple[Estimate, ...]]]
    pairs: tuple[tuple[str, int], ...]
    arrays: tuple[NDArray[np.float32], ...]
    by_name: dict[str, NDArray[np.int64]]
    by_number: dict[int, str]
    part: Part
    either: str | tuple[int, ...]
    mode: Literal["one", "other"]
    verdict: str
    loss: float = float("nan")
    later: tuple[int, ...] = field(default=(1, 2))


def made(matrix: NDArray[np.float64] | None = None, text: str = "a|b.c/ü", **other: Any) -> Everything:
    arguments: dict[str, Any] = {
        "matrix": np.eye(2) if matrix is None else matrix,
        "spectrum": np.array([1 + 2j, 3 - 1j]),
        "names": np.array(["cat", "dög"]),
        "mask": None,
        "figure": Estimate(0.5, 0.4, 0.6),
        "table": {text: {"x": (Estimate(0.1, 0.0, 0.2), Estimate(0.2, 0.1, 0.3))}},
        "pairs": (("a", 1), ("b", 2)),
        "arrays": (np.zeros((2, 3), dtype=np.float32), np.ones(1, dtype=np.float32)),
        "by_name": {text: np.arange(3)},
        "by_number": {3: "three"},
        "part": Part(np.arange(4.0), 4),
        "either": (1, 2),
        "mode": "one",
        "verdict": "found",
        **other,
    }
    return Everything(**arguments)


def same(one: Any, other: Any) -> bool:
    """Equality of nested values, arrays by dtype and bits."""
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype.kind == other.dtype.kind
            and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
        )
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Part):
        return type(other) is Part and same(vars(one), vars(other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


@pytest.mark.parametrize("other", [{}, {"mask": np.array([True, False]), "either": "all", "loss": 1.5}])
def test_a_result_comes_back_as_it_was(tmp_path: Path, other: dict[str, Any]) -> None:
    result = made(**other)
    result.save(tmp_path / "r")
    assert same(vars(result), vars(Everything.load(tmp_path / "r")))


@settings(max_examples=25, deadline=None)
@given(
    matrix=hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_any_array_and_any_name_come_back(tmp_path_factory: Any, matrix: Any, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "r"
    result = made(matrix, text)
    result.save(path)
    assert same(vars(result), vars(Everything.load(path)))


def test_names_that_would_be_one_name_stay_apart(tmp_path: Path) -> None:
    by_name = {"x": np.zeros(1, dtype=np.int64), "x.real": np.ones(2, dtype=np.int64)}
    arrays = made(by_name=by_name, table={}, part=Part(np.zeros(3), 3))
    arrays.save(tmp_path / "r")
    assert same(by_name, Everything.load(tmp_path / "r").by_name)


def test_a_field_that_was_added_later_takes_its_default(tmp_path: Path) -> None:
    made().save(tmp_path / "r")
    artifact = load_artifact(tmp_path / "r")
    del artifact.config["later"]
    save_artifact(tmp_path / "r", artifact.kind, artifact.config, artifact.tensors)
    assert Everything.load(tmp_path / "r").later == (1, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [("pairs", [["a", "1"]]), ("figure", 0.5), ("mode", "third"), ("verdict", "perhaps"), ("matrix", "eye")],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    made().save(tmp_path / "r")
    artifact = load_artifact(tmp_path / "r")
    artifact.config[key] = value
    save_artifact(tmp_path / "r", artifact.kind, artifact.config, artifact.tensors)
    with pytest.raises(RepdynError, match="damaged"):
        Everything.load(tmp_path / "r")


@pytest.mark.parametrize("missing", ["matrix", "part.weights", "spectrum.imag", "arrays.0"])
def test_a_missing_array_is_refused(tmp_path: Path, missing: str) -> None:
    made().save(tmp_path / "r")
    artifact = load_artifact(tmp_path / "r")
    del artifact.tensors[missing]
    save_artifact(tmp_path / "r", artifact.kind, artifact.config, artifact.tensors)
    with pytest.raises(RepdynError, match="damaged"):
        Everything.load(tmp_path / "r")


def test_plain_values_are_strict_json() -> None:
    given = json.dumps(made(loss=1.0).to_dict(), allow_nan=False)
    assert json.loads(given)["figure"] == {"value": 0.5, "low": 0.4, "high": 0.6, "level": 0.95}
    assert plain(np.array([1 + 2j])) == [[1.0, 2.0]]


def test_text_of_a_result_is_escaped_in_a_notebook() -> None:
    shown = made(text="<script>alert(1)</script>")._repr_html_()
    assert "<script>alert" not in shown  # the figure's own scripts are there
    assert "&lt;script&gt;alert" in shown
    assert "0.500 [0.400, 0.600]" in shown


def test_a_frame_has_a_row_for_every_number(monkeypatch) -> None:
    given = made(loss=1.5)
    pandas = pytest.importorskip("pandas")
    frame = given.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["figure", "index", "value", "low", "high", "text"]
    by_name = frame.set_index(["figure", "index"])
    assert by_name.loc[("figure", ""), ["value", "low", "high"]].tolist() == [0.5, 0.4, 0.6]
    second = by_name.loc[("table, a|b.c/ü, x", "1")]
    assert (second["value"], second["low"], second["high"]) == (0.2, 0.1, 0.3)
    assert by_name.loc[("loss", ""), "value"] == 1.5
    assert by_name.loc[("verdict", ""), "text"] == "found"
    assert by_name.loc[("pairs", "1, 1"), "value"] == 2
    assert by_name.loc[("pairs", "1, 0"), "text"] == "b"
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    table = given.to_frame()
    assert isinstance(table, pyarrow.Table)
    assert table["figure"].to_pylist() == frame["figure"].tolist()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(RepdynError, match="pip install pandas"):
        given.to_frame()


def test_a_result_prints_each_figure_with_its_interval() -> None:
    printed = repr(made())
    assert printed.splitlines()[0] == "Everything"
    assert "0.500 [0.400, 0.600]" in printed


def test_the_default_picture_draws_every_figure_with_its_interval() -> None:
    figure = made().plot()
    (bars,) = figure.data
    np.testing.assert_allclose(bars.x, [0.5])
    np.testing.assert_allclose(bars.error_x.array, [0.1])
    assert figure.layout.meta["title"] == "Everything"


def test_two_results_cannot_share_a_kind() -> None:
    assert registered()["everything of the test"] is Everything
    with pytest.raises(TypeError, match="belongs to Everything"):

        @dataclass(frozen=True)
        class Other(Result, kind="everything of the test"):
            """Another class of the same kind."""


def test_arrays_are_checked_where_their_annotation_is_an_alias() -> None:
    """From NumPy 2.5 on, which needs Python 3.12, NDArray is a TypeAliasType: no array was checked then."""
    scalar = TypeVar("scalar", bound=np.generic)
    alias = TypeAliasType("alias", np.ndarray[tuple[Any, ...], np.dtype[scalar]], type_params=(scalar,))
    for hint in (alias[np.int64], NDArray[np.int64]):
        assert get_args(without_alias(hint))[1] == np.dtype[np.int64]
        check_values({"x": np.arange(3)}, x=hint)
        for wrong in ([0, 1, 2], np.ones(3), np.array(["a"])):
            with pytest.raises(ValueError, match="x is"):
                check_values({"x": wrong}, x=hint)
    assert without_alias(int | None) == int | None


def test_a_module_conforms_to_a_protocol_by_the_parts_that_it_has() -> None:
    """Python 3.12's isinstance looks past nn.Module.__getattr__, so that edited autoencoders did not load."""

    class Fitted(Protocol):
        operator_: nn.Module
        width: int

        def encode(self, x: Any) -> Any: ...

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.operator_, self.width = nn.Linear(1, 1), 1

        def encode(self, x: Any) -> Any:
            return x

    check_values({"kae": Whole()}, kae=Fitted)
    broken = Whole()
    del broken.operator_
    for wrong in (broken, nn.Linear(1, 1), 3):
        with pytest.raises(ValueError, match="kae is"):
            check_values({"kae": wrong}, kae=Fitted)
