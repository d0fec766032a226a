from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repdyn.cli.data import read_data
from repdyn.errors import RepdynError


def test_csv_text_and_label_gzipped_or_not(tmp_path):
    text = 'TEXT,LABEL\n"a, b",x\nc,y\n'
    (tmp_path / "t.csv").write_text(text)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as f:
        f.write(text)
    for name in ("t.csv", "t.csv.gz"):
        data = read_data(f"csv:{tmp_path / name}#TEXT,LABEL")
        assert list(data.inputs) == ["a, b", "c"]
        assert data.labels.tolist() == ["x", "y"]
    assert read_data(f"csv:{tmp_path / 't.csv'}#TEXT").labels is None


def test_npz_arrays_and_no_pickles(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.zeros((3, 2)), Y=np.arange(3))
    data = read_data(f"npz:{tmp_path / 'd.npz'}#X,Y")
    assert data.inputs.shape == (3, 2)
    assert data.labels.tolist() == [0, 1, 2]
    np.savez(tmp_path / "p.npz", X=np.array([{}], dtype=object))
    with pytest.raises(RepdynError, match="plain arrays"):
        read_data(f"npz:{tmp_path / 'p.npz'}#X")


def test_images_one_folder_a_class(tmp_path):
    for name in ("cat/1.png", "dog/2.png", "dog/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 5), 7).save(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    data = read_data(f"images:{tmp_path}")
    assert data.labels.tolist() == ["cat", "dog", "dog"]
    assert data.ids == ("cat/1.png", "dog/2.png", "dog/3.png")
    assert data.inputs[0].mode == "RGB"
    (tmp_path / "dog" / "2.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(RepdynError, match=r"2\.png: is not a readable picture"):
        data.inputs[1]


def test_digits_are_scikit_learns():
    data = read_data("digits")
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert data.inputs.max() == 1


@pytest.mark.parametrize(
    ("specification", "says"),
    [
        ("image:x", "nearest: 'images'"),
        ("images:/nowhere", "no such folder"),
        ("npz:/nowhere.npz#X", "no such file"),
        ("csv:/nowhere.csv#a", "no such file"),
        ("csv:x.csv", "name one or two columns"),
        ("csv", "takes an address"),
        ("digits:3", "takes no address"),
        ("", "unknown kind"),
    ],
)
def test_bad_specifications_say_what_and_what_to_do(specification, says):
    with pytest.raises(RepdynError, match=says):
        read_data(specification)


def test_missing_column_empty_file_and_short_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n")
    with pytest.raises(RepdynError, match="no column 'txt'; nearest: 'text'"):
        read_data(f"csv:{path}#txt")
    with pytest.raises(RepdynError, match="holds no sample"):
        read_data(f"csv:{path}#text,label")
    path.write_text("text,label\nonly\n")
    with pytest.raises(RepdynError, match="line 2 has fewer columns"):
        read_data(f"csv:{path}#text,label")


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_whatever_is_typed_the_failure_is_ours(specification):
    if specification.partition(":")[0] in ("digits", "docstrings"):
        return
    with pytest.raises(RepdynError):
        read_data("npz:" + specification)
    with pytest.raises(RepdynError):
        read_data("?" + specification)
