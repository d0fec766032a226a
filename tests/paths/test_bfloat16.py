"""Half the bytes on disk, the range of float32: kept as bits, handed out as float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.paths import PathsWriter, open_paths

POINTS = ("a", "b", "words")
ROWS = 150


def rounded(shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1e30
    return x.bfloat16().float().numpy()


VALUES = {"a": rounded((ROWS, 5), 0), "b": rounded((ROWS, 3), 1)}
WORDS = [rounded((1 + k % 4, 2), k) for k in range(ROWS)]


def written(where: str, dtype: str = "bfloat16"):
    writer = PathsWriter.open(
        where,
        points=POINTS,
        widths={"a": 5, "b": 3, "words": 2},
        size=ROWS,
        meta={},
        dtype=dtype,
        tokens=("words",),
    )
    for rows in writer.missing:
        part = {name: x[rows.start : rows.stop] for name, x in VALUES.items()}
        writer.write_chunk(
            rows.start,
            {**part, "words": WORDS[rows.start : rows.stop]},
            ids=[str(k) for k in rows],
        )
    return writer.finish()


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "a.paths")
    pytest.importorskip("fsspec")
    return f"memory://bfloat16-{tmp_path.name}/a.paths"


def test_every_way_of_reading_gives_the_same_float32(store):
    written(store)
    paths = open_paths(store)
    index = np.array([140, 3, 77, 4, 5])
    for name, expected in VALUES.items():
        for found, wanted in (
            (np.asarray(paths[name]), expected),
            (np.asarray(paths.subset(index)[name]), expected[index]),
            (paths[name][7], expected[7]),
            (paths[name][10:20], expected[10:20]),
        ):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, wanted)
    batch = next(iter(paths.batches(64, shuffle=True, seed=0)))
    assert batch["a"].dtype == torch.float32
    words = np.asarray(paths["words"])
    assert words.dtype == np.float32
    np.testing.assert_array_equal(words[6, : len(WORDS[6])], WORDS[6])


def test_it_takes_half_the_room_and_zarr_reads_its_bits(tmp_path):
    zarr = pytest.importorskip("zarr")
    for dtype in ("bfloat16", "float32"):
        written(str(tmp_path / dtype), dtype)
    # Chunks of as many rows: what is written at the end is padded to a whole one.
    sizes = {
        dtype: (tmp_path / dtype / "paths" / "c" / "0" / "0").stat().st_size
        / zarr.open_group(tmp_path / dtype, mode="r")["paths"].chunks[0]
        for dtype in ("bfloat16", "float32")
    }
    assert sizes == {"bfloat16": 2 * 8, "float32": 4 * 8}
    array = zarr.open_group(tmp_path / "bfloat16", mode="r")["paths"]
    assert array.attrs["bits_of"] == "bfloat16"
    bits = torch.from_numpy(array[:].astype(np.int16)).view(torch.bfloat16)
    np.testing.assert_array_equal(bits.float().numpy(), np.concatenate([VALUES["a"], VALUES["b"]], axis=1))
