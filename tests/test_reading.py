"""bfloat16 and tensors in a graph are read wherever an array is: the same numbers as from a NumPy array."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repdyn import fields, koopman, ood, topology
from repdyn.disentangle import SSMSKD, Judge, swap_grid
from repdyn.ood.comparison import IN_DISTRIBUTION
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array

Given = Callable[[Any], Any]
PATHS = RepresentationPaths.from_arrays


def _short(x: NDArray[Any]) -> NDArray[np.float32]:
    """Rounded to what bfloat16 holds, by NumPy: the last 16 bits of float32 are cleared."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


DRAW = np.random.default_rng(0)
LABELS = np.arange(60) % 3
X = _short(DRAW.normal(size=(60, 6)) * 0.4 + 3 * np.eye(6)[LABELS])
HALF = _short(0.5 * X)
PAIR = np.ascontiguousarray(X[:, :2])
CLIPS = _short(DRAW.normal(size=(12, 4, 3)))


class Encode(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ torch.eye(6, 2))  # float32 weights: of bfloat16 torch would complain


class Decode(torch.nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, z, z], 1)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    paths = PATHS({"a": X, "b": HALF}, labels=LABELS)
    kae = koopman.KoopmanAutoencoder(5, (8,)).fit(paths, epochs=2, batch_size=32)
    field = fields.LatentField(lambda z: torch.tanh(1.5 * z))
    many = PATHS({"a": np.tile(X, (5, 1)) + 0.01 * DRAW.normal(size=(300, 6)).astype(np.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fields.SurrogateWarning)  # one epoch is enough to be asked
        surrogate = fields.SurrogateAutoencoder(2, (8,), penalty=0.0, epochs=1).fit(many, "a")
    return {
        "kae": kae,
        "edited": kae.forget(paths, label=1),
        "spectrum": kae.spectrum(paths, resamples=3),
        "field": field,
        "found": field.attractors(PAIR),
        "coder": fields.LatentField.from_autoencoder(Encode(), Decode()),
        "surrogate": surrogate,
        "skd": SSMSKD(latent_dim=3, hidden=4).fit(CLIPS, epochs=1),
        "flow": topology.FlowAutoencoder(1, layers=1, hidden=(8,)).fit(X, steps=2, start_steps=2),
        "knn": ood.KNNDetector().fit(paths),
        "path": ood.PathDetector().fit(paths),
        "tree": topology.LevelSetTree.fit(X),
    }


def _track(f: dict[str, Any], starts: Any) -> Any:
    tracker = fields.AttractorTracker(starts)
    tracker.update(0, f["field"])
    return tracker.history().attractors[0].points


# what takes an array, and the number that comes of it
READERS: dict[str, Callable[[dict[str, Any], Given], Any]] = {
    "from_arrays": lambda f, t: PATHS({"a": t(X)})["a"],
    "from_arrays rows": lambda f, t: PATHS({"a": [t(row) for row in X]})["a"],
    "from_arrays logits": lambda f, t: PATHS({"a": t(X)}, logits=t(X)).logits,
    "koopman fit": lambda f, t: (
        koopman.KoopmanAutoencoder(3, ())
        .fit(PATHS({"a": t(X), "b": t(HALF)}), epochs=1, batch_size=32)
        .encode(X, "a")
    ),
    "koopman encode": lambda f, t: f["kae"].encode(t(X), "a"),
    "koopman decode": lambda f, t: f["kae"].decode(t(X[:, :5]), "a"),
    "koopman propagate": lambda f, t: f["kae"].propagate(t(X), "a", "b"),
    "koopman controls": lambda f, t: koopman.controls(PATHS({"a": X, "b": HALF})).predict("affine", t(X))[0],
    "edited propagate": lambda f, t: f["edited"].propagate(t(X), "b"),
    "eigenfunctions": lambda f, t: np.abs(f["spectrum"].eigenfunctions(t(X[:, :5]))),
    "attractors": lambda f, t: f["field"].attractors(t(PAIR)).points,
    "assign": lambda f, t: f["found"].assign(f["field"], t(PAIR)),
    "align_fields": lambda f, t: fields.align_fields(f["field"], f["field"], t(PAIR), t(PAIR)).agreement,
    "memorization": lambda f, t: fields.memorization(f["coder"], t(X[:30]), t(X[30:])).coefficient.value,
    "probing": lambda f, t: (
        fields.probe_without_data(f["field"], None, t(PAIR), atoms=(1,), starts=40)
        .error["attractors"][0]
        .value
    ),
    "tracker": lambda f, t: _track(f, t(PAIR)),
    "surrogate encode": lambda f, t: f["surrogate"].encode(t(X)),
    "surrogate decode": lambda f, t: f["surrogate"].decode(t(PAIR)),
    "surrogate residual": lambda f, t: f["surrogate"].residual(t(X)),
    "disentangle fit": lambda f, t: SSMSKD(latent_dim=3, hidden=4).fit(t(CLIPS), epochs=1).encode(CLIPS),
    "disentangle encode": lambda f, t: f["skd"].encode(t(CLIPS)),
    "disentangle decode": lambda f, t: f["skd"].decode(t(CLIPS)),
    "disentangle factors": lambda f, t: f["skd"].factors(t(CLIPS)).static,
    "disentangle swap": lambda f, t: f["skd"].swap(t(CLIPS), t(CLIPS)).first,
    "swap_grid": lambda f, t: swap_grid(f["skd"], t(CLIPS[:2])).decoded,
    "judge": lambda f, t: Judge((4,)).fit(t(CLIPS), {"k": LABELS[:12]}, epochs=1).predict(CLIPS)["k"],
    "conformal_p_values": lambda f, t: ood.conformal_p_values(t(X[:, 0]), t(X[:, 1])),
    "conformal_threshold": lambda f, t: ood.conformal_threshold(t(X[:, 0]), 0.05),
    "energy": lambda f, t: ood.energy(t(X)),
    "detector fit": lambda f, t: ood.PathDetector().fit(PATHS({"a": t(X)})).threshold_,
    "detector score": lambda f, t: f["knn"].score_samples(PATHS({"a": t(X), "b": t(HALF)})),
    "ood statistics": lambda f, t: (
        ood.evaluate(
            f["path"],
            PATHS({"a": X, "b": HALF}),
            {"far": PATHS({"a": X + 9, "b": HALF})},
            statistics={IN_DISTRIBUTION: t(PAIR), "far": t(PAIR + 1)},
        )
        .table["low-level statistics"]["far"]["auroc"]
        .value
    ),
    "persistence": lambda f, t: topology.persistence(t(X), landmarks=30, resamples=2).diagrams[0],
    "alpha_persistence": lambda f, t: topology.alpha_persistence(t(X[:, :2]))[0],
    "cubical_persistence": lambda f, t: topology.cubical_persistence(t(X))[0],
    "LevelSetTree.fit": lambda f, t: topology.LevelSetTree.fit(t(X)).density,
    "LevelSetTree.fit density": lambda f, t: topology.LevelSetTree.fit(X, density=t(X[:, 0])).density,
    "flow fit": lambda f, t: (
        topology.FlowAutoencoder(1, layers=1, hidden=(8,)).fit(t(X), steps=1, start_steps=1).encode(X)
    ),
    "flow encode": lambda f, t: f["flow"].encode(t(X)),
    "flow log_density": lambda f, t: f["flow"].log_density(t(X)),
    "knn_density": lambda f, t: topology.knn_density(t(X)),
    "mixture_density": lambda f, t: topology.mixture_density(t(X))(t(X)),
    "intrinsic_dimension": lambda f, t: topology.intrinsic_dimension(t(np.sort(np.abs(X), axis=1))),
    "farthest_points": lambda f, t: topology.farthest_points(t(X), 5)[0],
    "nearest_neighbors": lambda f, t: topology.nearest_neighbors(t(X), 3)[0],
    "node_attributes": lambda f, t: topology.node_attributes(f["tree"], t(X)).centroid,
    "leaf_support": lambda f, t: topology.leaf_support(f["tree"], t(X)),
}
KINDS: dict[str, Given] = {
    "in a graph": lambda x: torch.tensor(x, requires_grad=True),
    "bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "bfloat16 in a graph": lambda x: torch.tensor(x).bfloat16().requires_grad_(),
    "bfloat16 of NumPy": lambda x: x.astype(ml_dtypes.bfloat16),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_as_from_an_array(fitted, name, kind):
    read = READERS[name]
    found, expected = (as_array(read(fitted, given)) for given in (KINDS[kind], lambda x: x))
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)


def test_what_holds_numbers_is_read_without_loss():
    x = torch.tensor([1.5, -2.0], dtype=torch.float64, requires_grad=True)
    assert as_array(x).dtype == np.float64
    np.testing.assert_array_equal(as_array([x, x]), [[1.5, -2.0]] * 2)
    np.testing.assert_array_equal(as_array(torch.tensor([[0, 2.0]]).to_sparse()), [[0, 2]])
    np.testing.assert_array_equal(as_array(torch.tensor([1 + 2j]).conj()), [1 - 2j])
    np.testing.assert_array_equal(as_array(torch.ones(2).to(torch.float8_e4m3fn)), [1, 1])
    assert as_array(["a", "b"]).tolist() == ["a", "b"]
    assert as_array(torch.arange(3), dtype=np.float64).dtype == np.float64
    exact = torch.tensor(X).bfloat16()
    np.testing.assert_array_equal(as_array(exact), X)  # no bit is lost either way
