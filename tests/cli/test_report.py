"""`repdyn report` over whatever a user may give it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from repdyn.cli import main
from repdyn.ood import PathDetector, evaluate
from repdyn.paths import RepresentationPaths


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["repdyn", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def paths(count: int, labels=None, width: int = 6) -> RepresentationPaths:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, count, width)).astype(np.float32)
    return RepresentationPaths.from_arrays({f"layer.{k}": x[k] for k in range(3)}, labels=labels)


@pytest.fixture
def evaluation(tmp_path):
    found = evaluate(PathDetector().fit(paths(120)), paths(60), {"far": _moved(paths(60))}, seed=0)
    found.save(tmp_path / "a.ood")
    return tmp_path / "a.ood"


def _moved(given: RepresentationPaths) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({point: np.asarray(given[point]) + 4 for point in given.points})


def test_a_hundred_thousand_samples_stay_under_eight_megabytes(report, tmp_path):
    paths(100_000, labels=np.arange(100_000) % 30).save(tmp_path / "many.paths")
    assert report("many.paths")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert len(page.encode()) < 8_000_000
    assert "1200 of 100000 samples" in page
    assert "on 2000 of 100000 samples" in page


@pytest.mark.parametrize("labels", [None, ["only"]])
def test_one_sample_with_or_without_a_label(report, tmp_path, labels):
    paths(1, labels=labels).save(tmp_path / "one.paths")
    status, _, err = report("one.paths")
    assert status == 0, err
    assert "All 1 samples" in (tmp_path / "report.html").read_text()


def test_no_labels_and_clusters_through_depth(report, tmp_path):
    paths(50).save(tmp_path / "a.paths")
    assert report("a.paths")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Clusters through depth: a.paths" in page
    assert "on 50 of 50 samples" in page


def test_labels_of_ten_thousand_characters_and_markup_stay_text(report, tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>" + "y" * 10_000
    paths(40, labels=np.array([hostile, "plain"] * 20)).save(tmp_path / "a.paths")
    assert report("a.paths")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "y" * 200 not in page
    assert "&lt;img" in page or "\\u003cimg" in page or "\\u0026lt;" in page


def test_scores_that_are_all_nan_are_refused_and_nothing_is_written(report, evaluation, tmp_path):
    weights = evaluation / "model.safetensors"
    nothing = {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array
        for name, array in load_file(weights).items()
    }
    save_file(nothing, weights)
    status, _, err = report("a.ood")
    assert status == 2
    assert "changed after it was saved" in err
    document = json.loads((evaluation / "config.json").read_text())
    del document["repdyn"]["sha256"]  # as in results of version 0.1, which is read as it is
    (evaluation / "config.json").write_text(json.dumps(document))
    status, _, err = report("a.ood")
    assert status == 2
    assert "no finite number" in err or "finite" in err
    assert not (tmp_path / "report.html").exists()


def test_a_result_of_a_newer_version_among_others_is_named(report, evaluation, tmp_path):
    paths(30).save(tmp_path / "a.paths")
    document = json.loads((evaluation / "config.json").read_text())
    document["repdyn"]["schema"] = 99
    (evaluation / "config.json").write_text(json.dumps(document))
    status, _, err = report("a.paths", "a.ood")
    assert status == 2
    assert "a.ood: written by a newer repdyn (schema 99" in err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: (folder / "x").write_bytes(b"\x00\x01"), "not a repdyn result"),
        (lambda folder: (folder / "x").mkdir(), "not a repdyn result"),
        (lambda folder: None, "no such file"),
    ],
)
def test_what_is_no_result_is_one_line(report, tmp_path, make, says):
    make(tmp_path)
    status, _, err = report("x")
    assert status == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_report_that_is_there_is_kept_unless_forced(report, tmp_path):
    paths(20).save(tmp_path / "a.paths")
    (tmp_path / "report.html").write_text("mine")
    status, _, err = report("a.paths")
    assert (status, (tmp_path / "report.html").read_text()) == (2, "mine")
    assert "force" in err
    assert report("a.paths", "--force")[0] == 0
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_provenance_comes_last_with_commands_seeds_and_versions(report, evaluation, tmp_path, monkeypatch):
    from repdyn.provenance import sign

    monkeypatch.setattr(sys, "argv", ["repdyn", "ood", "evaluate", "a b.detector", "--seed", "7"])
    sign(evaluation, 7)
    paths(30).save(tmp_path / "a.paths")
    assert report("a.ood", "a.paths")[0] == 0
    page = (tmp_path / "report.html").read_text()
    last = page[page.index('id="provenance"') :]
    for words in (
        "repdyn ood evaluate &#x27;a b.detector&#x27; --seed 7",
        "repdyn report a.ood a.paths",
        "torch",
    ):
        assert words in last
    assert page.index('id="summary"') < page.index('id="section-1"') < page.index('id="provenance"')


def test_a_signature_that_was_damaged_is_left_out(evaluation):
    from repdyn.provenance import made_by

    (evaluation / "command.json").write_text("{")
    assert made_by(evaluation) == {}
    (evaluation / "command.json").write_text("[1]")
    assert made_by(evaluation) == {}
