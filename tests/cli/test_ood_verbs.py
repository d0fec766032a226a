"""Detectors over streams: lines, watched folders and Parquet; what each bad input gets."""

from __future__ import annotations

import csv
import io
import json
import os
import time

import numpy as np
import pytest
from torch import nn

import repdyn
from repdyn.cli import streams
from repdyn.errors import RepdynError
from repdyn.ood import EnergyDetector, GuidedEnergyDetector, PathDetector, UnionDetector, load_detector
from repdyn.ood.drift import DriftReport
from repdyn.paths import RepresentationPaths, export_paths

META = {"model": "planted", "digest": "abc", "pooling": "mean"}


def planted(count: int, shift: float = 0.0, seed: int = 0, logits: bool = False) -> RepresentationPaths:
    generator = np.random.default_rng(seed)
    arrays = {}
    for depth in range(3):
        x = generator.normal(size=(count, 8))
        x[:, 0] += 30
        x[:, 1] += shift * (depth == 2)
        arrays[f"layer{depth}"] = x.astype(np.float32)
    return RepresentationPaths.from_arrays(
        arrays, logits=generator.normal(size=(count, 4)) if logits else None, meta=META
    )


class Reader:
    """Stands for a traced model: a text of n letters is a path n / 10 off the usual one."""

    def __init__(self, *given: object) -> None:
        self.sizes: list[int] = []
        self.traced = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def __call__(self, inputs, ids):
        self.sizes.append(len(inputs))
        paths = planted(len(inputs), seed=len(self.sizes))
        arrays = {point: np.asarray(paths[point]).copy() for point in paths.points}
        off = [len(x) / 10 if isinstance(x, str) else sum(x.size) / 10 for x in inputs]
        arrays["layer2"][:, 1] += off
        return RepresentationPaths.from_arrays(arrays, ids=ids, meta=META)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def detector(tmp_path):
    planted(400).save(tmp_path / "a.paths")
    PathDetector().fit(planted(400)).save(tmp_path / "a.detector")
    return tmp_path / "a.detector"


def test_fit_recommends_and_calibrates_at_the_rate_asked_for(command, tmp_path):
    planted(400).save(tmp_path / "a.paths")
    planted(400, seed=1).save(tmp_path / "held-out.paths")
    status, out, err = command(
        "ood", "fit", "a.paths", "--out", "a.detector", "--held-out", "held-out.paths",
        "--false-positive-rate", 0.1, "--json", "f.json",
    )  # fmt: skip
    assert status == 0, err
    assert "Recommendation:" in out
    figures = json.loads((tmp_path / "f.json").read_text())["ood"]
    assert figures["detector"] == figures["recommendation"]["best"]
    fitted = load_detector(tmp_path / "a.detector")
    assert fitted.calibration_ == "held-out"
    flagged = fitted.score_samples(planted(2000, seed=2)) < fitted.threshold_
    assert 0.05 < flagged.mean() < 0.17


def test_every_kind_that_can_be_recommended_can_be_named(command, tmp_path):
    paths = planted(400, logits=True)
    paths.save(tmp_path / "a.paths")
    for name in UnionDetector().fit(paths).controls_:
        status, _, err = command(
            "ood", "fit", "a.paths", "--out", "n.detector", "--force", "--detector", name
        )
        assert status == 0, err


def test_fit_by_name_and_an_unknown_name(command, detector):
    status, out, _ = command("ood", "fit", "a.paths", "--out", "k.detector", "--detector", "Mahalanobis")
    assert (status, "Mahalanobis detector over 1 points" in out) == (0, True)
    status, _, err = command("ood", "fit", "a.paths", "--out", "k.detector", "--detector", "mahalonobis")
    assert status == 2
    assert "nearest: 'Mahalanobis'" in err


