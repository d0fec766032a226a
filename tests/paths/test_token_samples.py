"""Tokens as samples of their own: the rows, labels and ids are those of a plain loop over the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.ood import PathDetector
from repdyn.paths import PathsWriter, RepresentationPaths, open_paths
from repdyn.paths.columns import TokenColumn

WIDTHS = {"early": 3, "late": 5}


def ragged(lengths: list[int], seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Tokens of each sample at two points."""
    draw = np.random.default_rng(seed)
    return {p: [draw.normal(size=(n, w)).astype(np.float32) for n in lengths] for p, w in WIDTHS.items()}


def stored(place: Path, lengths: list[int]) -> dict[str, list[np.ndarray]]:
    """A store of these tokens and of a pooled point, with labels."""
    tokens = ragged(lengths)
    size = len(lengths)
    widths = {**WIDTHS, "pooled": 2}
    writer = PathsWriter.open(
        place, list(widths), widths, size, {}, tokens=tuple(WIDTHS), labels=np.arange(size) % 3
    )
    for rows in writer.missing:
        part = {p: own[rows.start : rows.stop] for p, own in tokens.items()}
        pooled = np.ones((len(rows), 2), np.float32)
        labels = np.arange(rows.start, rows.stop) % 3
        writer.write_chunk(rows.start, {**part, "pooled": pooled}, [f"s{k}" for k in rows], labels)
    writer.finish()
    return tokens


def check(paths: RepresentationPaths, tokens: dict[str, list[np.ndarray]], samples: list[int]) -> None:
    """Everything that is read, against a loop over the samples."""
    rows = paths.tokens_as_samples()
    lengths = [len(tokens["early"][k]) for k in samples]
    assert rows.points == tuple(WIDTHS)
    assert rows.tokens == ()
    assert rows.widths == WIDTHS
    assert len(rows) == sum(lengths)
    assert rows.ids.tolist() == [f"s{k}:{t}" for k, n in zip(samples, lengths) for t in range(n)]
    assert rows.labels is not None
    assert rows.labels.tolist() == [k % 3 for k, n in zip(samples, lengths) for _ in range(n)]
    expected = {p: np.concatenate([own[k] for k in samples]) for p, own in tokens.items()}
    for point, x in expected.items():
        np.testing.assert_array_equal(np.asarray(rows[point]), x)
        shuffled = np.random.default_rng(1).permutation(len(x))
        np.testing.assert_array_equal(rows[point][shuffled], x[shuffled])
    for block in rows.iterate(size=7):
        for point, x in block.items():
            np.testing.assert_array_equal(x, expected[point][block.rows.start : block.rows.stop])


@pytest.mark.parametrize("size", [1, 64, 65, 128, 200])
def test_of_a_store(tmp_path: Path, size: int) -> None:
    lengths = np.random.default_rng(size).integers(0, 6, size=size).tolist()
    lengths[-1] = 4
    tokens = stored(tmp_path / "a.paths", lengths)
    paths = open_paths(tmp_path / "a.paths")
    check(paths, tokens, list(range(size)))
    samples = np.random.default_rng(2).permutation(size)[: max(1, size // 2)]
    if sum(lengths[k] for k in samples):
        check(paths.subset(samples), tokens, samples.tolist())
        kept = samples[::-2]
        if sum(lengths[k] for k in kept):
            check(paths.subset(samples).subset(np.arange(len(samples))[::-2]), tokens, kept.tolist())


def test_a_chunk_without_a_token(tmp_path: Path) -> None:
    lengths = [2] * 64 + [0] * 64 + [3] * 70
    tokens = stored(tmp_path / "a.paths", lengths)
    check(open_paths(tmp_path / "a.paths"), tokens, list(range(198)))


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    block=st.integers(1, 45),
    data=st.data(),
)
@settings(deadline=None, max_examples=80)
def test_the_column_of_any_blocks(lengths: list[int], block: int, data: st.DataObject) -> None:
    own = ragged(lengths)["early"]
    pieces = [own[k : k + block] for k in range(0, len(own), block)]
    blocks = [np.concatenate(piece) for piece in pieces]
    column = TokenColumn(blocks, block, np.array(lengths, np.int64), 3, np.dtype(np.float32))
    np.testing.assert_array_equal(np.asarray(column.flat()), np.concatenate(own))
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=60))
    part = column.subset(np.array(chosen, np.int64)).flat()
    np.testing.assert_array_equal(np.asarray(part), np.concatenate([own[k] for k in chosen]))


def test_in_memory_padding_is_left_out() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 2))
    mask = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    x[~mask] = np.nan
    rows = RepresentationPaths.from_arrays({"a": x}, masks={"a": mask}).tokens_as_samples()
    np.testing.assert_array_equal(rows["a"], x[mask])
    assert rows.labels is None


def test_a_detector_reads_tokens_as_it_reads_vectors(tmp_path: Path) -> None:
    lengths = [3] * 100
    tokens = stored(tmp_path / "a.paths", lengths)
    plain = RepresentationPaths.from_arrays(
        {p: np.concatenate(own) for p, own in tokens.items()}, labels=np.repeat(np.arange(100) % 3, 3)
    )
    rows = open_paths(tmp_path / "a.paths").tokens_as_samples()
    one, other = PathDetector().fit(rows), PathDetector().fit(plain)
    np.testing.assert_allclose(one.score_samples(rows), other.score_samples(plain), rtol=1e-12)


def test_saved_tokens_are_pooled_paths(tmp_path: Path) -> None:
    tokens = stored(tmp_path / "a.paths", [2, 0, 3])
    open_paths(tmp_path / "a.paths").tokens_as_samples().save(tmp_path / "b.paths")
    again = open_paths(tmp_path / "b.paths")
    np.testing.assert_array_equal(np.asarray(again["late"]), np.concatenate(tokens["late"]))
    assert again.ids.tolist() == ["s0:0", "s0:1", "s2:0", "s2:1", "s2:2"]


def test_points_of_different_tokens_are_refused() -> None:
    x = np.ones((3, 4, 2))
    mask = np.ones((3, 4), bool)
    mask[1, 2:] = False
    paths = RepresentationPaths.from_arrays({"a": x, "b": x}, ids=["p", "q", "r"], masks={"b": mask})
    with pytest.raises(RepdynError, match="'q' has 4 tokens at 'a' and 2 at 'b'"):
        paths.tokens_as_samples()


def test_pooled_paths_are_refused() -> None:
    with pytest.raises(RepdynError, match='none of the points a has tokens; trace with pool="none"'):
        RepresentationPaths.from_arrays({"a": np.ones((3, 2))}).tokens_as_samples()
