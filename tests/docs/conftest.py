"""The stores that the pages speak of, made once by the commands of the start page on a smaller corpus."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repdyn.cli import corpus, main
from repdyn.cli.corpus import Corpus, documentation_corpus, shuffled_characters


def call(*words: str) -> int:
    """Run the program here: its exit status."""
    given = sys.argv
    sys.argv = ["repdyn", *words]
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        sys.argv = given
    raise AssertionError("the program always exits")


@pytest.fixture(scope="session")
def small_corpus() -> Corpus:
    """The standard library's documentation: three seconds to read, where an environment's takes twenty."""
    return documentation_corpus(Path(sysconfig.get_paths()["stdlib"]))


@pytest.fixture
def docstrings(monkeypatch: pytest.MonkeyPatch, small_corpus: Corpus) -> None:
    """DATA ``docstrings`` means the small corpus."""
    monkeypatch.setattr(corpus, "documentation_corpus", lambda *_, **__: small_corpus)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    """A folder with every store that a guide opens, and the fitted results that verbs read."""
    import repdyn

    folder = tmp_path_factory.mktemp("site")
    order = np.random.default_rng(0).permutation(len(small_corpus))
    texts, labels = np.array(small_corpus.texts, dtype=object)[order], small_corpus.labels[order]
    minilm = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")
    for name, part in {"a": slice(0, 400), "b": slice(400, 800), "held-out": slice(800, 900)}.items():
        repdyn.trace(minilm, list(texts[part]), labels=labels[part], out=folder / f"{name}.paths")
    shuffled = shuffled_characters(list(texts[800:900]), seed=0)
    repdyn.trace(minilm, list(shuffled), out=folder / "shuffled.paths")
    shutil.copytree(folder / "shuffled.paths", folder / "new.paths")
    paths = repdyn.open_paths(folder / "a.paths")
    kae = repdyn.KoopmanAutoencoder(latent_dim=32).fit(paths, epochs=3, seed=0)
    kae.save_pretrained(folder / "a.kae")
    kae.fidelity(paths, seed=0).save(folder / "a.kae" / "fidelity")
    repdyn.PathDetector().fit(paths).save(folder / "a.detector")
    repdyn.LevelSetTree.fit(paths[paths.points[-1]], seed=0).save(folder / "a.topology" / "tree")
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Enter a folder of one's own that holds those stores, but for those that the page makes itself."""

    def enter(without: set[str]) -> Path:
        for store in made.iterdir():
            if store.name not in without:
                shutil.copytree(store, tmp_path / store.name)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return enter
