"""What a verb writes: never over an earlier result unasked, whole or not at all, and fit to be passed on."""

from __future__ import annotations

import csv
import json
import os
import threading
import time

import numpy as np
import pytest

import repdyn
from repdyn import provenance
from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.ood import KNNDetector
from repdyn.paths import RepresentationPaths, import_paths


def _paths(count: int = 60, seed: int = 0, labels: object = None, ids: object = None) -> RepresentationPaths:
    x = np.random.default_rng(seed).normal(size=(3, count, 4)).astype(np.float32) + 1
    return RepresentationPaths.from_arrays({"a": x[0], "b": x[1], "c": x[2]}, labels=labels, ids=ids)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _paths().save("a.paths")
    _paths(labels=np.arange(60) % 3).save("l.paths")
    return tmp_path


def test_a_detector_is_not_replaced_unless_forced(command, here):
    fit = ("ood", "fit", "a.paths", "--out", "x.detector", "--detector", "nearest neighbors")
    assert command(*fit)[0] == 0
    before = (here / "x.detector" / "model.safetensors").read_bytes()
    status, _, err = command(*fit[:-1], "Mahalanobis")
    assert (status, "--force" in err) == (2, True)
    assert (here / "x.detector" / "model.safetensors").read_bytes() == before
    assert command(*fit[:-1], "Mahalanobis", "--force")[0] == 0
    assert (here / "x.detector" / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    "arguments",
    [
        ("koopman", "fit", "a.paths", "--out", "taken"),
        ("topology", "a.paths", "--out", "taken"),
        ("field", "a.kae", "a.paths", "--out", "taken"),
        ("translate", "a.paths", "a.paths", "--out", "taken"),
        ("translate", "a.npy", "--apply", "ab.translation", "--out", "taken"),
        ("disentangle", "fit", "l.paths", "--out", "taken"),
    ],
)
def test_every_verb_that_fits_refuses_before_it_works(command, here, arguments):
    (here / "taken").mkdir()
    (here / "taken" / "thesis.txt").write_text("years")
    status, _, err = command(*arguments)
    assert (status, "exists" in err, "--force" in err) == (2, True, True), err
    assert (here / "taken" / "thesis.txt").read_text() == "years"
    command(*arguments, "--force")  # not even then: it is no result of ours
    assert (here / "taken" / "thesis.txt").read_text() == "years"


