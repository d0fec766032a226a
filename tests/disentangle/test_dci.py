"""Modularity, compactness and explicitness of codes whose factors are planted."""

from __future__ import annotations

import re

import numpy as np
import pytest

from repdyn.disentangle import DCI, dci
from repdyn.errors import RepdynError

COUNT = 600


def _planted(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Two noisy coordinates for each of three factors of three classes."""
    generator = np.random.default_rng(seed)
    labels = {name: generator.integers(3, size=COUNT) for name in "abc"}
    codes = np.stack([labels[name] for name in "aabbcc"], axis=1) + 0.1 * generator.standard_normal(
        (COUNT, 6)
    )
    return codes, labels


def _mixed(codes: np.ndarray) -> np.ndarray:
    return codes @ np.linalg.qr(np.random.default_rng(9).standard_normal((6, 6)))[0]


def _measured(change=lambda codes: codes) -> DCI:
    (codes, labels), (new, new_labels) = _planted(0), _planted(1)
    return dci(change(codes), labels, change(new), new_labels)


def test_codes_with_a_group_for_each_factor_are_perfect() -> None:
    found = _measured()
    assert found.groups == {"a": (0, 1), "b": (2, 3), "c": (4, 5)}
    assert found.modularity > 0.97
    assert found.compactness > 0.97
    assert found.explicitness.value > 0.99
    assert found.importance.sum(axis=0) == pytest.approx(1)


def test_mixed_codes_are_explicit_and_neither_modular_nor_compact() -> None:
    found, own = _measured(_mixed), _measured()
    assert found.explicitness.value > 0.85
    assert found.modularity < own.modularity - 0.3
    assert found.compactness < own.compactness - 0.1


def test_codes_of_noise_are_at_chance() -> None:
    found = _measured(
        lambda codes: np.random.default_rng(int(1e3 * codes[0, 0] ** 2)).standard_normal(codes.shape)
    )
    for name, accuracy in found.accuracy.items():
        assert accuracy.low < 1 / 3 + 0.03
        assert found.majority[name] == pytest.approx(1 / 3, abs=0.06)
    assert found.explicitness.value == pytest.approx(np.mean([a.value for a in found.accuracy.values()]))


def test_scores_are_those_of_the_printed_formulas() -> None:
    found = _measured(_mixed)
    shares = np.array([[found.importance[list(g), f].sum() for f in range(3)] for g in found.groups.values()])
    modular = []
    for row in shares:
        p = row / row.sum() if row.sum() else row
        modular.append(1 + sum(x * np.log(x) / np.log(3) for x in p if x > 0))
    weight = shares.sum(axis=1) / shares.sum()
    assert found.modularity == pytest.approx(float(weight @ modular))
    compact = [1 + sum(x * np.log(x) / np.log(6) for x in column if x > 0) for column in shares.T]
    assert found.compactness == pytest.approx(float(np.mean(compact)))


def test_the_result_is_repeatable_and_saved(tmp_path) -> None:
    found = _measured()
    assert found.to_dict() == _measured().to_dict()
    found.save(tmp_path / "scores")
    loaded = DCI.load(tmp_path / "scores")
    assert repr(loaded) == repr(found)
    assert "modularity 0." in repr(found) or "modularity 1." in repr(found)


def test_what_makes_no_sense_is_refused() -> None:
    codes, labels = _planted(0)
    bad = codes.copy()
    bad[7, 2] = np.nan
    for arguments, reason in (
        ((codes[:5], labels, codes, labels), "codes: expected shape (N, d) and N labels"),
        ((codes, labels, codes[:, 0], labels), "test_codes: expected shape"),
        ((bad, labels, codes, labels), "codes: row 7 is not finite"),
        ((codes, labels, codes[:, :3], labels), "the same for both parts"),
        ((codes, {"a": labels["a"]}, codes, {"a": labels["a"]}), "at least two factors"),
        ((codes, labels, codes, {"a": labels["a"], "b": labels["b"]}), "the same for both parts"),
    ):
        with pytest.raises(RepdynError, match=re.escape(reason)):
            dci(*arguments)
