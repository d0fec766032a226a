"""What paths show in a notebook: a row for each point, escaped, without reading a representation."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths, open_paths
from repdyn.paths.columns import TokenColumn, VectorColumn


class Reader(HTMLParser):
    """Cells of the table by row, the text outside of it, and the elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.elements: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append(tag)
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.text += data


def shown(paths: RepresentationPaths) -> Reader:
    read = Reader(paths._repr_html_())
    assert not read.open  # every element is closed
    return read


def mixed() -> tuple[RepresentationPaths, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(40, 6, 3)).astype(np.float32)
    mask = np.arange(6) < generator.integers(1, 7, size=40)[:, None]
    pooled = generator.normal(size=(40, 32)).astype(np.float32)
    paths = RepresentationPaths.from_arrays(
        {"tokens": tokens, "head": pooled},
        labels=np.repeat(["cat", "dog"], 20),
        logits=np.zeros((40, 5), dtype=np.float32),
        masks={"tokens": mask},
        meta={"model": "tiny", "data": "noise"},
    )
    return paths, mask, pooled


@pytest.mark.parametrize("stored", [False, True])
def test_each_point_has_its_shape_type_and_bytes(tmp_path: Path, stored: bool) -> None:
    paths, mask, pooled = mixed()
    if stored:
        paths.save(tmp_path / "a.paths")
        paths = open_paths(tmp_path / "a.paths")
    read = shown(paths)
    real = int(mask.sum())
    assert read.rows == [
        ["point", "shape", "dtype", "bytes"],
        ["tokens", f"(40, ≤ {mask.sum(1).max()} tokens, 3)", "float32", f"{real * 12 / 1024:.1f} KiB"],
        ["head", "(40, 32)", "float32", "5.0 KiB"],
    ]
    assert pooled.nbytes == 5 * 1024
    assert f"size of all points: {(real * 12 + pooled.nbytes) / 1024:.1f} KiB" in read.text
    assert "40 samples at 2 points, float32" in read.text
    assert ("a.paths" in read.text) == stored
    assert "from: tiny on noise" in read.text
    assert "labels: 2 classes, string" in read.text
    assert "logits: 5" in read.text


def test_a_subset_shows_its_own_size() -> None:
    paths, mask, _ = mixed()
    rows = np.array([3, 17, 3])
    read = shown(paths.subset(rows))
    assert read.rows[1][1].startswith("(3, ")
    assert read.rows[1][3] == f"{int(mask[rows].sum()) * 12} B"
    assert read.rows[2][1:] == ["(3, 32)", "float32", "384 B"]
    assert "labels: 1 classes" in read.text


def test_names_are_escaped() -> None:
    hostile = "<script>alert('x')</script>&amp;"
    paths = RepresentationPaths.from_arrays(
        {hostile: np.zeros((3, 2))}, meta={"model": "<img src=x onerror=alert(1)>", "data": "<b>"}
    )
    read = shown(paths)
    assert read.rows[1][0] == hostile
    assert "<img src=x onerror=alert(1)>" in read.text
    assert set(read.elements) <= {"p", "b", "br", "table", "tr", "th", "td"}
    assert "labels: none" in read.text
    assert "logits: none" in read.text


def test_a_deep_model_shows_the_first_points_and_the_last() -> None:
    paths = RepresentationPaths.from_arrays({f"blocks.{k}": np.zeros((2, 1)) for k in range(80)})
    points = [row[0] for row in shown(paths).rows]
    assert points == ["point", *(f"blocks.{k}" for k in range(13)), "… 66 more …", "blocks.79"]


def test_fourteen_points_are_all_shown() -> None:
    paths = RepresentationPaths.from_arrays({f"blocks.{k}": np.zeros((2, 1)) for k in range(14)})
    assert [row[0] for row in shown(paths).rows[1:]] == [f"blocks.{k}" for k in range(14)]


def test_no_representation_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _, _ = mixed()
    paths.save(tmp_path / "a.paths")
    opened = open_paths(tmp_path / "a.paths")

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a representation was read")

    monkeypatch.setattr(VectorColumn, "take", refused)
    monkeypatch.setattr(TokenColumn, "take", refused)
    with pytest.raises(AssertionError, match="was read"):
        opened["head"][:1]  # the trap works
    assert "head" in shown(opened).rows[2][0]


@pytest.mark.parametrize(
    ("samples", "width", "text"),
    [
        (1, 100, "800 B"),
        (127, 1, "1016 B"),
        (128, 1, "1.0 KiB"),
        (128, 1024, "1.0 MiB"),
        (200, 1024, "1.6 MiB"),
    ],
)
def test_bytes_are_in_binary_units(samples: int, width: int, text: str) -> None:
    paths = RepresentationPaths.from_arrays({"x": np.zeros((samples, width))})
    assert shown(paths).rows[1][2:] == ["float64", text]