def test_a_finished_fit_is_kept_where_it_cannot_be_judged(command, here, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise RepdynError("cannot be judged")

    monkeypatch.setattr(KoopmanAutoencoder, "fidelity", refuse)
    status, _, err = command("koopman", "fit", "a.paths", "--out", "a.kae", "--epochs", "1")
    assert (status, "saved: a.kae" in err) == (2, True)
    assert KoopmanAutoencoder.from_pretrained("a.kae").points_ == ("a", "b", "c")


def test_labels_of_one_class_leave_out_the_probe_and_no_more(command, here):
    _paths(labels=["same"] * 60).save("one.paths")
    status, out, err = command("koopman", "fit", "one.paths", "--out", "a.kae", "--epochs", "1")
    assert status == 0, err
    assert "probe accuracy" not in out
    assert "FVU" in out
    assert (here / "a.kae" / "fidelity" / "config.json").is_file()


def test_scores_replace_the_earlier_file_only_when_all_are_there(command, here, monkeypatch):
    command("ood", "fit", "a.paths", "--out", "x.detector", "--detector", "nearest neighbors")
    (here / "s.csv").write_text("earlier")
    score = KNNDetector.score_samples

    def breaks(self: KNNDetector, paths: RepresentationPaths) -> object:
        assert (here / "s.csv").read_text() == "earlier"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(KNNDetector, "score_samples", breaks)
    assert command("ood", "score", "x.detector", "a.paths", "--out", "s.csv")[0] == 2
    assert (here / "s.csv").read_text() == "earlier"
    monkeypatch.setattr(KNNDetector, "score_samples", score)
    assert command("ood", "score", "x.detector", "a.paths", "--out", "s.csv")[0] == 0
    assert len((here / "s.csv").read_text().splitlines()) == 61
    assert not [name for name in os.listdir(here) if name.startswith(".")]


def test_no_id_in_a_csv_is_a_formula(command, here):
    ids = ["=HYPERLINK(0)", "+cmd", "-cmd", "@sum", "\tx", "-5", "plain", "a,b"]
    command("ood", "fit", "a.paths", "--out", "x.detector", "--detector", "nearest neighbors")
    _paths(8, 1, ids=ids).save("odd.paths")
    command("ood", "score", "x.detector", "odd.paths", "--out", "s.csv")
    with (here / "s.csv").open(newline="") as file:
        found = [row[0] for row in csv.reader(file)][1:]
    assert found == ["'=HYPERLINK(0)", "'+cmd", "'-cmd", "'@sum", "'\tx", "-5", "plain", "a,b"]


def test_drift_is_an_alarm_with_a_status_and_its_own_color(command, here):
    command("ood", "fit", "a.paths", "--out", "x.detector", "--detector", "nearest neighbors")
    moved = {point: -np.asarray(_paths(80, 1)[point]) for point in "abc"}
    RepresentationPaths.from_arrays(moved).save("moved.paths")
    score = ("ood", "score", "x.detector", "moved.paths", "--window", 40)
    status, out, _ = command(*score, "--drift", "d")
    assert (status, "DriftReport: drift found" in out) == (0, True)
    status, _, err = command(*score, "--strict")
    assert (status, err) == (1, "repdyn: --strict: drift found\n")
    assert command("ood", "score", "x.detector", "a.paths", "--window", 40, "--strict")[0] == 0
    assert command("report", "d")[0] == 0
    page = (here / "report.html").read_text()
    assert '<span class="chip alarm">' in page
    assert '<span class="chip found">' not in page


def test_a_command_is_signed_without_the_folders_of_this_machine(command, here):
    command("koopman", "fit", here / "a.paths", "--out", f"{here}/a.kae", "--epochs", 1)
    made = json.loads((here / "a.kae" / "command.json").read_text())
    assert made["command"] == "repdyn koopman fit a.paths --out a.kae --epochs 1"
    command("report", here / "a.kae", "--out", here / "r.html")
    assert str(here) not in (here / "r.html").read_text()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("images:/home/jo/pictures", "images:pictures"),
        ("csv:/home/jo/q.csv#text,label", "csv:q.csv#text,label"),
        ("code=/home/jo/code.paths/", "code=code.paths"),
        ("--out=/home/jo/x", "--out=x"),
        ("s3://bucket/a.paths", "s3://bucket/a.paths"),
        ("https://host/a/b", "https://host/a/b"),
        ("file:///home/jo/x.paths", "file://x.paths"),
        ("timm:resnet18@/home/jo/w.safetensors", "timm:resnet18@w.safetensors"),
        ("hf:org/name", "hf:org/name"),
        ("a/b/c", "a/b/c"),
        ("C:\\Users\\jo\\x.paths", "x.paths"),
        ("saved in /home/jo/x, twice", "saved in x, twice"),
    ],
)
def test_what_is_passed_on_holds_no_folder_of_this_machine(given, shown):
    assert provenance.without_folders(given) == shown


def test_a_seed_or_device_that_is_none_is_told_in_one_line(command, here):
    for option in (("--seed", -1), ("--device", "nonsense"), ("--device", "cuda:99")):
        status, _, err = command("koopman", "fit", "a.paths", "--out", "k", *option)
        assert (status, option[0] in err, "Traceback" in err) == (2, True, False), err


