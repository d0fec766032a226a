"""``repdyn koopman spectrum`` and ``forget``, on paths whose classes one linear system moves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repdyn.koopman import EditedKoopman, KoopmanAutoencoder
from repdyn.koopman.spectrum import KoopmanSpectrum
from repdyn.paths import RepresentationPaths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stored paths and an autoencoder of them."""
    where = tmp_path_factory.mktemp("koopman")
    draw = np.random.default_rng(0)
    y = draw.integers(4, size=400)
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((400, 4))
    step = np.linalg.qr(draw.standard_normal((4, 4)))[0]
    paths = RepresentationPaths.from_arrays({"a": x, "b": x @ step}, labels=y)
    paths.save(where / "a.paths")
    KoopmanAutoencoder(8, (8,)).fit(paths, epochs=40, batch_size=64).save_pretrained(where / "a.kae")
    return where


def test_spectrum_is_printed_kept_and_reported(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, err = command(
        "koopman", "spectrum", "a.kae", "a.paths", "--out", "a.spectrum", "--resamples", 5, "--json", "s.json"
    )
    assert status == 0, err
    assert "eigenvalues certified" in out
    assert "mode 0" in out
    told = json.loads((folder / "s.json").read_text())
    assert len(told["spectrum"]["eigenvalues"]) == 8
    assert len(told["excitation"]["top"][0]) == 5
    assert KoopmanSpectrum.load("a.spectrum").pairs == 400
    assert command("report", "a.spectrum", "--out", "s.html")[0] == 0
    assert "Which inputs excite which mode" in (folder / "s.html").read_text()


def test_forget_edits_reports_and_is_attacked(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, err = command(
        "koopman", "forget", "a.kae", "a.paths", "--label", 1, "--out", "a.edit", "--attack",
        "--json", "f.json",
    )  # fmt: skip
    assert status == 0, err
    # Some ten judged samples: the interval of their share is wide, and says so.
    assert "forgotten to chance or below: " in out
    told = json.loads((folder / "f.json").read_text())
    assert told["forget"]["forgotten"]["after"]["value"] < 0.1
    assert set(told["attack"]["figures"]) == {"edited", "not edited"}
    assert EditedKoopman.load("a.edit").report.verdict in ("found", "inconclusive")
    assert command("report", "a.edit", "--out", "f.html")[0] == 0
    assert command("koopman", "forget", "a.kae", "a.paths", "--label", 1, "--label", 2, "--redirect", 0,
                   "--out", "b.edit")[0] == 0  # fmt: skip


def test_forgetting_is_found_and_strict_where_there_are_samples_enough_to_judge(
    command, tmp_path, monkeypatch
):
    # 1600 samples of 4 classes: a tenth of chance is well below the interval of some hundred judged samples.
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    y = draw.integers(4, size=1600)
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((1600, 4))
    step = np.linalg.qr(draw.standard_normal((4, 4)))[0]
    paths = RepresentationPaths.from_arrays({"a": x, "b": x @ step}, labels=y)
    paths.save("a.paths")
    KoopmanAutoencoder(8, (8,)).fit(paths, epochs=15, batch_size=64).save_pretrained("a.kae")
    status, out, err = command("koopman", "forget", "a.kae", "a.paths", "--label", 1, "--out", "a.edit",
                               "--strict")  # fmt: skip
    assert status == 0, err
    assert "forgotten to chance or below: found" in out
    edited = EditedKoopman.load("a.edit")
    assert edited.report.verdict == "found"
    # By hand: predictions of the edited path by nearest class mean, the class itself and another.
    means = np.stack([(x @ step)[y == k].mean(axis=0) for k in range(4)])
    predicted = edited.propagate(x, "b")
    named = np.linalg.norm(predicted[:, None] - means, axis=2).argmin(axis=1)
    assert (named[y == 1] == 1).mean() < 0.25
    assert (named[y == 2] == 2).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--label", 9), "no sample with label"),
        (("--label", 1, "--redirect", "anywhere"), "redirect must be"),
        (("--label", 0, "--label", 1, "--label", 2, "--label", 3), "every sample is targeted"),
    ],
)
def test_bad_input_is_one_line(command, folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    status, _, err = command("koopman", "forget", "a.kae", "a.paths", "--out", "x.edit", *arguments)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
