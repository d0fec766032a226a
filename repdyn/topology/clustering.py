"""The level-set tree as a clustering estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin

from repdyn.estimators import check_matrix
from repdyn.paths.columns import VectorColumn
from repdyn.topology.tree import LevelSetTree

__all__ = ["LevelSetClustering"]


class LevelSetClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Clusters of points: the leaves of the level-set tree of their density.

    An estimator of scikit-learn, for pipelines, ``clone`` and ``fit_predict``. Every point is assigned.

    Parameters
    ----------
    n_clusters
        Number of leaves, see :meth:`LevelSetTree.cut`. Default: those that ``persistence`` keeps.
    density, neighbors, persistence, seed
        As in :meth:`LevelSetTree.fit`. An array of log-densities fits one set of points only.

    Attributes
    ----------
    labels_
        Leaf of each point ``(N,)``, from 0, by falling height of the peak.
    tree_
        The :class:`LevelSetTree`.
    n_features_in_
        Width of the points.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> x[200:] += 8
    >>> np.bincount(LevelSetClustering().fit_predict(x)).tolist()
    [200, 200]
    """

    labels_: NDArray[np.int64]
    tree_: LevelSetTree

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        density: str | Callable[[NDArray[np.float64]], ArrayLike] | ArrayLike = "knn",
        neighbors: int = 15,
        persistence: float | None = None,
        seed: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.density = density
        self.neighbors = neighbors
        self.persistence = persistence
        self.seed = seed

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Build the tree of points ``(N, D)``.

        Parameters
        ----------
        X
            Points: an array, a tensor on any device, a data frame, or a point of a store. If a point of a
            store is too large, the tree has a sample of it (``tree_.rows``), and so have the labels.
        y
            Ignored.

        Returns
        -------
        Self

        Raises
        ------
        RepdynError
            On another shape, values that are not finite, or more clusters than the density has peaks.
        """
        if isinstance(X, VectorColumn):  # may be larger than memory
            points: Any = X
            self.n_features_in_ = X.width
            self.__dict__.pop("feature_names_in_", None)
        else:
            points = check_matrix(self, X, fitting=True)
        tree = LevelSetTree.fit(points, self.density, self.neighbors, self.persistence, self.seed)
        self.tree_ = tree if self.n_clusters is None else tree.prune(self.n_clusters)
        self.labels_ = self.tree_.assignment
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "tree_")
