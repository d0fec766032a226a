"""Scores by Ray Data are those of the store, by the example of the page "In your service"."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from repdyn.ood import PathDetector
from repdyn.paths import RepresentationPaths, export_paths

ray = pytest.importorskip("ray", reason="Ray comes with the extra ray")
pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
pytest.importorskip("ray.data", reason="Ray Data comes with the extra ray")

# Ray opens sockets and files that it leaves to the interpreter to close.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:ray"),
]


def paths(count: int, seed: int) -> RepresentationPaths:
    generator = np.random.default_rng(seed)
    arrays = {f"blocks.{k}": generator.normal(size=(count, 8 + k)).astype(np.float32) + 3 for k in range(3)}
    return RepresentationPaths.from_arrays(arrays, ids=[f"sample {k}" for k in range(count)])


def test_map_batches_gives_the_scores_of_the_store(tmp_path, monkeypatch):
    detector, new = PathDetector().fit(paths(300, 0)), paths(9000, 1)
    detector.save(tmp_path / "a.detector")
    export_paths(new, tmp_path / "new.parquet")
    example = Path(__file__).parents[2] / "docs" / "examples" / "score_table.py"
    spec = importlib.util.spec_from_file_location("score_table", example)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "score_table", module)
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)
    with ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False):
        module.score_table(
            str(tmp_path / "new.parquet"), str(tmp_path / "a.detector"), str(tmp_path / "scores"), workers=1
        )
    rows = pq.read_table(tmp_path / "scores").to_pydict()
    found = dict(zip(rows["id"], rows["score"], strict=True))
    assert len(found) == 9000
    scores = [found[name] for name in new.ids.tolist()]
    np.testing.assert_allclose(scores, detector.score_samples(new), rtol=1e-5, atol=1e-5)