@pytest.fixture
def autoencoder(tmp_path):
    from repdyn.koopman import KoopmanAutoencoder

    KoopmanAutoencoder(4, ()).fit(planted(400), epochs=2, batch_size=64).save_pretrained(tmp_path / "a.kae")
    planted(400, seed=2).save(tmp_path / "b.paths")
    planted(200, seed=3).save(tmp_path / "held-out.paths")
    planted(200, shift=8.0, seed=4).save(tmp_path / "off.paths")


@pytest.mark.parametrize("name", ["recommended", "union", "trajectory"])
def test_fit_with_an_autoencoder(command, autoencoder, tmp_path, name):
    fit = ("ood", "fit", "b.paths", "--autoencoder", "a.kae", "--detector", name, "--out", "x.detector")
    status, out, err = command(*fit, "--held-out", "held-out.paths")
    assert status == 0, err
    assert ("Recommendation:" in out) == (name == "recommended")
    assert "trained on these paths" not in out
    if name != "recommended":
        # It reads the autoencoder, and is scored with the one that it was fitted with only.
        status, _, err = command("ood", "score", "x.detector", "off.paths")
        assert (status, "--autoencoder" in err) == (2, True)
        own = ("--autoencoder", "a.kae")
        status, out, err = command("ood", "score", "x.detector", "off.paths", *own, "--json", "s.json")
        assert status == 0, err
        fresh = load_detector(tmp_path / "x.detector")
        model = repdyn.KoopmanAutoencoder.from_pretrained(tmp_path / "a.kae")
        field = model.field("layer2")
        expected = fresh.bind(field.encode, field.decode).score_samples(planted(200, shift=8.0, seed=4))
        written = json.loads((tmp_path / "s.json").read_text())["ood"]["scores"]
        np.testing.assert_allclose(written, expected, rtol=1e-5)
        status, out, err = command(
            "ood", "evaluate", "x.detector", "held-out.paths", "--against", "off=off.paths", "--training",
            "b.paths", *own,
        )  # fmt: skip
        assert status == 0, err


def test_an_autoencoder_that_is_not_read_or_does_not_fit_is_refused(command, autoencoder, detector):
    fit = ("ood", "fit", "b.paths", "--out", "y.detector")
    status, out, _ = command(*fit, "--detector", "union", "--autoencoder", "a.kae")
    assert (status, "trained on these paths" in out) == (0, True)
    for given, wanted in (
        ((*fit, "--force", "--detector", "trajectory"), "give one with --autoencoder"),
        ((*fit, "--force", "--detector", "Mahalanobis", "--autoencoder", "a.kae"), "reads no autoencoder"),
        (("ood", "score", "a.detector", "off.paths", "--autoencoder", "a.kae"), "reads none"),
        ((*fit, "--force", "--autoencoder", "nowhere.kae"), "nowhere.kae"),
    ):
        status, _, err = command(*given)
        assert (status, wanted in err) == (2, True), err


def test_too_few_paths_to_compare_detectors_is_said(command, tmp_path):
    planted(60).save(tmp_path / "few.paths")
    status, out, _ = command("ood", "fit", "few.paths", "--out", "few.detector")
    assert status == 0
    assert "at least 200 paths" in out
    assert isinstance(load_detector(tmp_path / "few.detector"), UnionDetector)


def test_store_and_parquet_score_alike_and_drift_is_told(command, detector, tmp_path):
    paths = planted(300, shift=4.0, seed=1, logits=True)
    paths.save(tmp_path / "new.paths")
    export_paths(paths, tmp_path / "new.parquet")
    tables = []
    for source in ("new.paths", "new.parquet"):
        status, out, err = command(
            "ood", "score", "a.detector", source, "--out", "s.csv", "--json", "s.json", "--window", 100,
            "--drift", "new.drift",
        )  # fmt: skip
        assert status == 0, err
        assert "DriftReport: drift found" in out
        tables.append((tmp_path / "s.csv").read_text())
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(io.StringIO(tables[0])))
    assert len(rows) == 300
    depths = [row["depth"] for row in rows if row["flagged"] == "1"]
    assert depths.count("layer2") > 0.8 * len(depths) > 80
    report = DriftReport.load(tmp_path / "new.drift")
    assert report.moved[0] == "layer2"
    figures = json.loads((tmp_path / "s.json").read_text())["ood"]
    assert figures["report"]["drift"] == "drift found"
    assert len(figures["scores"]) == 300


