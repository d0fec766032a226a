from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from PIL import Image, ImageCms

import repdyn
from repdyn.cli.app import app
from repdyn.cli.console import run
from repdyn.cli.data import read_data
from repdyn.errors import RepdynError
from repdyn.paths import open_paths


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
        "a/moves.gif": "has 3 frames",
        "a/moves.png": "has 3 frames",
        "a/moves.webp": "has 3 frames",
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
    with pytest.raises(RepdynError, match=r"2\.png: is in no class folder, but others are"):
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


def network():
    """Takes digits and what has their size."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def run_trace(specification, folder, model="network", **options):
    """Run the program in this process: status, and what it printed to stderr."""
    typed = [f"module:fuzzed_models.{model}", specification, f"--out={folder / 'a.paths'}", "--no-resume"]
    for name, value in options.items():
        typed += [f"--{name.replace('_', '-')}"] * (value is True)
        typed += [f"--{name}={value}"] * (not isinstance(value, bool))
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        status = run(lambda: app(args=["trace", *typed[2:], "--", *typed[:2]]))
    return status, errors.getvalue()


def assert_one_line(status, errors, specification):
    assert status in (0, 2), (specification, errors)
    if status == 2:
        assert errors.startswith("repdyn: error: "), (specification, errors)
        assert errors.count("\n") == 1, (specification, errors)


ADDRESSES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="#,/.:~*%\\\0 é\n", max_size=20),
    st.sampled_from(["", "#", "#,", "x#a,b,c", "/", "/dev/null#X", ".#X", "/etc#X", "a" * 5000 + "#X"]),
)
TABLES = st.lists(
    st.lists(st.text(alphabet='ab,"\n\0é', max_size=5), min_size=1, max_size=4).map(",".join), max_size=6
).map("\n".join)
ARRAYS = hypothesis_numpy.arrays(
    st.sampled_from(["f4", "f8", "i8", "u1", "?", "c8", "U2", "S2", "M8[s]"]),
    hypothesis_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", autouse=True)
def models():
    """What the command line finds as ``module:fuzzed_models.…``."""
    sys.modules["fuzzed_models"] = SimpleNamespace(network=network, of_pictures=of_pictures)
    yield
    del sys.modules["fuzzed_models"]


@given(st.sampled_from(["images", "npz", "csv", "hf", "digits", "docstrings", "", "nope"]), ADDRESSES)
@settings(max_examples=50, deadline=None)
def test_any_specification_fails_in_one_line(folder, kind, address):
    if kind == "docstrings" and not address:
        return  # reads all installed packages
    specification = f"{kind}:{address}"
    if address.startswith("/") and kind == "images":
        return  # a real folder, with who knows how many pictures
    status, errors = run_trace(specification, folder)
    assert_one_line(status, errors, specification)
    assert status == 2 or specification == "digits:"


@given(st.sampled_from(["x.csv", "x.csv.gz", "x.npz"]), st.binary(max_size=300), st.booleans())
@settings(max_examples=30, deadline=None)
def test_files_of_any_bytes_fail_in_one_line(folder, name, content, whole):
    if name.endswith("gz") and whole:
        content = gzip.compress(content)
    if name.endswith("npz") and whole:
        np.savez(folder / "good.npz", X=np.arange(640, dtype="f4").reshape(10, 64))
        good = bytearray((folder / "good.npz").read_bytes())
        for place, byte in enumerate(content[:20]):
            good[(place * 7919 + byte * 31) % len(good)] = byte
        content = bytes(good)
    (folder / name).write_bytes(content)
    specification = f"{name.split('.')[1]}:{folder / name}#X"
    assert_one_line(*run_trace(specification, folder), specification)


@given(TABLES, st.sampled_from(["a", "b", "a,b", '"']), st.booleans())
@settings(max_examples=30, deadline=None)
def test_tables_of_any_shape_fail_in_one_line(folder, table, columns, skip):
    (folder / "t.csv").write_text(table, encoding="utf-8", newline="")
    specification = f"csv:{folder / 't.csv'}#{columns}"
    assert_one_line(*run_trace(specification, folder, skip_bad=skip), specification)


@given(ARRAYS, ARRAYS)
@settings(max_examples=30, deadline=None)
def test_arrays_of_any_type_and_shape_fail_in_one_line(folder, x, y):
    np.savez(folder / "a.npz", X=x, Y=y)
    specification = f"npz:{folder / 'a.npz'}#X,Y"
    assert_one_line(*run_trace(specification, folder), specification)


@given(
    st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp"]),
    st.integers(0, 400),
    st.binary(max_size=12),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_damaged_pictures_fail_in_one_line(folder, ending, cut, noise, skip):
    place = folder / "pictures"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(place / f"x.{ending}")
    good = bytearray((place / f"x.{ending}").read_bytes())
    for number, byte in enumerate(noise):
        good[(number * 7919 + byte * 31) % len(good)] = byte
    (place / f"x.{ending}").write_bytes(bytes(good[: cut if cut % 2 else None]))
    specification = f"images:{place}"
    assert_one_line(*run_trace(specification, folder, skip_bad=skip), specification)


def of_pictures():
    """Takes pictures of eight by eight pixels."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))

    def prepare(pictures):
        return torch.stack([torch.from_numpy(np.array(p.resize((8, 8)))).float() / 255 for p in pictures])

    return repdyn.wrap(layers, prepare=prepare)


def test_what_was_skipped_is_told_in_the_figures_and_in_the_store(tmp_path):
    wrong = save_bad_pictures(tmp_path)
    specification = f"images:{tmp_path}"
    status, errors = run_trace(specification, tmp_path, "of_pictures")
    assert status == 2
    assert "a/cut.jpg" in errors
    assert "--skip-bad" in errors
    options = {"skip_bad": True, "json": tmp_path / "a.json"}
    assert run_trace(specification, tmp_path, "of_pictures", **options)[0] == 0
    told = json.loads((tmp_path / "a.json").read_text())["trace"]["skipped"]
    assert set(told) == set(wrong)
    paths = open_paths(tmp_path / "a.paths")
    assert paths.meta["skipped"] == told
    assert paths.ids.tolist() == ["a/good.png"]
