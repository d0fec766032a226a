"""The service of the page "In your service" answers with the detector's scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.ood import PathDetector
from repdyn.tracing import registry

pytest.importorskip("fastapi", reason="fastapi is not installed; it comes with the extra test")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def letters() -> repdyn.tracing.TracedModel:
    """A text model of letters, which refuses an empty text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(26, 16), nn.Tanh(), nn.Linear(16, 16))

    def prepare(texts):
        if not all(texts):
            raise repdyn.RepdynError("samples: a text is empty")
        counts = [[text.count(chr(97 + k)) / len(text) for k in range(26)] for text in texts]
        return torch.tensor(counts)

    return repdyn.wrap(module, prepare=prepare, points=["0", "2"])


@pytest.fixture
def client(tmp_path, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient", reason="needs an HTTP client: pip install httpx")
    generator, model = np.random.default_rng(0), letters()
    usual = ["".join(generator.choice(list("abcdefgh"), 30)) for _ in range(200)]
    detector = PathDetector().fit(repdyn.trace(model, usual))
    detector.save(tmp_path / "a.detector")
    monkeypatch.setenv("DETECTOR", str(tmp_path / "a.detector"))
    monkeypatch.setenv("MODEL", "letters")
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda name: model if name == "letters" else real(name))
    spec = importlib.util.spec_from_file_location("service", EXAMPLES / "service.py")
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    with testclient.TestClient(service.app) as client:
        yield client, detector, model


def test_the_service_gives_the_scores_of_the_detector(client):
    client, detector, model = client
    texts = ["abcdefghabcdefgh", "bbaahhggffeeddcc", "zzzzzzzz"]
    answer = client.post("/score", json={"texts": texts})
    assert answer.status_code == 200
    paths = repdyn.trace(model, texts)
    np.testing.assert_allclose(answer.json()["score"], detector.score_samples(paths), rtol=1e-4)
    assert answer.json()["flagged"] == (detector.predict(paths) < 0).tolist()
    assert answer.json()["flagged"][2]
    np.testing.assert_allclose(answer.json()["p_value"], detector.p_values(paths))


def test_the_service_refuses_in_one_line(client):
    client, _, _ = client
    assert client.post("/score", json={"texts": []}).status_code == 422
    answer = client.post("/score", json={"texts": ["abc", ""]})
    assert answer.status_code == 422
    assert "a text is empty" in answer.json()["detail"]