def test_lines_of_stdin_are_scored_and_bad_ones_told(command, detector, monkeypatch):
    monkeypatch.setattr(streams, "Tracer", Reader)
    stdin = "short\n\nümlaut\n".encode() + b"\xff\xfe\n" + b"x" * 300 + b"\nno newline"
    status, out, err = command("ood", "score", "a.detector", "-", "--model", "m", stdin=stdin)
    assert status == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["id"] for row in rows] == ["line 1", "line 3", "line 5", "line 6"]
    assert [row["flagged"] for row in rows][2] == "1"
    assert "line 2: is empty; skipped" in err
    assert "line 4: is not UTF-8 at byte 0; skipped" in err
    assert "1 of 4 flagged" in err
    assert "2 skipped" in err


def test_a_stream_reads_the_head_where_the_detector_asks_for_logits():
    model = repdyn.wrap(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), head=nn.Linear(3, 2))
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    paths = repdyn.trace(model, x)
    for kind in (EnergyDetector, GuidedEnergyDetector):
        fitted = kind().fit(paths)
        with streams.Tracer(model, fitted.points_, fitted.source_["pooling"], None) as tracer:
            parts = [
                tracer(list(x[:9]), list("abcdefghi")),
                tracer(list(x[9:]), [str(k) for k in range(191)]),
            ]
        scores = np.concatenate([fitted.score_samples(part) for part in parts])
        np.testing.assert_allclose(scores, fitted.score_samples(paths), rtol=1e-5)
    with pytest.raises(RepdynError, match="has no head"):
        streams.Tracer(repdyn.wrap(model.module), ("1", "logits"), "mean", None)


def test_nothing_but_bad_lines_is_an_error(command, detector, monkeypatch):
    monkeypatch.setattr(streams, "Tracer", Reader)
    status, _, err = command("ood", "score", "a.detector", "-", "--model", "m", stdin=b"\n \n")
    assert status == 2
    assert "has no sample that can be scored (2 skipped)" in err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("-", "--model"),
        ("watch:there", "--model"),
        ("x.parquet#text", "--model"),
        ("nowhere.parquet", "there is no such file"),
        ("text.parquet", "no column of vectors"),
        ("torn.parquet", "not a readable Parquet"),
        ("holes.parquet", "row 1 has no vector at 'layer0'"),
        ("other.parquet", "fitted on"),
    ],
)
def test_bad_sources_are_one_line(command, detector, tmp_path, source, says):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "text.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "text.parquet").read_bytes()[:40])
    vectors = pa.array([[1.0] * 8, None], pa.list_(pa.float32(), 8))
    pq.write_table(pa.table({f"layer{k}": vectors for k in range(3)}), tmp_path / "holes.parquet")
    other = RepresentationPaths.from_arrays(
        {point: np.asarray(planted(5)[point]) for point in planted(5).points}, meta={**META, "pooling": "cls"}
    )
    export_paths(other, tmp_path / "other.parquet")
    status, _, err = command("ood", "score", "a.detector", source)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert says in err


def test_lines_come_in_batches_and_pictures_by_their_names(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "torn.png").write_bytes(b"not a picture")
    reader = Reader()
    given = f"{tmp_path}/a.png\n{tmp_path}/torn.png\n{tmp_path}/gone.png\n".encode()
    parts = list(streams.lines(io.BytesIO(given), reader, 2))
    assert reader.sizes == [1]
    assert parts[1][0] is None
    complaints = [complaint for _, told in parts for complaint in told]
    assert [c.split(":")[0] for c in complaints] == ["line 2", "line 3"]
    assert all(c.endswith("skipped") and "\n" not in c for c in complaints)


