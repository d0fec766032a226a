"""The same trace on a Ray cluster of two workers: the same bits, whatever happens to the workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import repdyn_adapters.ray
from repdyn.errors import RepdynError
from repdyn.paths import open_paths, verify_paths
from repdyn.tracing import engines, trace, wrap
from repdyn_adapters.ray import RayEngine

ray = pytest.importorskip("ray", reason="Ray comes with the extra ray")

# Ray opens sockets and files that it leaves to the interpreter to close.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

SIZE = 300
LABELS = np.arange(SIZE) % 5


class Reader(nn.Module):
    """Means of letters' embeddings, then layers: what padding and batches look like to a text model."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.letters(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def letters(texts: Any) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[min(ord(c), 127) for c in text.ljust(longest)] for text in texts])


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(Reader(), prepare=letters)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = np.random.default_rng(0)
    return [f"{'abc' * int(generator.integers(1, 12))} {number}" for number in range(SIZE)]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bucket on a server that speaks S3; the workers inherit where it is."""
    server = pytest.importorskip("moto.server", reason="moto comes with the extra test")
    s3fs = pytest.importorskip("s3fs", reason="s3fs comes with the extra test")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    known = {
        "AWS_ENDPOINT_URL": f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in known}
    os.environ.update(known)
    # fsspec keeps its connections: one to an earlier test's server, stopped by now, is not ours.
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("paths")
    yield "s3://paths"
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Any:
    """Two workers' worth of cluster on this machine, with one thread of PyTorch here as in the workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
            logging_level=logging.ERROR,
        )
    # The workers need not find this file: what is defined in it is sent to them as it is.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture
def here(model: Any, texts: list[str], cluster: None, tmp_path: Path) -> Path:
    trace(model, texts, labels=LABELS, batch_size=8, out=tmp_path / "here.paths")
    return tmp_path / "here.paths"


def bits(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "zarr.json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_the_same_bits_as_here(model: Any, texts: list[str], here: Path, tmp_path: Path) -> None:
    out = tmp_path / "there.paths"
    paths = trace(model, texts, labels=LABELS, batch_size=8, out=out, engine=RayEngine())
    assert len(open_paths(here).points) == 3
    assert bits(out) == bits(here)  # chunks, labels, ids and checksums, file by file
    assert dict(paths.meta) == dict(open_paths(here).meta)


def test_an_unfinished_store_is_completed(model: Any, texts: list[str], here: Path, tmp_path: Path) -> None:
    before = bits(here)
    (here / "ids/c/1").unlink()
    (here / "ids/c/3").unlink()
    kept = (here / "paths/c/2/0").stat().st_mtime_ns
    trace(model, texts, labels=LABELS, batch_size=8, out=here, engine=RayEngine(workers=1))
    assert bits(here) == before
    assert (here / "paths/c/2/0").stat().st_mtime_ns == kept


class Dying:
    """Texts of which one takes the first worker that reads it along."""

    def __init__(self, flag: Path, tries: int) -> None:
        self.flag, self.tries, self.driver = flag, tries, os.getpid()

    def __call__(self, texts: Any) -> torch.Tensor:
        if any(text.endswith(" 150") for text in texts) and os.getpid() != self.driver:
            with self.flag.open("a") as file:
                file.write("x")
            if self.flag.stat().st_size <= self.tries:
                os.kill(os.getpid(), signal.SIGKILL)
        return letters(texts)


def test_a_killed_workers_chunk_is_done_again(
    model: Any, texts: list[str], here: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "killed"
    dying = wrap(model.module, prepare=Dying(flag, 1))
    trace(dying, texts, labels=LABELS, batch_size=8, out=tmp_path / "there.paths", engine=RayEngine())
    assert flag.stat().st_size == 2  # the worker that died of it, and the one that did not
    assert bits(tmp_path / "there.paths") == bits(here)


def test_a_chunk_that_kills_every_worker_is_told(
    model: Any, texts: list[str], cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = wrap(model.module, prepare=Dying(tmp_path / "killed", 99))
    monkeypatch.setattr(repdyn_adapters.ray, "TRIES", 1)
    with pytest.raises(RepdynError, match="samples 128 to 191: 1 workers died"):
        trace(dying, texts, batch_size=8, out=tmp_path / "there.paths", engine=RayEngine(workers=1))


def test_object_storage_holds_the_same(
    model: Any, texts: list[str], here: Path, bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/runs/a.paths"
    paths = trace(model, texts, labels=LABELS, batch_size=8, out=url, engine=RayEngine())
    assert str(paths.path) == url
    local = open_paths(here)
    for point in local.points:
        np.testing.assert_array_equal(np.asarray(paths[point]), np.asarray(local[point]))
    np.testing.assert_array_equal(paths.labels, local.labels)
    np.testing.assert_array_equal(paths.ids, local.ids)
    assert verify_paths(url).sound
    seen = np.concatenate([batch.index for batch in paths.batches(64, seed=1)])
    assert sorted(seen.tolist()) == list(range(SIZE))


def test_a_workers_complaint_is_ones_own(cluster: None, tmp_path: Path) -> None:
    x = np.ones((SIZE, 4), np.float32)
    x[170] = np.nan
    with pytest.raises(RepdynError, match=r"not finite for sample 170 \(id '170'\)"):
        trace(nn.Sequential(nn.Linear(4, 4)), x, out=tmp_path / "a.paths", engine=RayEngine(workers=1))


def test_more_workers_than_there_are_are_refused(
    model: Any, texts: list[str], cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(RepdynError, match="3 workers need 1 CPUs each, but the cluster has 2"):
        trace(model, texts, out=tmp_path / "a.paths", engine=RayEngine(workers=3))
    with pytest.raises(RepdynError, match="GPUs"):
        RayEngine()._count({"CPU": 2.0}, 1)


def test_memory_is_no_place_for_workers(model: Any, texts: list[str]) -> None:
    with pytest.raises(RepdynError, match="give its path as out="):
        trace(model, texts, engine=RayEngine())


NETWORK = """
import torch
from torch import nn


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64) for _ in range(3)])
"""


def test_the_verb(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from repdyn.cli import main

    entry = SimpleNamespace(name="ray", load=lambda: RayEngine)
    monkeypatch.setattr(engines, "entry_points", lambda group: [entry])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "network_of_ones_own.py").write_text(NETWORK)

    def run(*options: str) -> tuple[int, str]:
        words = ["repdyn", "trace", "module:network_of_ones_own.network", "digits", "--limit", "60"]
        monkeypatch.setattr(sys, "argv", [*words, *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    status, told = run("--out", "there.paths", "--engine", "ray", "--json", "figures.json")
    assert status == 0, told
    assert json.loads((tmp_path / "figures.json").read_text())["trace"]["size"] == 60
    assert run("--out", "here.paths")[0] == 0
    assert bits(tmp_path / "there.paths") == bits(tmp_path / "here.paths")
    status, told = run("--out", "c.paths", "--ray-address", "auto")
    assert (status, "--engine ray" in told) == (2, True)
    status, told = run("--out", "c.paths", "--engine", "dask")
    assert (status, "no such engine is installed" in told) == (2, True)
