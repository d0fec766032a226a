from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import repdyn
from repdyn.artifacts import load_artifact, save_artifact
from repdyn.disentangle.swaps import Swap
from repdyn.errors import RepdynError
from repdyn.reporting import _TITLES, open_result

FOLDERS = Path(__file__).parent / "data" / "schema1"
FITTED = {"detector", "disentangle", "flow", "koopman", "surrogate"}


@pytest.mark.parametrize("name", sorted(folder.name for folder in FOLDERS.iterdir() if folder.is_dir()))
def test_every_saved_result_has_a_section_and_what_was_fitted_says_what_to_give(name):
    kind = load_artifact(FOLDERS / name).kind
    if kind in FITTED:
        with pytest.raises(RepdynError, match="has no picture"):
            open_result(FOLDERS / name)
        return
    first = open_result(FOLDERS / name)[0]
    assert first.section.figure is not None
    assert first.headline


def test_a_result_without_a_picture_says_what_to_give_instead(tmp_path):
    save_artifact(tmp_path / "a.detector", "detector", {}, {"x": np.zeros(1)})
    with pytest.raises(RepdynError, match="'detector' has no picture"):
        open_result(tmp_path / "a.detector")


def test_a_foreign_file_is_told_apart(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RepdynError, match="not a repdyn result"):
        open_result(tmp_path / "notes.txt")


def _drawing_classes() -> dict[str, type]:
    found = {}
    for _, name, _ in pkgutil.walk_packages(repdyn.__path__, "repdyn."):
        if name.startswith(("repdyn.cli", "repdyn.views", "repdyn.reporting")):
            continue
        for one in vars(import_module(name)).values():
            if inspect.isclass(one) and one.__module__.startswith("repdyn.") and hasattr(one, "plot"):
                found[one.__name__] = one
    return found


def test_every_heading_is_that_of_a_class_that_draws_itself():
    assert len(_drawing_classes()) > 15
    assert set(_TITLES) <= set(_drawing_classes())


def _paths():
    x = np.random.default_rng(0).normal(size=(2, 30, 3))
    return repdyn.RepresentationPaths.from_arrays({"first": x[0], "second": x[1]})


def test_python_puts_objects_and_folders_on_one_page(tmp_path):
    swap = Swap(*[np.random.default_rng(1).random((2, 4, 1, 6, 6)) for _ in range(2)], ORIGINALS, "static")
    _paths().save(tmp_path / "a.paths")
    out = repdyn.report([swap, _paths(), tmp_path / "a.paths"], tmp_path / "r.html")
    page = out.read_text()
    for title in ("Swaps", "Representation paths", "Representation paths: a.paths", "Clusters through depth"):
        assert f"<h2>{title}" in page
    assert "repdyn.report, from Python" in page
    with pytest.raises(RepdynError, match="force"):
        repdyn.report({"mine": swap}, out)
    assert "<h2>Swaps: mine</h2>" in repdyn.report({"mine": swap}, out, force=True).read_text()


def test_python_is_told_what_has_no_picture(tmp_path):
    with pytest.raises(RepdynError, match="a KoopmanAutoencoder has no picture"):
        repdyn.report([repdyn.KoopmanAutoencoder()], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


ORIGINALS = tuple(np.random.default_rng(2).random((2, 2, 4, 1, 6, 6)))
