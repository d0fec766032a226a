"""Files as other programs write them: their values are read, or the refusal says what is wrong."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from repdyn.cli.data import read_data
from repdyn.errors import RepdynError

TEXTS, LABELS = ["a, b", "„c“", 'd "e"', "f\ng"], ["cat", "dog", "cat", "bird"]


def written(delimiter, newline="\n"):
    """The table as Python's csv writes it."""
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter, lineterminator=newline)
    rows.writerow(["text", "label"])
    rows.writerows(zip(TEXTS, LABELS, strict=True))
    return file.getvalue()


FILES = {
    "bars": written("|").encode(),
    "UTF-16 of Excel": written("\t", "\r\n").encode("utf-16"),
    "UTF-16, big-endian": "\ufeff".encode("utf-16-be") + written(",").encode("utf-16-be"),
    "Excel's line of the separator": ("sep=;\n" + written(";")).encode(),
    "spaces after commas": (
        "text, label\n" + written(",").partition("\n")[2].replace(",cat", ", cat")
    ).encode(),
}


@pytest.mark.parametrize("file", FILES)
def test_tables_of_other_programs(file, tmp_path):
    (tmp_path / "a.csv").write_bytes(FILES[file])
    data = read_data(f"csv:{tmp_path / 'a.csv'}#text,label")
    assert list(data.inputs) == TEXTS
    assert data.labels.tolist() == LABELS


def test_latin_1_is_windows_1252_where_they_differ(tmp_path):
    (tmp_path / "a.csv").write_bytes(written(",").encode("cp1252"))
    assert list(read_data(f"csv-latin1:{tmp_path / 'a.csv'}#text").inputs) == TEXTS
    every = bytes(range(0xA0, 0x100)).decode("latin-1")
    (tmp_path / "b.csv").write_bytes(f"text\n{every}\n".encode("latin-1"))
    assert list(read_data(f"csv-latin1:{tmp_path / 'b.csv'}#text").inputs) == [every]


def test_json_lines_in_utf_16(tmp_path):
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)
    (tmp_path / "a.jsonl").write_bytes(lines.encode("utf-16"))
    assert list(read_data(f"jsonl:{tmp_path / 'a.jsonl'}#text").inputs) == TEXTS


def table(kind, path, labels):
    if kind == "csv":
        lines = [f"t{number},{'' if label is None else label}" for number, label in enumerate(labels)]
        path.write_text("\n".join(["text,label", *lines]))
    elif kind == "jsonl":
        rows = [{"text": f"t{number}", "label": label} for number, label in enumerate(labels)]
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.table({"text": [f"t{k}" for k in range(len(labels))], "label": labels}), path)
    return f"{kind}:{path}#text,label"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_row_without_a_label_is_no_class_and_is_left_out_on_demand(kind, tmp_path):
    given = table(kind, tmp_path / "a", ["x", None, "y"])
    with pytest.raises(
        RepdynError, match=r"(line 3: has no label in 'label'|the label 'label' of sample 1 is missing)"
    ):
        read_data(given)
    data = read_data(given, skip_bad=True)
    assert (list(data.inputs), data.labels.tolist(), len(data.skipped)) == (["t0", "t2"], ["x", "y"], 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,text,label\na,b,c\n", "has 2 columns 'text'"),
        ("a.jsonl", b'[{"text": "a", "label": 1}]', "line 1: is not an object with text and label"),
        ("a.jsonl", b'[\n {"text": "a",\n "label": 1}\n]', "line 1: is not JSON"),
    ],
)
def test_tables_that_are_ambiguous_or_of_another_kind(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RepdynError, match=message):
        read_data(f"{name.partition('.')[2]}:{tmp_path / name}#text,label")


def test_columns_of_pictures_and_vectors_in_parquet(tmp_path):
    values = {"image": [{"bytes": b"x", "path": "p"}], "vector": [[1.0, 2.0]], "text": ["a"]}
    pq.write_table(pa.table(values), tmp_path / "a.parquet")
    for column in ("image", "vector"):
        with pytest.raises(RepdynError, match=rf"column '{column}' holds (struct|list)<.*expected texts"):
            read_data(f"parquet:{tmp_path / 'a.parquet'}#{column}")
    pq.write_table(
        pa.table({"text": ["a", "b"], "label": pa.array([2**63 + 5, 1], pa.uint64())}), tmp_path / "b"
    )
    with pytest.raises(RepdynError, match=rf"{2**63 + 5} does not fit into int64"):
        read_data(f"parquet:{tmp_path / 'b'}#text,label")


@pytest.mark.parametrize(
    ("value", "known"), [(200, False), (300, True), (65535, True), (65536, False), (-1, False)]
)
def test_pictures_of_32_bit_are_read_where_their_range_is_known(value, known, tmp_path):
    Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "a.tif")
    pictures = read_data(f"images:{tmp_path}").inputs
    if known:
        assert np.asarray(pictures[0])[0, 0].tolist() == [value // 257] * 3
    else:
        with pytest.raises(
            RepdynError, match=f"32-bit integers from {value} to {value}, whose range is unknown"
        ):
            pictures[0]


@pytest.mark.parametrize("value", [3, 200, 51400])
@pytest.mark.parametrize("ending", ["png", "pgm", "tif"])
def test_pictures_of_16_bit_are_dark_where_they_are_dark(value, ending, tmp_path):
    Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / f"a.{ending}")
    assert np.asarray(read_data(f"images:{tmp_path}").inputs[0])[0, 0].tolist() == [value // 257] * 3


def test_hidden_files_and_those_of_a_mac_are_no_pictures(tmp_path):
    for name in ("cat/a.png", "cat/.thumbnail.png", "__MACOSX/cat/a.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (len(name), 0, 0)).save(tmp_path / name)
    (tmp_path / "cat" / "._a.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    data = read_data(f"images:{tmp_path}")
    assert (data.ids, data.labels.tolist()) == (("cat/a.png", "dog/b.png"), ["cat", "dog"])
    assert [np.asarray(picture)[0, 0, 0] for picture in data.inputs] == [9, 9]


def test_pictures_that_cannot_be_decoded_are_not_left_out_without_a_word(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.NEF").write_bytes(b"MM\0*raw of a camera")
    assert len(read_data(f"images:{tmp_path}").inputs) == 2
    data = read_data(f"images:{tmp_path}", skip_bad=True)
    assert (data.ids, list(data.skipped)) == (("a.png",), ["b.NEF"])
