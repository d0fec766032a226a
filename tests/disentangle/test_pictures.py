"""Clips and swaps as pictures: what is where, that they are saved, and that the report draws them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import repdyn
from repdyn.datasets import moving_dsprites
from repdyn.disentangle import SSMSKD, Swap, SwapGrid, swap_grid
from repdyn.disentangle.swaps import exchange
from repdyn.errors import RepdynError

SIZE = 16


@pytest.fixture(scope="module")
def model() -> SSMSKD:
    return SSMSKD(latent_dim=3, hidden=6, channels=(4, 4)).fit(moving_dsprites(8, size=SIZE).clips, epochs=1)


def drawn(figure: Any, frame: int, row: int, column: int) -> NDArray[np.uint8]:
    """The picture of one clip at one time, ``(height, width, 3)``."""
    encoded = figure.frames[frame].data[0].source.partition(",")[2]
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    step = SIZE + 2
    cell: NDArray[np.uint8] = whole[row * step :, column * step :][:SIZE, :SIZE, :3]
    return cell


def as_pixels(clip: NDArray[Any]) -> NDArray[np.int64]:
    pixels: NDArray[np.int64] = (255 * clip.transpose(1, 2, 0)).round().astype(int)
    return pixels


def test_clips_are_drawn_in_their_order() -> None:
    found = moving_dsprites(5, size=SIZE)
    figure = found.plot(rows=2, columns=3)
    assert len(figure.frames) == 8
    for number in range(5):
        cell = drawn(figure, 3, *divmod(number, 3))
        assert np.array_equal(cell, found.clips[number, 3].transpose(1, 2, 0))
    assert "first 5 of 5" in figure.layout.meta["caption"]


def test_a_swap_shows_both_clips_before_and_after(model: SSMSKD) -> None:
    clips = moving_dsprites(4, size=SIZE).clips
    found = model.swap(clips[:2], clips[2:], "dynamic")
    figure = found.plot(row=1)
    expected = ((found.originals[0], found.first), (found.originals[1], found.second))
    for row, pair in enumerate(expected):
        for column, decoded in enumerate(pair):
            cell = drawn(figure, 5, row, column)
            assert np.abs(cell - as_pixels(decoded[1, 5])).max() <= 1
    assert "dynamic part" in figure.layout.meta["caption"]


def test_a_grid_gives_every_clip_the_parts_of_every_other(model: SSMSKD) -> None:
    clips = moving_dsprites(3, size=SIZE).clips
    found = swap_grid(model, clips, "dynamic")
    own = model.reconstruct(clips)
    parts = model.factors(clips)
    for giving in range(3):
        assert found.decoded[giving, giving] == pytest.approx(own[giving], abs=1e-5)
        for taking in range(3):
            latents, _ = exchange(
                parts.take(slice(taking, taking + 1)), parts.take(slice(giving, giving + 1)), "dynamic"
            )
            assert found.decoded[giving, taking] == pytest.approx(model.decode(latents)[0], abs=1e-5)
    cell = drawn(found.plot(), 2, 0, 1)
    assert np.abs(cell - as_pixels(found.decoded[0, 1, 2])).max() <= 1
    assert "3 sequences" in repr(found)


@pytest.mark.parametrize("factors", ["static", [0, 2]])
def test_saved_read_again_and_in_the_report(model: SSMSKD, factors: Any, tmp_path: Path) -> None:
    clips = moving_dsprites(4, size=SIZE).clips
    swap, grid = model.swap(clips[:2], clips[2:], factors), swap_grid(model, clips[:2], factors)
    swap.save(tmp_path / "a.swap")
    grid.save(tmp_path / "a.grid")
    read, read_grid = Swap.load(tmp_path / "a.swap"), SwapGrid.load(tmp_path / "a.grid")
    assert np.array_equal(read.first, swap.first)
    assert np.array_equal(read.originals[1], swap.originals[1])
    assert np.array_equal(read_grid.decoded, grid.decoded)
    assert (read.factors, read_grid.factors) == (swap.factors, grid.factors)
    assert read.to_dict() == swap.to_dict()
    page = repdyn.report([tmp_path / "a.swap", tmp_path / "a.grid"], tmp_path / "r.html").read_text()
    assert "<h2>Swaps: a.swap</h2>" in page
    assert "<h2>Swaps between all pairs: a.grid</h2>" in page


def test_what_cannot_be_drawn_or_read_is_refused(model: SSMSKD, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((8, 4, 3)).astype(np.float32)
    vectors = SSMSKD(latent_dim=3, hidden=4).fit(x, epochs=1)
    with pytest.raises(RepdynError, match="only clips"):
        vectors.swap(x[:2], x[2:4]).plot()
    with pytest.raises(RepdynError, match="only clips"):
        swap_grid(vectors, x[:2]).plot()
    with pytest.raises(RepdynError, match="one length"):
        swap_grid(vectors, [x[0], x[1, :3]])
    swap_grid(vectors, x[:2]).save(tmp_path / "g")
    with pytest.raises(RepdynError, match="swap"):
        Swap.load(tmp_path / "g")