def test_texts_of_a_parquet_column(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["one", None, "", "four"], "n": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    parts = list(streams.parquet_texts(tmp_path / "t.parquet", "text", Reader(), 3))
    assert [p.ids.tolist() for p, _ in parts if p is not None] == [["row 0"], ["row 3"]]
    assert [c.partition("row ")[2] for _, told in parts for c in told] == [
        "1: is missing; skipped",
        "2: is empty; skipped",
    ]
    with pytest.raises(RepdynError, match="nearest: 'text'"):
        list(streams.parquet_texts(tmp_path / "t.parquet", "txt", Reader(), 3))
    numbers = list(streams.parquet_texts(tmp_path / "t.parquet", "n", Reader(), 4))
    assert numbers[0][0] is None
    assert "is int, expected a text" in numbers[0][1][0]


def test_a_watched_folder_is_read_once_and_ends_when_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "POLL", 0.0)
    old = 1e9
    for name, content in (("a.txt", b"hello"), ("b.txt", b"\xff"), ("c.csv", b"ignored")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (old, old))
    (tmp_path / "growing.txt").write_text("half a sen")  # too fresh to be whole
    ticks = iter(range(1000))
    reader, arrived = Reader(), []
    for paths, complaints in streams.watched(tmp_path, reader, 8, 5.0, lambda: float(next(ticks))):
        arrived += [] if paths is None else paths.ids.tolist()
        if "a.txt" in arrived and "later.txt" not in arrived:
            (tmp_path / "later.txt").write_text("more")
            os.utime(tmp_path / "later.txt", (old, old))
        assert all("b.txt: is not UTF-8" in c for c in complaints)
    assert arrived == ["a.txt", "later.txt"]
    with pytest.raises(RepdynError, match="no such folder"):
        next(streams.watched(tmp_path / "gone", reader, 8, None))


class Breaking(Reader):
    """A model one of whose layers explodes on texts that say so."""

    def __call__(self, inputs, ids):
        paths = super().__call__(inputs, ids)
        arrays = {point: np.asarray(paths[point]).copy() for point in paths.points}
        for row, text in enumerate(inputs):
            if text in ("nan", "inf"):
                arrays["layer1"][row, 3] = float(text)
        return RepresentationPaths.from_arrays(arrays, ids=ids, meta=META)


def test_samples_that_break_a_layer_are_flagged_and_the_stream_goes_on(
    command, detector, monkeypatch, tmp_path
):
    monkeypatch.setattr(streams, "Tracer", Breaking)
    stdin = b"one\nnan\nthree\ninf\n\nsix\n"
    status, out, err = command(
        "ood", "score", "a.detector", "-", "--model", "m", "--batch-size", 3, "--json", "s.json", stdin=stdin
    )
    assert status == 0, err
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(out))}
    assert set(rows) == {"line 1", "line 2", "line 3", "line 4", "line 6"}
    assert [rows[f"line {k}"]["flagged"] for k in (2, 4)] == ["1", "1"]
    assert float(rows["line 2"]["p_value"]) == pytest.approx(1 / 401, rel=1e-3)
    assert err.count("not finite") == 2
    assert "1 skipped" in err  # the empty line
    figures = json.loads((tmp_path / "s.json").read_text())["ood"]
    assert len(figures["scores"]) == 5
    assert min(figures["scores"]) == -1e30


def test_a_model_that_breaks_on_every_sample_is_reported_as_drift(command, detector, monkeypatch):
    monkeypatch.setattr(streams, "Tracer", Breaking)
    status, out, err = command("ood", "score", "a.detector", "-", "--model", "m", stdin=b"nan\n" * 50)
    assert status in (0, 3), err
    assert "50 of 50 flagged" in err
    assert "DriftReport: drift found" in err
    assert [row["flagged"] for row in csv.DictReader(io.StringIO(out))] == ["1"] * 50


