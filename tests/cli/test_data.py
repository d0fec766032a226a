from __future__ import annotations

import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

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


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "LAB")


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    """Half grey in every mode is half grey in RGB, whatever the size, and nothing warns."""
    ending = "tif" if mode in ("I", "CMYK", "YCbCr", "LAB") else "png"
    if mode in ("I;16", "I"):
        picture = Image.fromarray(np.full((5, 3), 32896, np.uint16 if mode == "I;16" else np.int32))
    elif mode == "1":
        picture = Image.new("1", (3, 5), 1)
    else:
        grey = Image.new(
            "L" if mode in ("L", "LA") else "RGB", (3, 5), 128 if mode in ("L", "LA") else (128,) * 3
        )
        lab = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = (
            ImageCms.profileToProfile(grey, lab[1], lab[0], outputMode="LAB")
            if mode == "LAB"
            else grey.convert(mode, palette=Image.Palette.ADAPTIVE)
        )
    if mode == "P":
        picture.info["transparency"] = bytes([0] * 256)
    picture.save(tmp_path / f"a.{ending}")
    found = read_data(f"images:{tmp_path}").inputs[0]
    assert (found.mode, found.size) == ("RGB", (3, 5))
    np.testing.assert_allclose(np.asarray(found), 255 if mode == "1" else 128, atol=3)


def save_bad_pictures(folder):
    """One good picture and five that are not one picture: what is said of each."""
    (folder / "a").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    frames = [Image.fromarray(noise // (k + 1)) for k in range(3)]
    frames[0].save(folder / "a/good.png")
    for ending in ("gif", "png", "webp"):
        frames[0].save(folder / f"a/moves.{ending}", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "a/cut.jpg")
    (folder / "a/cut.jpg").write_bytes((folder / "a/cut.jpg").read_bytes()[:600])
    (folder / "a/empty.png").write_bytes(b"")
    return {
        "a/moves.gif": "3 of them",
        "a/moves.png": "3 of them",
        "a/moves.webp": "3 of them",
        "a/cut.jpg": "not a readable picture",
        "a/empty.png": "not a readable picture",
    }


def test_animated_and_truncated_pictures_are_named_and_skipped_only_on_demand(tmp_path):
    wrong = save_bad_pictures(tmp_path)
    data = read_data(f"images:{tmp_path}")
    assert len(data.inputs) == 6
    for name, reason in wrong.items():
        with pytest.raises(RepdynError, match=f"{name}: .*{reason}.*--skip-bad"):
            data.inputs[data.ids.index(name)]
    data = read_data(f"images:{tmp_path}", skip_bad=True)
    assert data.ids == ("a/good.png",)
    assert data.labels.tolist() == ["a"]
    assert set(data.skipped) == set(wrong)
    assert all(reason in data.skipped[name] for name, reason in wrong.items())
    (tmp_path / "a/good.png").unlink()
    with pytest.raises(RepdynError, match="all 5 were skipped"):
        read_data(f"images:{tmp_path}", skip_bad=True)


def test_lines_with_too_few_or_too_many_columns_are_skipped_on_demand(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"two\nlines",x\nonly\na,b,c\nlast,y\n')
    with pytest.raises(RepdynError, match="line 4: has fewer columns"):
        read_data(f"csv:{path}#text,label")
    data = read_data(f"csv:{path}#text,label", skip_bad=True)
    assert list(data.inputs) == ["two\nlines", "last"]
    assert list(data.skipped) == [f"{path}: line 4", f"{path}: line 5"]


def test_a_random_part_keeps_samples_labels_and_ids_together(tmp_path):
    for number in range(9):
        folder = tmp_path / f"class{number % 3}"
        folder.mkdir(exist_ok=True)
        Image.new("L", (2, 2), number).save(folder / f"{number}.png")
    part = read_data(f"images:{tmp_path}").part(4, seed=1)
    assert len(part.inputs) == len(part.ids) == len(part.labels) == 4
    for picture, label, name in zip(part.inputs, part.labels, part.ids):
        number = int(np.asarray(picture)[0, 0, 0])
        assert (label, name) == (f"class{number % 3}", f"class{number % 3}/{number}.png")
    assert read_data("digits").part(5, seed=0).inputs.shape == (5, 1, 8, 8)


def test_pictures_beside_folders_of_classes(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("cat/1.png", "2.png"):
        Image.new("L", (4, 5)).save(tmp_path / name)
    with pytest.raises(RepdynError, match=r"2\.png: lies beside folders of classes"):
        read_data(f"images:{tmp_path}")
    (tmp_path / "cat/1.png").unlink()
    assert read_data(f"images:{tmp_path}").labels is None


class Hub:
    """What the datasets library gives: columns by name."""

    def __init__(self, columns):
        self.columns = columns
        self.column_names = list(columns)

    def __getitem__(self, name):
        return self.columns[name]


def test_the_hub_through_the_datasets_library(monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "nowhere":
            raise ConnectionError("no\nnetwork")
        return Hub({"text": ["a", "b"], "label": [0, 1]} if name == "texts" else {"audio": [1]})

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = read_data("hf:texts#test")
    assert list(data.inputs) == ["a", "b"]
    assert data.labels.tolist() == [0, 1]
    read_data("hf:texts")
    assert asked == [("texts", "test"), ("texts", "train")]
    with pytest.raises(RepdynError, match=r"could not be loaded \(no network\)"):
        read_data("hf:nowhere")
    with pytest.raises(RepdynError, match="has no column text, sentence, image or img"):
        read_data("hf:sounds")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RepdynError, match="pip install datasets"):
        read_data("hf:texts")


def test_texts_in_an_npz_and_files_that_are_no_archive(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.array(["a", "b"]), scalar=np.float32(1), when=np.zeros(2, "M8[s]"))
    assert read_data(f"npz:{tmp_path / 't.npz'}#X").inputs == ["a", "b"]
    for name in ("scalar", "when"):
        with pytest.raises(RepdynError, match="expected numbers or texts"):
            read_data(f"npz:{tmp_path / 't.npz'}#{name}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(RepdynError, match="single array"):
        read_data(f"npz:{tmp_path / 'one.npy'}#X")


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
    with pytest.raises(RepdynError, match="line 2: has fewer columns"):
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
