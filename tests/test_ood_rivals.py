"""Baselines of the detection study against their authors' formulas, written out a second time."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import nn

from repdyn.paths import RepresentationPaths

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
SCRIPTS = ("ood_rivals", "ood_maps", "ood_token_rivals", "ood_token_states", "ood_corruptions", "harness")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmarks, and forgets it after the test."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def gram_of_maps(x: torch.Tensor, order: int) -> torch.Tensor:
    """``G_p`` of the authors' code: rows of the matrix are summed, then the root is taken."""
    y = (x**order).reshape(x.shape[0], x.shape[1], -1)
    y = torch.matmul(y, y.transpose(2, 1)).sum(dim=2)
    return y.sign() * y.abs() ** (1 / order)


def test_gram_sums_are_the_authors(bench: Any) -> None:
    x = np.random.default_rng(0).normal(size=(5, 7))
    sums = bench("ood_rivals").gram_sums(x)
    maps = torch.from_numpy(x)[:, :, None, None]
    for k, order in enumerate(range(1, 11)):
        np.testing.assert_allclose(sums[:, k], gram_of_maps(maps, order).numpy(), rtol=1e-9)


def test_gram_rows_of_maps_are_the_authors(bench: Any) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4, 5, 6)))
    rows = bench("ood_maps")._gram_rows(x).reshape(3, 10, 4)
    for k, order in enumerate(range(1, 11)):
        np.testing.assert_allclose(rows[:, k], gram_of_maps(x, order), rtol=1e-5)


def test_gram_counts_what_leaves_the_range_of_the_predicted_class(bench: Any) -> None:
    generator = np.random.default_rng(2)
    x = {"a": generator.normal(size=(60, 3)) + 5, "b": generator.normal(size=(60, 2)) + 5}
    logits = np.eye(2)[np.arange(60) % 2] * 3
    score = bench("ood_rivals").gram(x, logits, seed=0)
    held, kept = np.split(np.random.default_rng(0).permutation(60), [6])

    def deviation(rows: dict[str, np.ndarray], of: np.ndarray, name: str, i: int) -> float:
        own = [k for k in kept if logits[k].argmax() == of[i].argmax()]
        total = 0.0
        for j in range(rows[name].shape[1]):
            low, high = min(x[name][k, j] for k in own), max(x[name][k, j] for k in own)
            total += max(low - rows[name][i, j], 0) / abs(low + 1e-6)
            total += max(rows[name][i, j] - high, 0) / abs(high + 1e-6)
        chance = np.exp(of[i]) / np.exp(of[i]).sum()
        return total / chance.max()

    new = {"a": generator.normal(size=(4, 3)) * 4, "b": generator.normal(size=(4, 2)) * 4}
    of = generator.normal(size=(4, 2))
    scale = {
        name: np.mean(
            [deviation({n: v[held] for n, v in x.items()}, logits[held], name, i) for i in range(6)]
        )
        for name in x
    }
    expected = [-sum(deviation(new, of, name, i) / (scale[name] + 1e-7) for name in x) for i in range(4)]
    np.testing.assert_allclose(score(new, of), expected, rtol=1e-9)


def test_combood_is_the_authors_square_score(bench: Any) -> None:
    from sklearn.preprocessing import PowerTransformer, StandardScaler

    generator = np.random.default_rng(3)
    layers = [generator.normal(size=(80, 6)), generator.normal(size=(80, 4, 3)) ** 2]
    rivals = bench("ood_rivals")
    ends = rivals.extremes(layers)
    assert ends.shape == (80, 4)
    assert ends[7, 0] == -layers[0][7].min()
    assert ends[7, 3] == layers[1][7].max()
    new_layers = [generator.normal(size=(5, 6)) + 1, generator.normal(size=(5, 4, 3)) ** 2]
    new = rivals.extremes(new_layers)
    found = rivals.combood(layers[0], ends)(new_layers[0], new)

    scaler, power = StandardScaler(), PowerTransformer()
    fitted = power.fit_transform(scaler.fit_transform(ends))
    inverse = np.linalg.inv(np.cov(fitted.T) + np.eye(4))
    unit = layers[0] / np.linalg.norm(layers[0], axis=1, keepdims=True)
    for i in range(5):
        z = power.transform(scaler.transform(new[i : i + 1]))[0]
        direction = new_layers[0][i] / np.linalg.norm(new_layers[0][i])
        squared = np.sort(((unit - direction) ** 2).sum(axis=1))[49]
        assert found[i] == pytest.approx(-np.sqrt(6) * np.log(squared) - z @ inverse @ z)


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 40, 3)
        self.fc = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc(h.mean((2, 3)))