def test_a_watched_folder_flags_files_that_break_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "POLL", 0.0)
    for name, text in (("a.txt", "hello"), ("b.txt", "nan"), ("c.txt", "more")):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1e9, 1e9))
    ticks = iter(range(1000))
    parts = [part for part, _ in streams.watched(tmp_path, Breaking(), 8, 2.0, lambda: float(next(ticks)))]
    broken = [part.ids for part in parts if isinstance(part, streams.Broken)]
    assert broken == [["b.txt"]]
    assert [p.ids.tolist() for p in parts if isinstance(p, RepresentationPaths)] == [["a.txt", "c.txt"]]


def test_rows_of_parquet_that_are_not_finite_are_flagged(command, detector, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    export_paths(planted(60, seed=1), tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    for point, row, value in (("layer0", 5, np.nan), ("layer2", 41, np.inf)):
        x = np.stack(table.column(point).to_pylist()).astype(np.float32)
        x[row, 0] = value
        array = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
        table = table.set_column(table.schema.get_field_index(point), point, array)
    pq.write_table(table, tmp_path / "broken.parquet")
    status, _, err = command("ood", "score", "a.detector", "broken.parquet", "--out", "s.csv")
    assert status == 0, err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert len(rows) == 60
    assert {row["id"] for row in rows if float(row["score"]) == -1e30} == {"5", "41"}
    assert all(row["flagged"] == "1" for row in rows if row["id"] in ("5", "41"))


def test_a_watched_folder_survives_clocks_that_go_back_and_files_that_vanish(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "POLL", 0.0)
    (tmp_path / "real.txt").write_text("a text")
    (tmp_path / "near.txt").symlink_to(tmp_path / "real.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)  # a circle of folders
    for name in ("vanishes.txt", "later.txt"):
        (tmp_path / name).write_text("another text")
    os.mkfifo(tmp_path / "pipe.txt")
    now, ticks = [time.time() + 60.0], iter(range(100_000))
    monkeypatch.setattr(streams.time, "time", lambda: now[0])
    real = streams._file

    def read(file):
        if file.name == "vanishes.txt":
            file.unlink()  # between the scan and the reading
        return real(file)

    monkeypatch.setattr(streams, "_file", read)
    arrived, told = [], []
    for paths, complaints in streams.watched(tmp_path, Reader(), 2, 40.0, lambda: float(next(ticks))):
        arrived += [] if paths is None else paths.ids.tolist()
        told += complaints
        now[0] = 1e9  # the wall clock goes back by years: every file now comes from the future
        if len(arrived) == 3:
            (tmp_path / "new.txt").write_text("written after the clock went back")
    assert arrived == ["later.txt", "near.txt", "real.txt", "new.txt"]
    assert len(told) == 3, told
    for name in ("loop.txt", "pipe.txt", "vanishes.txt"):
        assert sum(name in line for line in told) == 1, told


@pytest.mark.parametrize("out", ["s.csv", "s.json"])
def test_a_stream_that_fails_leaves_the_earlier_files_whole(command, detector, tmp_path, monkeypatch, out):
    class Dying(Reader):
        def __call__(self, inputs, ids):
            if "line 9" in ids:
                raise MemoryError("the machine is out of memory")
            return super().__call__(inputs, ids)

    monkeypatch.setattr(streams, "Tracer", Dying)
    (tmp_path / out).write_text("the earlier file")
    status, _, _ = command(
        "ood", "score", "a.detector", "-", "--model", "m", "--batch-size", 2,
        "--out", "s.csv", "--json", "s.json", stdin=b"a text\n" * 20,
    )  # fmt: skip
    assert status != 0
    assert (tmp_path / out).read_text() == "the earlier file"
    assert not [file.name for file in tmp_path.iterdir() if ".repdyn-" in file.name]
    assert len(list(tmp_path.glob("s.*"))) == 1
