"""Files of vectors are read as the libraries that wrote them meant, and bad ones are refused by row."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import repdyn
from repdyn.errors import NotFiniteError, RepdynError
from repdyn.paths import RepresentationPaths, as_paths, export_paths, import_paths, importing, open_paths

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
TOPICS = ["a", "b", "a", "b", "a", "b", "c"]


def table(**more) -> pa.Table:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    return pa.table(
        {"key": range(10, 17), "text": ["t"] * 7, "wide": fixed, "y": list(Y), "topic": TOPICS, **more}
    )


def test_every_format_holds_the_same_vectors(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("repdyn.paths.arrow.ROWS", 3)
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", wide=X, y=Y, count=np.arange(7))
    save_file({"wide": X, "y": Y}, tmp_path / "a.safetensors")
    pq.write_table(table(), tmp_path / "a.parquet")
    feather.write_feather(table(), str(tmp_path / "a.feather"))
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table().schema) as writer,
    ):
        writer.write_table(table(), max_chunksize=2)
    assert open_paths(tmp_path / "a.npy").points == ("vectors",)
    np.testing.assert_array_equal(open_paths(tmp_path / "a.npy")["vectors"], X)
    for name in ("a.npz", "a.safetensors", "a.parquet", "a.feather", "a.arrow"):
        both = open_paths(tmp_path / name)
        assert both.points == ("wide", "y"), name
        np.testing.assert_array_equal(both["wide"], X)
        np.testing.assert_array_equal(both["y"], Y)
        only = open_paths(f"{tmp_path / name}#y")
        assert only.points == ("y",)
        turned = open_paths(f"{tmp_path / name}#y, wide")
        assert turned.points == ("y", "wide")
        assert turned.dtype == np.float32


def test_ids_and_labels_come_from_columns_of_this_file_or_another(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(), tmp_path / "meta.parquet")
    np.save(tmp_path / "labels.npy", np.arange(7) % 2)
    paths = import_paths(tmp_path / "a.parquet", ids="key", labels="topic")
    assert paths.ids.tolist() == [str(k) for k in range(10, 17)]
    assert paths.labels.tolist() == TOPICS
    elsewhere = import_paths(
        tmp_path / "a.parquet", ids=f"{tmp_path / 'meta.parquet'}#key", labels=str(tmp_path / "labels.npy")
    )
    assert elsewhere.ids.tolist() == paths.ids.tolist()
    assert elsewhere.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    with pytest.raises(RepdynError, match="no column 'topc'; nearest: 'topic'"):
        import_paths(tmp_path / "a.parquet", labels="topc")
    with pytest.raises(RepdynError, match="one label per sample"):
        import_paths(tmp_path / "a.parquet", labels=[1, 2])


def test_a_column_that_is_called_label_is_used_if_it_can_be(tmp_path: Path, caplog) -> None:
    pq.write_table(table(label=TOPICS, id=range(7)), tmp_path / "good.parquet")
    assert open_paths(tmp_path / "good.parquet").labels.tolist() == TOPICS
    pq.write_table(table(label=[0.5] * 7, id=["x", None, *"abcde"]), tmp_path / "odd.parquet")
    with caplog.at_level(logging.WARNING):
        odd = open_paths(tmp_path / "odd.parquet")
    assert odd.labels is None
    assert odd.ids.tolist() == [str(k) for k in range(7)]
    assert "1 of 7 are missing" in caplog.text
    assert "float" in caplog.text
    with pytest.raises(RepdynError, match="row 1 of 'id' is missing"):
        import_paths(tmp_path / "odd.parquet", ids="id")


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_what_was_exported_is_read_back(tmp_path: Path, ending: str) -> None:
    generator = np.random.default_rng(3)
    points = {"stem": generator.normal(size=(9, 3)), "head": generator.normal(size=(9, 2))}
    if ending == "parquet":  # a sample without tokens cannot be told from padding
        mask = np.arange(4) < np.array([1, 4, 2, 3, 4, 1, 2, 3, 4])[:, None]
    else:
        mask = np.arange(4) < np.array([0, 4, 2, 3, 4, 1, 2, 3, 0])[:, None]
    words = generator.normal(size=(9, 4, 2))
    paths = RepresentationPaths.from_arrays(
        {**points, "words": words},
        [*TOPICS, "c", "d"],
        list("abcdefghi"),
        generator.normal(size=(9, 4)),
        {"model": "tiny", "digest": "abc"},
        {"words": mask},
    )
    export_paths(paths, tmp_path / f"a.{ending}")
    back = open_paths(tmp_path / f"a.{ending}")
    assert back.points == paths.points
    for point in paths.points:
        np.testing.assert_array_equal(back[point], paths[point])
    np.testing.assert_array_equal(back.mask("words"), paths.mask("words"))
    np.testing.assert_array_equal(back.logits, paths.logits)
    assert back.labels.tolist() == paths.labels.tolist()
    assert back.ids.tolist() == paths.ids.tolist()
    assert back.meta["digest"] == "abc"


def test_bfloat16_tensors_are_widened(tmp_path: Path) -> None:
    given = torch.tensor(X).bfloat16()
    save_tensors({"last": given}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(open_paths(tmp_path / "a.safetensors")["last"], given.float().numpy())


def broken(**columns):
    return lambda file: pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (broken(v=[[1.0, 2.0], None, [3.0, 4.0], None]), r"row 1 has no vector at 'v' \(2 of 4 rows\)"),
        (broken(v=[[1.0, 2.0], [1.0, 2.0], [3.0]]), "row 2 has 1, row 0 has 2"),
        (broken(v=[[1.0, 2.0], [1.0, float("nan")]]), "sample '1': the representation is not finite"),
        (broken(v=[[1.0, 2.0], [1.0, None]]), "sample '1': the representation is not finite"),
        (broken(v=[{"x": 1.0}]), "no column of vectors, only v struct"),
        (broken(v=pa.array([], pa.list_(pa.float32()))), "has no rows"),
        (broken(v=pa.array([[], []], pa.list_(pa.float32()))), "is empty"),
        (lambda file: file.write_bytes(b"PAR1 no"), "is not a readable Parquet file"),
    ],
)
def test_bad_tables_are_refused_by_row(tmp_path: Path, write, message: str) -> None:
    write(tmp_path / "a.parquet")
    with pytest.raises(RepdynError, match=message) as raised:
        open_paths(tmp_path / "a.parquet")
    assert str(tmp_path / "a.parquet") in str(raised.value)


def test_widths_that_differ_between_batches_are_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("repdyn.paths.arrow.ROWS", 2)
    broken(v=[[1.0, 2.0], [1.0, 2.0], [3.0], [4.0]])(tmp_path / "a.parquet")
    with pytest.raises(RepdynError, match="row 2 has 1, row 0 has 2"):
        open_paths(tmp_path / "a.parquet")


def test_other_bad_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.savez(tmp_path / "flat.npz", y=np.arange(5))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    for name, message in {
        "object.npy": "is not a plain .npy",
        "object.npz": "is not a readable npz",
        "flat.npy": r"expected numbers of shape",
        "flat.npz": r"no array of floats",
        "cut.npz": "is not a readable npz",
        "cut.safetensors": "no array|not a readable",
        "none.npy": "there is no such file",
        "flat.npy#x": "a .npy file has no column 'x'",
        "flat.npz#z": "no column 'z'; nearest: 'y'",
        "flat.npz#": "names no column after '#'",
    }.items():
        with pytest.raises(RepdynError, match=message):
            open_paths(str(tmp_path / name))
    with pytest.raises(RepdynError, match="none of the files of vectors"):
        import_paths(tmp_path / "a.txt")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("repdyn.limits.MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((3000, 100)))
    with pytest.raises(RepdynError, match="unpack to more"):
        open_paths(tmp_path / "a.npz")
    same = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(300_000, np.float32)), 100)
    pq.write_table(pa.table({"x": same}), tmp_path / "a.parquet")
    with pytest.raises(RepdynError, match="unpack to more"):
        open_paths(tmp_path / "a.parquet")


def test_a_folder_is_a_store_whatever_its_name(tmp_path: Path) -> None:
    RepresentationPaths.from_arrays({"stem": X}).save(tmp_path / "a.npy")
    assert open_paths(tmp_path / "a.npy").points == ("stem",)
    assert importing.file_of_vectors("s3://bucket/a.npy") is None


def test_functions_take_what_a_user_has(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    for given in (
        X,
        X.tolist(),
        torch.tensor(X, requires_grad=True),
        str(tmp_path / "a.npy"),
        tmp_path / "a.npy",
    ):
        np.testing.assert_array_equal(np.asarray(as_paths(given)["vectors"]), X)
    assert as_paths({"a": X, "b": torch.tensor(Y)}).widths == {"a": 3, "b": 2}
    paths = as_paths(X)
    assert as_paths(paths) is paths
    for bad in ([[1.0], [1.0, 2.0]], object(), np.zeros(3), {}):
        with pytest.raises(RepdynError):
            as_paths(bad, "paths_a")
    with pytest.raises(NotFiniteError, match="paths_a"):
        as_paths(np.full((2, 2), np.nan), "paths_a")


def test_translate_and_its_evaluation_take_arrays_and_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(300, 4))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    np.save(tmp_path / "a.npy", x[:200])
    pq.write_table(pa.table({"v": list(x[:200] @ turn)}), tmp_path / "b.parquet")
    pairs = np.column_stack([np.arange(200)] * 2)
    of_files = repdyn.translate(tmp_path / "a.npy", f"{tmp_path / 'b.parquet'}#v", pairs=pairs)
    of_arrays = repdyn.translate(x[:200], torch.tensor(x[:200] @ turn), pairs=pairs)
    np.testing.assert_allclose(of_files.matrix, of_arrays.matrix)
    np.testing.assert_allclose(of_arrays.matrix, turn, atol=1e-6)
    np.save(tmp_path / "x.npy", x[200:])
    np.save(tmp_path / "y.npy", x[200:] @ turn)
    evaluation = repdyn.evaluate_translation(of_files, tmp_path / "x.npy", str(tmp_path / "y.npy"))
    assert evaluation.top1["translation"].value == 1


@pytest.mark.parametrize("name", ["v", "id"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = {"v": pa.array([[1.0, 2.0]] * 3), "id": pa.array(["a", "b", "c"])}
    table = pa.Table.from_arrays([*columns.values(), columns[name]], names=[*columns, name])
    parquet.write_table(table, tmp_path / "twice.parquet")
    for address in ("twice.parquet", "twice.parquet#v"):
        with pytest.raises(RepdynError, match=rf"twice.parquet: has several columns '{name}'; rename them"):
            import_paths(tmp_path / address)
    if name == "v":
        with pytest.raises(RepdynError, match="from_arrow: has several columns 'v'"):
            RepresentationPaths.from_arrow(table)
