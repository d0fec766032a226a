import numpy as np

from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.unpaired.refine import (
    _nearest,
    final_refinement,
    fit_without_pairs,
    joint_similarity,
    mutual_neighbors,
    nearest_orthogonal,
    refine,
)


def clouds(planted) -> tuple[np.ndarray, ...]:
    x, _ = planted.clusters(800, seed=1)
    y, _ = planted.clusters(800, seed=2)
    q = planted.rotation(24, 3)
    return unit_rows(x).astype(np.float32), unit_rows(y @ q).astype(np.float32), q.astype(np.float32)


def agreement(x: np.ndarray, m: np.ndarray, q: np.ndarray) -> float:
    return float((unit_rows(x @ m) * (x @ q)).sum(1).mean())


def test_a_rough_map_becomes_nearly_exact(planted) -> None:
    x, y, q = clouds(planted)
    noise = np.random.default_rng(0).normal(size=q.shape) / np.sqrt(24)
    rough = nearest_orthogonal(q + 0.7 * noise)
    (better,) = refine([x], [y], [rough], ranks=[24] * 20)
    assert agreement(x, better, q) > 0.97 > agreement(x, rough, q)
    assert np.allclose(better @ better.T, np.eye(24), atol=1e-4)


def test_the_fit_prefers_the_true_map(planted) -> None:
    x, y, q = clouds(planted)
    wrong = planted.rotation(24, 4).astype(np.float32)
    true_fit, wrong_fit = (fit_without_pairs(joint_similarity([x], [y], [m])) for m in (q, wrong))
    assert true_fit > wrong_fit + 0.1


def test_the_joint_similarity_is_the_mean_cosine_for_full_rough_and_zero_maps() -> None:
    g = np.random.default_rng(0)
    a, b = ([g.normal(size=(n, d)) for d in (9, 6)] for n in (7, 5))
    maps = [np.zeros((9, 9)), g.normal(size=(6, 6))]
    maps[0][:3, :4] = g.normal(size=(3, 4))
    for given_maps in (maps, [maps[0], np.zeros((6, 6))]):
        expected = np.zeros((7, 5))
        for x, y, m in zip(a, b, given_maps):
            for i, j in np.ndindex(7, 5):
                moved = x[i] @ m
                length = np.linalg.norm(moved) * np.linalg.norm(y[j])
                expected[i, j] += (moved @ y[j] / length if length else 0.0) / 2
        assert np.allclose(joint_similarity(a, b, given_maps), expected, atol=1e-6)


def test_known_pairs_alone_suffice(planted) -> None:
    x, _, q = clouds(planted)
    rows = np.arange(60)
    start = planted.rotation(24, 4).astype(np.float32)
    (m,) = refine([x], [x @ q], [start], ranks=[24] * 30, fixed=(rows, rows))
    assert agreement(x, m, q) > 0.9


def test_a_few_noisy_pairs_do_not_spoil_a_map_that_finds_hundreds(planted) -> None:
    x, y, q = clouds(planted)
    noise = np.random.default_rng(0).normal(size=(5, 24)) / np.sqrt(24)
    partners = unit_rows(x[:5] @ q + 1.5 * noise).astype(np.float32)
    y = np.concatenate([partners, y])
    known = (np.arange(5), np.arange(5))
    (without,), (few,), (leading,) = (
        refine([x], [y], [q], ranks=[24] * 6, fixed=fixed, known_share=share)
        for fixed, share in ((None, 0.0), (known, 0.0), (known, 1.0))
    )
    assert agreement(x, few, q) > agreement(x, without, q) - 0.005
    assert agreement(x, few, q) > agreement(x, leading, q) + 0.01


def test_pairs_lead_where_they_have_a_share(planted) -> None:
    x, y, q = clouds(planted)
    y = np.concatenate([x[:20] @ q, y])
    known = (np.arange(20), np.arange(20))
    start = planted.rotation(24, 4).astype(np.float32)
    led, alone = (
        refine([x], [y], [start], ranks=[24] * 4, fixed=known, known_share=share)[0] for share in (1.0, 0.0)
    )
    assert agreement(x, led, q) > agreement(x, alone, q) + 0.1


def test_mutual_neighbors_of_a_permuted_set_are_the_permutation() -> None:
    x = unit_rows(np.random.default_rng(0).normal(size=(50, 10))).astype(np.float32)
    order = np.random.default_rng(1).permutation(50)
    rows, columns = mutual_neighbors(x @ x[order].T)
    assert len(rows) == 50
    assert np.array_equal(order[columns], rows)


def test_mutual_neighbors_are_those_of_the_corrected_similarity() -> None:
    similarity = np.random.default_rng(0).normal(size=(300, 260)).astype(np.float32)
    of_rows = similarity.reshape(300, 5, 52).max(2).mean(1)
    of_columns = similarity.reshape(5, 60, 260).max(1).mean(0)
    forward = (similarity - of_columns / 2).argmax(1)
    backward = (similarity - of_rows[:, None] / 2).argmax(0)
    rows = [i for i, j in enumerate(forward) if backward[j] == i]
    found = mutual_neighbors(similarity)
    assert found[0].tolist() == rows
    assert found[1].tolist() == forward[rows].tolist()


def test_the_nearest_are_those_after_hubs_are_taken_off() -> None:
    similarity = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    hubs = 3 * np.random.default_rng(1).random(40).astype(np.float32)
    found = _nearest(similarity, hubs, 3)
    assert np.array_equal(found, np.argsort(-(similarity - hubs), axis=1)[:, :3])
    assert not np.array_equal(found, np.argsort(-similarity, axis=1)[:, :3])
    assert np.array_equal(
        _nearest(similarity.T, similarity[:, 0], 2), _nearest(similarity.T.copy(), similarity[:, 0], 2)
    )


def test_settling_averages_over_draws(planted) -> None:
    """Drawing few points a step, eight steps end nearer to the truth than the last of them, step by step."""
    x, y, q = clouds(planted)
    rough = nearest_orthogonal(q + 0.3 * np.random.default_rng(0).normal(size=q.shape) / np.sqrt(24))
    averaged, single = [], []
    for seed in range(5):
        averaged.append(agreement(x, final_refinement([x], [y], [rough], 8, batch=150, seed=seed)[0], q))
        last = [rough]
        for step in range(8):
            last = final_refinement([x], [y], last, 1, batch=150, seed=100 * seed + step)
        single.append(agreement(x, last[0], q))
    assert np.mean(averaged) > np.mean(single) + 0.002


def test_cloud_rotates_without_loss_and_orders_axes() -> None:
    raw = np.random.default_rng(0).normal(size=(300, 5)) * [1, 5, 2, 0.1, 3] + 7
    cloud = Cloud.of(raw)
    assert np.allclose(cloud.points @ cloud.basis.T, unit_rows(raw - raw.mean(0)), atol=1e-5)
    spread = (cloud.points**2).sum(0)
    assert np.all(np.diff(spread) <= 1e-4)


def test_a_prior_holds_the_start_where_points_say_nothing() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 300, 12)).astype(np.float32)
    start = np.linalg.qr(generator.normal(size=(12, 12)))[0].astype(np.float32)
    kept = [
        float((final_refinement([a], [b], [start], 4, seed=1, prior=prior)[0] * start).sum() / 12)
        for prior in (0.0, 1.0, 100.0)
    ]
    assert kept[0] < kept[1] < kept[2]
    assert kept[2] > 0.999
    plain = final_refinement([a], [b], [start], 4, seed=1)[0]
    np.testing.assert_array_equal(final_refinement([a], [b], [start], 4, seed=1, prior=0.0)[0], plain)
