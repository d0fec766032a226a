"""Equal rows: one side of a split, one fold, one draw of a bootstrap, in every room that splits."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from repdyn.disentangle.factors import Factors
from repdyn.disentangle.leakage import leakage
from repdyn.fields import LatentField, align_fields, memorization
from repdyn.fields.recovery import probe_without_data
from repdyn.fields.surrogate import SurrogateAutoencoder, SurrogateWarning
from repdyn.ood import KNNDetector, PathDetector, evaluate
from repdyn.paths import RepresentationPaths
from repdyn.repeats import parted_by_group, sums_by_group


def test_parts_keep_groups_and_are_the_permutation_without_repeats() -> None:
    groups = np.random.default_rng(0).integers(30, size=200)
    one, other = parted_by_group(groups, 60, np.random.default_rng(1))
    assert not set(groups[one]) & set(groups[other])
    assert sorted([*one, *other]) == list(range(200))
    assert 60 <= len(one) < 60 + np.bincount(groups).max()
    order = np.random.default_rng(2).permutation(50)
    one, other = parted_by_group(np.arange(50), 20, np.random.default_rng(2))
    np.testing.assert_array_equal(np.concatenate([one, other]), order)
    assert len(one) == 20
    one, other = parted_by_group(np.zeros(10, dtype=np.int64), 3, np.random.default_rng(0))
    assert (len(one), len(other)) == (3, 7)
    np.testing.assert_array_equal(sums_by_group(np.array([5, 2, 5]), np.array([1.0, 2.0, 4.0])), [2.0, 5.0])


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("times", [2, 5])
def test_a_split_of_paths_keeps_equal_samples_together(labeled: bool, times: int) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(120, 6)).astype(np.float32)
    number = np.tile(np.arange(120), times)
    paths = RepresentationPaths.from_arrays(
        {"first": x[number] * 2, "last": x[number]}, labels=number % 3 if labeled else None
    )
    parts = paths.split((0.6, 0.2, 0.2), seed=3)
    held = [{row.tobytes() for row in np.asarray(part["last"])} for part in parts]
    assert sum(len(rows) for rows in held) == len(set.union(*held)) == 120
    assert sum(len(part) for part in parts) == len(paths)
    for part, share in zip(parts, (0.6, 0.2, 0.2)):
        assert abs(len(part) / len(paths) - share) < 0.04
        if labeled:
            assert np.abs(np.bincount(part.labels) / len(part) - 1 / 3).max() < 0.06


def test_a_split_of_token_paths_keeps_equal_samples_together() -> None:
    g = np.random.default_rng(0)
    x = np.tile(g.normal(size=(40, 5, 4)).astype(np.float32), (2, 1, 1))
    mask = np.tile(np.arange(5) < g.integers(2, 6, size=40)[:, None], (2, 1))
    paths = RepresentationPaths.from_arrays({"last": x}, masks={"last": mask})
    one, other = paths.split((0.5, 0.5))
    held = [{np.asarray(part["last"][k])[:2].tobytes() for k in range(len(part))} for part in (one, other)]
    assert len(held[0]) == 20
    assert held[0].isdisjoint(held[1])


def test_a_dead_last_layer_and_few_groups_are_split_like_other_samples() -> None:
    g = np.random.default_rng(0)
    dead = RepresentationPaths.from_arrays({"first": g.normal(size=(50, 4)), "last": np.zeros((50, 4))})
    alive = RepresentationPaths.from_arrays({"first": g.normal(size=(50, 4)), "last": g.normal(size=(50, 4))})
    for one, other in zip(dead.split((0.5, 0.5)), alive.split((0.5, 0.5))):
        np.testing.assert_array_equal(one.ids, other.ids)
    constant = RepresentationPaths.from_arrays({"last": np.ones((20, 4))})
    assert [len(part) for part in constant.split((0.5, 0.5))] == [10, 10]
    two = RepresentationPaths.from_arrays({"last": np.repeat(np.eye(2), [15, 5], axis=0)})
    assert sorted(len(part) for part in two.split((0.8, 0.2))) == [5, 15]


def test_an_evaluation_of_repeated_samples_is_as_uncertain_as_of_each_once() -> None:
    g = np.random.default_rng(0)
    fit = RepresentationPaths.from_arrays({"last": g.normal(size=(300, 8)) + 2})
    inside, outside = g.normal(size=(60, 8)) + 2, g.normal(size=(50, 8)) + 1
    detector = PathDetector().fit(fit)
    controls = {"knn": KNNDetector().fit(fit)}

    def found(times: int) -> dict:
        sets = [
            RepresentationPaths.from_arrays({"last": np.repeat(x, times, axis=0)}) for x in (inside, outside)
        ]
        return evaluate(detector, sets[0], {"foreign": sets[1]}, controls=controls).to_dict()

    once, often = found(1), found(6)
    for metric in ("auroc", "aupr", "fpr95"):
        one, other = (x["table"]["PathDetector"]["foreign"][metric] for x in (once, often))
        width = one["high"] - one["low"]
        assert other["high"] - other["low"] == pytest.approx(width, rel=0.25)
        # The figure itself is that of all samples.
        assert other["value"] == pytest.approx(one["value"], abs=0.05)
    assert once["verdict"] == often["verdict"]


def test_unequal_repeats_weigh_in_the_figure() -> None:
    g = np.random.default_rng(1)
    fit = RepresentationPaths.from_arrays({"last": g.normal(size=(300, 8)) + 2})
    x = np.repeat(g.normal(size=(40, 8)) + 2, g.integers(1, 9, size=40), axis=0)
    y = g.normal(size=(50, 8)) + 1
    detector = PathDetector().fit(fit)
    sets = [RepresentationPaths.from_arrays({"last": z}) for z in (x, y)]
    found = evaluate(detector, sets[0], {"foreign": sets[1]}, controls={"knn": KNNDetector().fit(fit)})
    scores = [detector.score_samples(paths) for paths in sets]
    truth = roc_auc_score(np.repeat([1, 0], [len(x), len(y)]), np.concatenate(scores))
    cell = found.table["PathDetector"]["foreign"]["auroc"]
    assert cell.value == pytest.approx(truth)
    assert cell.low <= cell.value <= cell.high


def test_unrelated_fields_share_no_basins_where_codes_are_repeated() -> None:
    found = []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(30, 3, generator=g).repeat_interleave(8, 0) for _ in range(2))

        def wells(z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(3 * z)

        field = LatentField(wells)
        found.append(align_fields(field, field, a, b, steps=(0, 1), max_steps=200, seed=seed).verdict)
    assert found.count("found") <= 2


def test_probing_never_judges_on_targets_that_are_in_a_dictionary() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    found = probe_without_data(
        LatentField(lambda z: torch.tanh(2 * z)), None, x, atoms=(1, 2), starts=60, seed=0
    )
    real = found.error["latents of data"]
    assert real[0].value > 0.2  # a copy in the dictionary gives 0


def test_a_surrogate_is_judged_on_other_samples_than_its_copies() -> None:
    g = np.random.default_rng(0)
    x = np.repeat(g.normal(size=(40, 24)), 5, axis=0)
    fitted = SurrogateAutoencoder(latent_dim=8, hidden=(128,), epochs=60, penalty=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateWarning)
        fitted.fit(RepresentationPaths.from_arrays({"last": x}), "last")
    assert fitted.reconstruction_.value > 0.5  # noise cannot be told from other noise


def test_leakage_of_repeated_sequences_finds_nothing_where_nothing_is() -> None:
    g = np.random.default_rng(0)
    static = np.repeat(g.normal(size=(40, 1, 12)), 4, axis=0).repeat(3, axis=1).astype(np.float32)
    labels = np.repeat(g.integers(2, size=40), 4)
    parts = Factors(static, np.zeros_like(static), np.ones(static.shape[:2], dtype=bool))
    assert leakage(parts, {"static": "static"}, {"drawn": labels}).information.max() < 0.2


def test_memorization_of_repeated_samples_is_that_of_each_once() -> None:
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 4, generator=g) + 1, torch.randn(30, 4, generator=g) + 1
    wells = train[:5]

    def pull(z: torch.Tensor) -> torch.Tensor:
        near = wells[torch.cdist(z, wells).argmin(dim=1)]
        return near + 0.3 * (z - near)

    field = LatentField.from_autoencoder(lambda x: x, pull)
    once = memorization(field, train, test, max_steps=100)
    often = memorization(field, train.repeat_interleave(3, 0), test.repeat_interleave(3, 0), max_steps=100)
    assert (often.null.low, often.null.high) == (once.null.low, once.null.high)
    assert (often.preference, often.verdict) == (once.preference, once.verdict)
    repeated = train.repeat_interleave(3, 0)
    torch.testing.assert_close(
        repeated[torch.from_numpy(often.nearest)], train[torch.from_numpy(once.nearest)]
    )


def test_one_line_tells_of_all_points_with_few_samples(caplog: pytest.LogCaptureFixture) -> None:
    g = np.random.default_rng(0)
    arrays = {f"layer{k}": g.normal(size=(50, 60 + k)) for k in range(8)} | {"still": np.ones((50, 4))}
    arrays["last"] = g.normal(size=(50, 70))
    PathDetector().fit(RepresentationPaths.from_arrays(arrays))
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "9 points (layer0, layer1, layer2, …): 50 samples in 60 to 70 dimensions; covariance mostly shrunk",
        "still: constant over the samples and left out",
    ]