def test_adascale_is_openoods(bench: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(24, 3, 10, 10)

    class Model:
        module, default_points = net, ("first", "second")

        def prepare(self, rows: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(rows)

    maps = bench("ood_maps")
    read = maps.read_maps(Model(), list(x), tmp_path / "maps.npz")
    head = (net.fc.weight.detach().numpy(), net.fc.bias.detach().numpy())
    fitted = {key: rows[:20] for key, rows in read.items()}
    found = maps.adascale((fitted["last"], fitted["moved"]), head)(read["last"][20:], read["moved"][20:])

    def features(given: torch.Tensor) -> torch.Tensor:
        return torch.relu(net.second(torch.relu(net.first(given)))).mean((2, 3)).detach()

    shift = []
    for i in range(24):
        given = x[i : i + 1].clone().requires_grad_(True)
        net(given).max().backward()
        assert given.grad is not None
        order = given.grad.abs().flatten().argsort()[: int(0.05 * 300)]
        step = torch.zeros(300)
        step[order] = 0.5
        own, moved = (
            features(x[i : i + 1])[0],
            features(x[i : i + 1] + step.view(1, 3, 10, 10) * given.grad.sign())[0],
        )
        np.testing.assert_allclose(read["moved"][i], moved, rtol=1e-4, atol=1e-6)
        top = own.argsort(descending=True)
        first, second = top[:2], top[:1]  # 5 % of 40, and 1 % of 40 raised to one
        shift.append(float(torch.relu(moved[first]).sum() + 10 * (own - moved)[second].abs().sum()))
    for i in range(20, 24):
        percent = 1 - np.mean([value <= shift[i] for value in shift[:20]])
        percentile = 75 + percent * 10
        own = features(x[i : i + 1])[0]
        kept = 40 - round(40 * percentile / 100)
        ratio = float(own.sum() / own.sort(descending=True).values[:kept].sum())
        expected = torch.logsumexp(net.fc(own * np.exp(ratio)).detach(), dim=0)
        assert found[i - 20] == pytest.approx(float(expected), rel=1e-4)


def test_lcf_and_tv_follow_their_formulas(bench: Any) -> None:
    generator = np.random.default_rng(4)
    layers = [generator.normal(size=(50, 6)) for _ in range(4)]
    new = [generator.normal(size=(3, 6)) * 2 for _ in range(4)]
    rivals = bench("ood_rivals")
    steps = [layers[k + 1] - layers[k] for k in range(3)]

    def apart(rows: list[np.ndarray], i: int) -> list[float]:
        return [
            np.sqrt(np.mean(((rows[k][i] - steps[k].mean(0)) / (steps[k].std(0) + 1e-9)) ** 2))
            for k in range(3)
        ]

    shrunk = LedoitWolf().fit([apart(steps, i) for i in range(50)])
    own = [new[k + 1] - new[k] for k in range(3)]
    expected = [-np.sqrt(shrunk.mahalanobis([apart(own, i)])[0]) for i in range(3)]
    np.testing.assert_allclose(rivals.lcf(layers)(new), expected, rtol=1e-9)
    far = np.stack([np.sqrt(LedoitWolf().fit(x).mahalanobis(y)) for x, y in zip(layers, new)])
    np.testing.assert_allclose(rivals.tv(layers)(new), -np.abs(np.diff(far, axis=0)).mean(axis=0))


def test_trajguard_takes_the_risk_that_lasts(bench: Any) -> None:
    tokens = bench("ood_token_rivals")
    # One spike of a single token lasts less than three steps, a run of five does not.
    spike, run = np.zeros((20, 2)), np.zeros((20, 2))
    spike[10], run[10:15] = 9, 9
    assert tokens._lasting(spike) < tokens._lasting(run)
    generator = np.random.default_rng(5)
    usual, malicious = generator.normal(size=(400, 3, 5)), generator.normal(size=(400, 3, 5)) + 2
    score = tokens.trajguard(usual, malicious)
    good, bad = score([usual[:30], malicious[:30]])
    assert good > 0 > bad
    mean, whitener = tokens._gaussian(usual[:, 0])
    covariance = np.cov(usual[:, 0].T)
    ridge = 0.1 * np.trace(covariance) / 5
    np.testing.assert_allclose(
        np.linalg.inv(whitener @ whitener.T), covariance + ridge * np.eye(5), atol=1e-9
    )
    np.testing.assert_allclose(mean, usual[:, 0].mean(axis=0))


def test_eigen_score_is_the_mean_log_eigenvalue(bench: Any) -> None:
    tokens = bench("ood_token_rivals")
    states = np.random.default_rng(6).normal(size=(4, 9))
    centering = np.eye(9) - 1 / 9
    values = np.linalg.eigvalsh(states @ centering @ states.T / 9 + 1e-3 * np.eye(4))
    assert tokens.eigen_score(states) == pytest.approx(np.log(values).mean())
    same = np.repeat(states[:1], 4, axis=0)
    assert tokens.eigen_score(same) < tokens.eigen_score(states)


def test_pooled_rivals_see_a_shift_and_need_no_labels(bench: Any) -> None:
    generator = np.random.default_rng(7)
    x = {name: generator.normal(size=(300, 8)) + 2 for name in ("a", "b")}
    paths = RepresentationPaths.from_arrays(x)
    found = bench("ood_rivals").rivals(paths.subset(np.arange(200)), np.zeros(200, dtype=int), None)
    far = RepresentationPaths.from_arrays({name: rows[:50] * 3 for name, rows in x.items()})
    for name in ("Gram (pooled)", "CombOOD (pooled)"):
        usual, foreign = (
            found[name].score_samples(paths.subset(np.arange(200, 300))),
            found[name].score_samples(far),
        )
        assert np.mean(usual[:, None] > foreign) > 0.95, name


@pytest.mark.parametrize("kind", ["gaussian noise", "glass blur", "fog", "contrast", "JPEG compression"])
def test_corruptions_grow_with_their_strength(bench: Any, kind: str) -> None:
    from PIL import Image

    corruptions = bench("ood_corruptions")
    y, x = np.mgrid[:32, :32]
    clean = np.stack([127 + 100 * np.sin(x / 3), 4 * x + y, 127 + 100 * np.cos(y / 2)], -1).clip(0, 255)
    pictures = [Image.fromarray(clean.astype(np.uint8))] * 4
    errors = []
    for strength in (1, 5):
        made = corruptions.corrupted(pictures, kind, strength, np.random.default_rng(0))
        errors.append(
            np.mean([np.abs(np.asarray(p, dtype=float) - clean.astype(np.uint8)).mean() for p in made])
        )
    assert 0 < errors[0] < errors[1]
    assert len(corruptions.CORRUPTIONS) == 15
    with pytest.raises(ValueError, match="1 to 5"):
        corruptions.corrupted(pictures, kind, 6, np.random.default_rng(0))


def test_fewer_fitted_samples_keep_their_maps(bench: Any) -> None:
    x = np.arange(20.0).reshape(10, 2)
    paths = RepresentationPaths.from_arrays({"a": x}, labels=np.arange(10))
    maps = {"fit": {"last": x}, "textures": {"last": x + 100}}
    drawn = bench("ood_samples").Drawn(paths, paths, paths, {"textures": paths}, {}, maps)
    fewer = bench("ood")._fewer(drawn, np.array([1, 4, 7]))
    np.testing.assert_array_equal(fewer.maps["fit"]["last"], x[[1, 4, 7]])
    np.testing.assert_array_equal(fewer.fit["a"], x[[1, 4, 7]])
    np.testing.assert_array_equal(fewer.maps["textures"]["last"], x + 100)
    assert len(fewer.test) == len(fewer.foreign["textures"]) == 10