def _tracer(sizes: list[int]) -> object:
    class Tracer:
        traced = 0

        def __call__(self, inputs: list[object], ids: list[str]) -> RepresentationPaths:
            if any(isinstance(x, str) and "too long" in x for x in inputs):
                raise RepdynError("the text has more tokens than the model takes")
            self.traced += len(inputs)
            sizes.append(len(inputs))
            return RepresentationPaths.from_arrays({"c": np.ones((len(inputs), 4))}, ids=ids)

    return Tracer()


def test_a_watched_folder_survives_what_is_no_file(tmp_path):
    from repdyn.cli.streams import watched

    old = time.time() - 60
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt", "gone.txt", "long.txt", "ahead.txt"):
        (tmp_path / name).write_text("too long" if name == "long.txt" else "a text")
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / "ahead.txt", (old + 10**6, old + 10**6))  # a clock that is days ahead
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    clock = iter(np.arange(0, 1000, 0.7))
    ids, complaints = [], []

    def run() -> None:
        for paths, told in watched(tmp_path, _tracer([]), 2, idle=3.0, clock=lambda: float(next(clock))):
            ids.extend([] if paths is None else paths.ids.tolist())
            complaints.extend(told)
            (tmp_path / "gone.txt").unlink(missing_ok=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert sorted(ids) == ["a.txt", "ahead.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert len(complaints) == 4, complaints  # gone, too long, a link to nothing, a pipe
    for what in ("link.txt: is a broken link", "pipe.png: is not a regular file", "more tokens", "gone.txt"):
        assert any(what in line for line in complaints), what


def test_a_model_that_takes_nothing_says_why_at_once():
    from repdyn.cli.streams import lines

    with pytest.raises(RepdynError, match="more tokens"):
        list(lines(__import__("io").BytesIO(b"too long 1\ntoo long 2\n"), _tracer([]), 8))


def test_data_of_any_kind_is_scored_as_other_verbs_read_it(command, here):
    texts = [f"text number {k} of {k % 7} words" for k in range(48)]
    with (here / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    model = repdyn.load("packaged:all-MiniLM-L6-v2")
    repdyn.trace(model, texts).save("m.paths")
    command("ood", "fit", "m.paths", "--out", "x.detector", "--detector", "nearest neighbors")
    given = ("--model", "packaged:all-MiniLM-L6-v2", "--window", 20)
    status, _, err = command("ood", "score", "x.detector", "csv:q.csv#text", *given, "--out", "s.csv")
    assert status == 0, err
    with (here / "s.csv").open(newline="") as file:
        scored = np.array([float(row["score"]) for row in csv.DictReader(file)])
    expected = KNNDetector.load("x.detector").score_samples(repdyn.open_paths("m.paths"))
    np.testing.assert_allclose(scored, expected, atol=1e-3)
    status, _, err = command("ood", "score", "x.detector", "csv:q.csv#text")
    assert (status, "--model" in err) == (2, True)


def test_a_translation_without_a_verdict_does_not_take_the_report_down(command, here):
    for name, seed in (("x", 1), ("y", 2)):
        x = np.random.default_rng(seed).normal(size=(50, 6))
        RepresentationPaths.from_arrays({"last": x}).save(f"{name}.paths")
    assert command("translate", "x.paths", "y.paths", "--out", "xy")[0] == 0
    status, _, err = command("report", "xy", "a.paths", "--out", "r.html")
    assert status == 0, err
    page = (here / "r.html").read_text()
    assert "too few to be matched" in page
    assert "the translation was not derived" not in page


def test_export_does_not_overwrite_without_force(command, here):
    for name in ("a.parquet", "a.safetensors"):
        (here / name).write_bytes(b"mine")
        status, _, err = command("paths", "export", "a.paths", name)
        assert status == 2
        assert f"{name}: exists" in err
        assert (here / name).read_bytes() == b"mine"
        assert command("paths", "export", "a.paths", name, "--force")[0] == 0
        assert len(import_paths(str(here / name))) == 60
