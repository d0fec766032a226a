"""Information in parts of the latents about factors that they should not carry."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.disentangle.factors import Factors
from repdyn.disentangle.settings import EVALUATION
from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

__all__ = ["Leakage", "coordinate_information", "leakage"]


@dataclass(frozen=True, eq=False, repr=False)
class Leakage(Result, kind="leakage"):
    """Information in each group of static factors about each factor of the data.

    Attributes
    ----------
    groups, factors
        Names of rows and columns.
    information
        Shape ``(groups, factors)``: a lower bound of the mutual information as a share of the factor's
        entropy, from 0 (a linear classifier reads nothing) to 1.
    """

    groups: tuple[str, ...]
    factors: tuple[str, ...]
    information: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Information by group and factor."""
        return {
            group: {name: round(float(value), 4) for name, value in zip(self.factors, row)}
            for group, row in zip(self.groups, self.information)
        }

    def __repr__(self) -> str:
        width = max(len(name) for name in self.groups)
        lines = [" " * (width + 2) + "".join(f"{name[:11]:>12}" for name in self.factors)]
        for name, row in zip(self.groups, self.information):
            lines.append(f"  {name:<{width}}" + "".join(f"{value:>12.3f}" for value in row))
        return "\n".join(["Leakage (information as a share of the entropy of each factor)", *lines])


def leakage(
    parts: Factors,
    groups: Mapping[str, str | Sequence[int]],
    labels: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
) -> Leakage:
    r"""Information of each group of parts about each factor of the data.

    The variational bound :math:`I(Z; Y) \ge H(Y) - \mathbb{E}[-\log q(y|z)]` with q a linear classifier of
    the flattened part, its cross-entropy measured out of fold, over :math:`H(Y)`.

    Parameters
    ----------
    parts
        Parts of sequences of one length.
    groups
        ``{name: parts}``: ``"static"``, ``"dynamic"`` or numbers of single static factors.
    labels
        ``{factor: (N,)}``, each class at least five times.
    seed
        Of the folds.

    References
    ----------
    Barber, D. and Agakov, F. (2003). The IM algorithm: a variational approach to information maximization.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not groups or not labels:
        raise RepdynError("groups, labels: expected at least one of each")
    table = np.zeros((len(groups), len(labels)))
    # Equal sequences are in one fold, so that no test sequence was in the training folds.
    groups_of_rows = groups_of_equal_rows(parts.latents)
    repeated = int(groups_of_rows.max()) + 1 < len(groups_of_rows)
    kind = StratifiedGroupKFold if repeated else StratifiedKFold
    folds = kind(EVALUATION.folds, shuffle=True, random_state=seed)
    for row, chosen in enumerate(groups.values()):
        x = parts.part(chosen).reshape(len(parts), -1)
        for column, (name, label) in enumerate(labels.items()):
            classes, y, count = np.unique(as_array(label), return_inverse=True, return_counts=True)
            if len(y) != len(x) or count.min() < EVALUATION.folds:
                raise RepdynError(
                    f"labels {name!r}: got {len(y)} for {len(x)} sequences, the rarest class {count.min()} "
                    f"times; each class is needed {EVALUATION.folds} times"
                )
            entropy = -(count / len(y) * np.log(count / len(y))).sum()
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a q that has not converged is still a bound
                chances = cross_val_predict(
                    model, x, y, groups=groups_of_rows if repeated else None, cv=folds, method="predict_proba"
                )
            # A probability of zero for the true class would make the bound infinite.
            loss = -np.log(chances[np.arange(len(y)), y].clip(1e-12)).mean()
            table[row, column] = max(0.0, float(1 - loss / entropy)) if len(classes) > 1 else 0.0
    return Leakage(tuple(groups), tuple(labels), table)


def coordinate_information(parts: Factors, *, seed: int = 0) -> NDArray[np.float64]:
    """Mutual information in nats between single static factors' values at the last frame.

    Kraskov's nearest-neighbor estimate for each pair, symmetrized. The diagonal is NaN. The value of a
    single factor is its latent coordinate, or the first principal coordinate of its mode.

    Parameters
    ----------
    parts
        Parts of sequences of one length.
    seed
        Of the estimator's tie-breaking noise.

    Returns
    -------
    ndarray
        Shape ``(count, count)``.

    References
    ----------
    Kraskov, A., Stögbauer, H. and Grassberger, P. (2004). Estimating mutual information. Phys. Rev. E 69.
    """
    from sklearn.feature_selection import mutual_info_regression

    if parts.modes is None:
        values = parts.static[:, -1]
    else:
        columns = []
        for mode in parts.modes[:, :, -1]:
            centered = mode - mode.mean(axis=0)
            # Its sign is arbitrary, which mutual information does not see.
            columns.append(centered @ np.linalg.svd(centered, full_matrices=False)[2][0])
        values = np.stack(columns, axis=1)
    count = values.shape[1]
    table = np.full((count, count), np.nan)
    for target in range(count):
        others = [n for n in range(count) if n != target]
        if others:
            table[others, target] = mutual_info_regression(
                values[:, others], values[:, target], random_state=seed
            )
    symmetric: NDArray[np.float64] = (table + table.T) / 2
    return symmetric
