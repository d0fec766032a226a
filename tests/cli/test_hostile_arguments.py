"""Every verb with a hostile value for each of its arguments: status 2, one line, no traceback, no folder."""

from __future__ import annotations

import os

import numpy as np
import pytest

from repdyn.koopman import KoopmanAutoencoder
from repdyn.ood import PathDetector
from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation

VERBS = {
    "paths info": ["a.paths"],
    "paths verify": ["a.paths"],
    "paths merge": ["a.paths", "--out", "new"],
    "paths export": ["a.paths", "new.parquet"],
    "koopman fit": ["a.paths", "--out", "new"],
    "koopman spectrum": ["a.kae", "a.paths", "--out", "new"],
    "koopman forget": ["a.kae", "a.paths", "--out", "new", "--label", "1"],
    "field": ["a.kae", "a.paths"],
    "ood fit": ["a.paths", "--out", "new", "--detector", "path"],
    "ood score": ["a.det", "a.paths"],
    "ood evaluate": ["a.det", "a.paths", "--against", "far=a.paths", "--training", "a.paths"],
    "disentangle fit": ["a.paths", "--out", "new"],
    "topology": ["a.paths"],
    "translate": ["a.paths", "a.paths", "--out", "new", "--paired"],
    "report": ["a.paths", "--out", "new.html"],
}
NAME = os.fsdecode(b"n\xff\xfe")  # no UTF-8
HOSTILE = (
    "",
    "nowhere/x",
    "folder",
    "binary",
    "empty",
    NAME,
    "loop",
    "dangling",
    "a.tr",
    "/dev/null",
    "a" * 5000,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("hostile")
    y = np.arange(60) % 3
    x = 3 * np.eye(4)[y] + 0.3 * np.random.default_rng(0).normal(size=(60, 4))
    paths = RepresentationPaths.from_arrays({"a": x, "b": 0.5 * x}, labels=y)
    paths.save(where / "a.paths")
    KoopmanAutoencoder(4, ()).fit(paths, epochs=1, batch_size=32).save_pretrained(where / "a.kae")
    PathDetector().fit(paths).save(where / "a.det")
    LinearTranslation(np.eye(4), np.zeros(4), np.zeros(4), verdict="found").save(where / "a.tr")
    (where / "folder").mkdir()
    (where / "folder" / "f").write_text("x")
    (where / "binary").write_bytes(bytes(range(256)) * 40)
    (where / "empty").write_text("")
    (where / NAME).write_text("x")
    (where / "loop").symlink_to(where / "loop")
    (where / "dangling").symlink_to(where / "nothing")
    return where


def _placed(verb):
    """Where the arguments without a flag are."""
    base = VERBS[verb]
    valued = ("--out", "--label", "--detector", "--against")
    own = [k for k, word in enumerate(base) if word[:2] != "--" and word != "new.parquet"]
    return [k for k in own if k == 0 or base[k - 1] not in valued]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_store_or_result_is_told_in_one_line(command, folder, monkeypatch, verb):
    monkeypatch.chdir(folder)
    before = sorted(os.listdir("."))
    for place in _placed(verb):
        for given in HOSTILE:
            if verb == "report" and given == "a.tr":
                continue  # which it draws
            words = list(VERBS[verb])
            words[place] = given
            status, _, err = command(*verb.split(), *words)
            assert status == 2, (words, err)
            assert "Traceback" not in err
            assert len(err.strip().splitlines()) == 1 or err.startswith("Usage"), err
    assert sorted(os.listdir(".")) == before


NUMBERS = [
    ("koopman fit", "--epochs"),
    ("koopman fit", "--latent-dim"),
    ("koopman fit", "--test"),
    ("koopman spectrum", "--resamples"),
    ("koopman spectrum", "--threshold"),
    ("koopman forget", "--quantile"),
    ("ood fit", "--false-positive-rate"),
    ("field", "--starts"),
    ("disentangle fit", "--epochs"),
    ("topology", "--seed"),
    ("translate", "--seed"),
]


@pytest.mark.parametrize(("verb", "option"), NUMBERS)
def test_numbers_that_are_none_are_refused(command, folder, monkeypatch, verb, option):
    monkeypatch.chdir(folder)
    for given in ("", "x", "nan?", "1e", "-"):
        status, _, err = command(*verb.split(), *VERBS[verb], option, given)
        assert status == 2, (option, given, err)
        assert "Traceback" not in err
        assert option.lstrip("-").split("-")[0] in err


@pytest.mark.parametrize("place", ["folder", "empty/x", "a.paths"])
def test_figures_that_cannot_be_written_are_refused_before_work(command, folder, monkeypatch, place):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "repdyn.koopman.KoopmanAutoencoder.fit", lambda *_, **__: pytest.fail("it worked first")
    )
    status, _, err = command("koopman", "fit", "a.paths", "--out", "new", "--json", place)
    assert status == 2
    assert "--json" in err
    assert not (folder / "new").exists()
