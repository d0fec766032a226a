"""Modularity, compactness and explicitness of codes: whether each group of coordinates carries one factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.disentangle.settings import EVALUATION
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

__all__ = ["DCI", "dci"]


@dataclass(frozen=True, eq=False, repr=False)
class DCI(Result, kind="dci"):
    """Disentanglement of codes by the importance of their coordinates for classifiers of the factors.

    Attributes
    ----------
    factors
        Names of the factors of the data.
    groups
        ``{factor: coordinates}``: each coordinate belongs to the factor for which it is most important.
    importance
        Shape ``(coordinates, factors)``; each column sums to one.
    modularity
        One minus the entropy of the factors within a group, mean over groups by their importance: 1 if each
        group carries one factor.
    compactness
        One minus the entropy of the groups of a factor, mean over factors: 1 if each factor is in one group.
    explicitness
        Accuracy of the classifiers on the test codes, mean over factors.
    accuracy, majority
        By factor, of the classifiers and of the most frequent class.
    """

    factors: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    importance: NDArray[np.float64]
    modularity: float
    compactness: float
    explicitness: Estimate
    accuracy: Mapping[str, Estimate]
    majority: Mapping[str, float]

    def __repr__(self) -> str:
        width = max(map(len, self.factors))
        lines = [
            f"  {name:<{width}}  {self.accuracy[name]}, most frequent class {self.majority[name]:.3f}, "
            f"{len(self.groups[name])} coordinates"
            for name in self.factors
        ]
        return "\n".join(
            [
                f"DCI: modularity {self.modularity:.3f}, compactness {self.compactness:.3f}, explicitness "
                f"{self.explicitness}",
                *lines,
            ]
        )


def dci(
    codes: ArrayLike,
    labels: Mapping[str, ArrayLike],
    test_codes: ArrayLike,
    test_labels: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
) -> DCI:
    """Modularity, compactness and explicitness of codes.

    A forest predicts each factor from the codes. The importance of a coordinate for a factor is that of the
    forest. Entropies of modularity are relative to that of equal shares of all factors, those of compactness
    to that of equal shares of all coordinates, as in the benchmark.

    Parameters
    ----------
    codes
        Shape ``(N, d)``.
    labels
        ``{factor: (N,)}``, at least two factors.
    test_codes, test_labels
        Those of other sequences.
    seed
        Of the forests and the intervals.

    Returns
    -------
    DCI

    Raises
    ------
    RepdynError
        If shapes or names do not match, a code is not finite, or there are fewer than two factors or
        coordinates.

    References
    ----------
    Eastwood, C. and Williams, C. (2018). A framework for the quantitative evaluation of disentangled
    representations. ICLR. Barami, T. et al. (2025), arXiv 2510.17313: groups of coordinates, and gradient
    boosting in place of forests.
    """
    from sklearn.ensemble import RandomForestClassifier

    x, new = _codes("codes", codes, labels), _codes("test_codes", test_codes, test_labels)
    if list(labels) != list(test_labels) or x.shape[1] != new.shape[1] or len(labels) < 2 or x.shape[1] < 2:
        raise RepdynError(
            "expected at least two factors and coordinates, the same for both parts, got "
            f"{list(labels)} with {x.shape[1]} coordinates and {list(test_labels)} with {new.shape[1]}"
        )
    rows = groups_of_equal_rows(new)
    columns, right = [], {}
    for name, label in labels.items():
        # Of all coordinates at each split: with a random few, also coordinates of no use have importance.
        forest = RandomForestClassifier(
            EVALUATION.trees,
            max_depth=EVALUATION.tree_depth,
            min_samples_leaf=3,
            max_features=None,
            random_state=seed,
        ).fit(x, as_array(label))
        columns.append(forest.feature_importances_)
        right[name] = (forest.predict(new) == as_array(test_labels[name])).astype(np.float64)
    importance = np.stack(columns, axis=1)
    names = tuple(labels)
    winner = importance.argmax(axis=1)
    members = [np.flatnonzero(winner == number) for number in range(len(names))]
    by_group = np.stack([importance[own].sum(axis=0) for own in members])  # (groups, factors)
    weight = by_group.sum(axis=1)
    modular = 1 - _entropy(by_group) / np.log(len(names))
    compact = 1 - _entropy(by_group.T) / np.log(x.shape[1])
    frequent = {
        name: float(np.unique(as_array(label), return_counts=True)[1].max() / len(new))
        for name, label in test_labels.items()
    }
    return DCI(
        names,
        {name: tuple(int(n) for n in own) for name, own in zip(names, members)},
        importance,
        float((modular * weight).sum() / weight.sum()) if weight.sum() else 0.0,
        float(compact.mean()),
        mean_of_groups(np.mean(list(right.values()), axis=0), rows, seed=seed),
        {name: mean_of_groups(values, rows, seed=seed) for name, values in right.items()},
        frequent,
    )


def _codes(name: str, codes: ArrayLike, labels: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Checked codes ``(N, d)``."""
    x = as_array(codes, np.float64)
    lengths = {factor: len(as_array(label)) for factor, label in labels.items()}
    if x.ndim != 2 or any(length != len(x) for length in lengths.values()):
        raise RepdynError(f"{name}: expected shape (N, d) and N labels, got {x.shape} and {lengths}")
    if not np.isfinite(x).all():
        raise RepdynError(f"{name}: row {int(np.argwhere(~np.isfinite(x))[0, 0])} is not finite")
    return x


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats of each row after it is scaled to sum to one; 0 for a row of zeros."""
    total = shares.sum(axis=1, keepdims=True)
    p = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    found: NDArray[np.float64] = -(p * logs).sum(axis=1)
    return found
