"""Stores of paths as data sets of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import repdyn
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths, open_paths, verify_paths
from tests.hub_stand_in import Repo, StandIn

SIZE = 60


@pytest.fixture
def known() -> RepresentationPaths:
    generator = np.random.default_rng(0)
    return RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype("float32"),
            "words": generator.normal(size=(SIZE, 5, 2)).astype("float32"),
            "head": generator.normal(size=(SIZE, 4)).astype("float32"),
        },
        labels=[f"klasse {i % 4} é" for i in range(SIZE)],
        ids=[f"bild {i}" for i in range(SIZE)],
        logits=generator.normal(size=(SIZE, 6)),
        meta={"model": "tiny <b>|", "digest": "abc", "data": "/home/ada/photos/x.npz"},
        masks={"words": np.arange(5) < generator.integers(0, 6, SIZE)[:, None]},
    )


def assert_equal(found: RepresentationPaths, expected: RepresentationPaths) -> None:
    assert found.points == expected.points
    for point in expected.points:
        np.testing.assert_array_equal(np.asarray(found[point]), np.asarray(expected[point]))
    np.testing.assert_array_equal(found.mask("words"), expected.mask("words"))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.logits, expected.logits)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_files_of_a_store_and_how_it_is_opened_again(
    known: RepresentationPaths, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.save(tmp_path / "a.paths")
    monkeypatch.chdir(tmp_path)
    # Nothing is copied: that would take the disk twice.
    monkeypatch.setattr(RepresentationPaths, "save", lambda *_: pytest.fail("saved again"))
    address = open_paths("a.paths").push_to_hub("ada/paths", private=True, commit_message="60 samples")
    assert address.startswith(f"{hub.url}/datasets/ada/paths/commit/")
    there = dict(hub.dataset("ada/paths").files)
    card = there.pop("README.md").decode()
    assert there.pop(".gitattributes")
    assert there == files_of(tmp_path / "a.paths")
    assert hub.dataset("ada/paths").private
    assert hub.dataset("ada/paths").messages[1:] == ["60 samples"]
    remote = open_paths("hf://datasets/ada/paths")
    assert_equal(remote, known)
    assert dict(remote.meta) == dict(open_paths("a.paths").meta)
    commit = hub.dataset("ada/paths").branches["main"]
    assert_equal(open_paths(f"hf://datasets/ada/paths@{commit}"), known)
    assert verify_paths("hf://datasets/ada/paths").sound
    from huggingface_hub import snapshot_download

    local = snapshot_download("ada/paths", repo_type="dataset")
    assert isinstance(open_paths(local).path, Path)
    assert_equal(open_paths(local), known)
    # The card holds no folder of this machine, and what it holds is escaped.
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "tags": ["repdyn", "representation-paths"],
        "viewer": False,
    }
    assert str(tmp_path) not in card
    assert "a.paths" not in card
    assert "/home/ada" not in card
    assert "x.npz" in card
    assert "| model | tiny &#60;b&#62;&#124; |" in card
    assert "open_paths('hf://datasets/ada/paths')" in card


@pytest.mark.parametrize("chosen", ["in memory", "subset", "reversed", "tokens"])
def test_paths_that_are_no_whole_store(
    known: RepresentationPaths, hub: StandIn, tmp_path: Path, chosen: str
) -> None:
    known.save(tmp_path / "a.paths")
    stored = open_paths(tmp_path / "a.paths")
    pushed = {
        "in memory": known,
        "subset": stored.subset(np.arange(0, SIZE, 3)),
        "reversed": stored.subset(np.arange(SIZE)[::-1]),
        "tokens": stored.tokens_as_samples(),
    }[chosen]
    address = pushed.push_to_hub("ada/paths")
    assert "/datasets/ada/paths/commit/" in address
    found = open_paths("hf://datasets/ada/paths")
    np.testing.assert_array_equal(found.ids, pushed.ids)
    np.testing.assert_array_equal(found.labels, pushed.labels)
    np.testing.assert_array_equal(np.asarray(found["words"]), np.asarray(pushed["words"]))
    card = hub.dataset("ada/paths").files["README.md"].decode()
    assert str(tmp_path) not in card
    assert f"{len(pushed)} samples at {len(pushed.points)} points, float32, in this repository" in card


def test_a_later_store_replaces_an_earlier_one(
    known: RepresentationPaths, hub: StandIn, tmp_path: Path
) -> None:
    known.push_to_hub("ada/paths")
    hub.dataset("ada/paths").commit(
        "main", {**hub.dataset("ada/paths").files, "LICENSE": b"mine", "picture.png": b"\0"}, "by hand"
    )
    plain = RepresentationPaths.from_arrays({"stem": np.ones((3, 2))})
    plain.save(tmp_path / "b.paths")
    repdyn.push_folder(tmp_path / "b.paths", "ada/paths")
    kept = {".gitattributes", "README.md", "LICENSE", "picture.png"}
    assert set(hub.dataset("ada/paths").files) == kept | set(files_of(tmp_path / "b.paths"))
    np.testing.assert_array_equal(np.asarray(open_paths("hf://datasets/ada/paths")["stem"]), 1)


def test_what_is_refused(
    known: RepresentationPaths, hub: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repos["datasets", "ada/zarr"] = Repo()
    hub.dataset("ada/zarr").commit("main", {"zarr.json": b'{"zarr_format": 3}'}, "x")
    with pytest.raises(RepdynError, match=r"ada/zarr: holds 'zarr.json', which repdyn did not write"):
        known.push_to_hub("ada/zarr")
    hub.repos["datasets", "ada/labels"] = Repo()
    hub.dataset("ada/labels").commit("main", {"labels/train.txt": b"x"}, "x")
    with pytest.raises(RepdynError, match=r"ada/labels: holds 'labels/train.txt', which repdyn did not"):
        known.push_to_hub("ada/labels")
    assert len(hub.dataset("ada/zarr").messages) == len(hub.dataset("ada/labels").messages) == 2
    with pytest.raises(RepdynError, match="is a Zarr store, but not of paths"):
        open_paths("hf://datasets/ada/zarr")
    for missing in ("hf://datasets/ada/nothing", "hf://datasets/ada/labels", "hf://datasets/ada/zarr@gone"):
        with pytest.raises(RepdynError) as caught:
            open_paths(missing)
        assert "\n" not in str(caught.value)
        assert missing in str(caught.value)
    with pytest.raises(RepdynError, match="a private one needs `hf auth login`"):
        open_paths("hf://datasets/ada/nothing")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepdynError, match="run `hf auth login`, or set HF_TOKEN"):
        known.push_to_hub("ada/paths")
    with pytest.raises(RepdynError, match="there is no such file or folder"):
        repdyn.push_folder(tmp_path / "gone.paths", "ada/paths")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RepdynError) as caught:
        open_paths("hf://datasets/ada/other")
    assert "\n" not in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert ("datasets", "ada/paths") not in hub.repos
