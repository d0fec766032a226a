"""Formats wider than a first sight of them: folders with links, odd pictures, CSV of other writers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from repdyn.cli.data import read_data
from repdyn.errors import RepdynError


def picture(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)).save(path, **options)


def test_linked_folders_are_classes_and_hidden_ones_are_not(tmp_path):
    picture(tmp_path / "elsewhere" / "cats" / "one.png")
    folder = tmp_path / "data"
    picture(folder / "dogs" / "two.png")
    picture(folder / "dogs" / ".ipynb_checkpoints" / "two-checkpoint.png")
    picture(folder / ".ipynb_checkpoints" / "three.png")
    (folder / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    (folder / "dogs" / "again").symlink_to(folder)  # a circle
    data = read_data(f"images:{folder}")
    assert data.ids == ("cats/one.png", "dogs/two.png")
    assert data.labels.tolist() == ["cats", "dogs"]


def test_pictures_of_less_usual_kinds_are_read(tmp_path):
    picture(tmp_path / "a.ppm")
    picture(tmp_path / "b.jfif", format="JPEG")
    picture(tmp_path / "c.avif")
    frames = [Image.new("RGB", (5, 6), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "d.jpg", format="MPO", save_all=True, append_images=frames[1:])
    data = read_data(f"images:{tmp_path}")
    assert data.ids == ("a.ppm", "b.jfif", "c.avif", "d.jpg")
    assert [item.size for item in data.inputs] == [(5, 6)] * 4
    red = np.asarray(data.inputs[3])[0, 0]  # the first of the two, give or take JPEG
    assert red[0] > 200 > 60 > red[2]


def test_a_picture_without_a_decoder_is_told_and_can_be_left_out(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"no decoder here")
    with pytest.raises(RepdynError, match=r"b\.heic"):
        list(read_data(f"images:{tmp_path}").inputs)
    assert list(read_data(f"images:{tmp_path}", skip_bad=True).skipped) == ["b.heic"]


ROWS = [("a text; with, all\tof them", "x"), ("été", "y"), ("z" * 200_000, "x")]


@pytest.mark.parametrize("kind", ["csv", "semicolon", "tab", "latin-1", "jsonl", "parquet"])
def test_other_writers(kind, tmp_path):
    file = tmp_path / "data"
    if kind == "jsonl":
        file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS))
    elif kind == "parquet":
        texts, labels = zip(*ROWS, strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), file)
    else:
        mark = {"semicolon": ";", "tab": "\t"}.get(kind, ",")
        lines = [f"text{mark}label", *(f'"{text}"{mark}{label}' for text, label in ROWS)]
        file.write_text("\n".join(lines), encoding="latin-1" if kind == "latin-1" else "utf-8")
    scheme = {"semicolon": "csv", "tab": "csv", "latin-1": "csv-latin1"}.get(kind, kind)
    data = read_data(f"{scheme}:{file}#text,label")
    assert list(zip(data.inputs, data.labels.tolist(), strict=True)) == ROWS


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\nfine,x\n"open,x\nfine,y\nlast,y\n')
    with pytest.raises(RepdynError, match=r"after line 2 has a quote"):
        read_data(f"csv:{tmp_path / 'a.csv'}#text,label")
    (tmp_path / "b.csv").write_bytes("text,label\nété,x\n".encode("latin-1"))
    with pytest.raises(RepdynError, match="csv-latin1"):
        read_data(f"csv:{tmp_path / 'b.csv'}#text,label")


def test_rows_without_a_text_or_a_label_are_told(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": 1}\n{"text": null, "label": 2}\nnot JSON\n')
    with pytest.raises(RepdynError, match="skip-bad"):
        read_data(f"jsonl:{file}#text,label")
    data = read_data(f"jsonl:{file}#text,label", skip_bad=True)
    assert data.inputs == ["a"]
    assert len(data.skipped) == 2
    file.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n')
    with pytest.raises(RepdynError, match="sample 1 is missing"):
        read_data(f"jsonl:{file}#text,label")
