"""The stores that the pages speak of, made once by the commands of the start page on a smaller corpus."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from repdyn import datasets
from repdyn.cli import demo_pipeline, main
from repdyn.cli.data import Pictures
from repdyn.datasets import Corpus, documentation_corpus, shuffled_characters
from repdyn.translation import translate


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
    """DATA ``docstrings`` means the small corpus, and ``repdyn demo`` reads some hundreds of it."""
    for module in (datasets, demo_pipeline):
        monkeypatch.setattr(module, "documentation_corpus", lambda *_, **__: small_corpus)
    monkeypatch.setattr(demo_pipeline, "SIZES", demo_pipeline.Sizes(300, 100, 50, 100, 2, 20, 50))
    monkeypatch.setattr(demo_pipeline, "cores", lambda: 1)  # a second process would not see what is set here
    few = tuple(12 if value == 120 else value for value in translate.__defaults__ or ())
    monkeypatch.setattr(translate, "__defaults__", few)  # candidates: nothing is found in some hundreds


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures, a tiny timm network, and a detector and a translation of what it makes of them."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    import repdyn

    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("photos", "incoming"):
        (folder / name).mkdir()
        for number in range(40):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet").state_dict(), folder / "tiny.safetensors")
    model = repdyn.load(f"timm:test_resnet@{folder / 'tiny.safetensors'}")
    paths = repdyn.trace(model, Pictures(sorted((folder / "photos").iterdir())))
    repdyn.PathDetector().fit(paths).save(folder / "pictures.detector")
    pairs = np.stack([np.arange(len(paths))] * 2, axis=1)
    repdyn.translate(paths, paths, pairs=pairs).save(folder / "pictures.translation")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``s3://bucket`` on a server of this machine."""
    server = pytest.importorskip("moto.server", reason="moto comes with the extra test")
    s3fs = pytest.importorskip("s3fs", reason="s3fs comes with the extra test")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    # Its buckets outlive it in this process, and connections to an earlier page's server do not.
    urlopen(Request(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()  # who comes after has another server


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
    queries = pyarrow.table({"text": [" ".join(text.split()) for text in texts[900:920]]})
    pyarrow.parquet.write_table(queries, folder / "queries.parquet")
    pyarrow.csv.write_csv(queries, folder / "queries.csv")
    (folder / "queries.txt").write_text("\n".join(queries["text"].to_pylist()) + "\n")
    return folder


@pytest.fixture
def site(made: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Enter a folder of one's own that holds those stores, but for those that the page makes itself."""

    def enter(without: set[str]) -> Path:
        for kept in (*made.iterdir(), *pictures.iterdir()):
            if kept.is_file():
                shutil.copy(kept, tmp_path)
            elif kept.name not in without:
                shutil.copytree(kept, tmp_path / kept.name)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return enter
