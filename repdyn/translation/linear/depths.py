"""Translations at several depths of two paths, and their agreement along the path."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.results import Result
from repdyn.translation.coordinates import unit_rows
from repdyn.translation.linear.maps import LinearTranslation

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PathTranslation"]

Floats = NDArray[np.float64]

PROBES = 1000  # points of either model on which agreement along the path is measured; not studied
NEIGHBORS = 10  # nearest points of B that are compared between depths; not studied


@dataclass(frozen=True, eq=False)
class PathTranslation(Result, kind="path_translation"):
    r"""One translation per depth, found together.

    Attributes
    ----------
    points
        Point of A and point of B at each depth.
    translations
        One per depth.
    path_agreement
        For neighboring depths l, l + 1, the share of a translated point's ten nearest points of B that are
        its nearest at both, shape ``(L - 1,)``:

        .. math:: \frac1n \sum_i \tfrac1{10}
                  \big| N_{10}(t_l(x_i^l)) \cap N_{10}(t_{l+1}(x_i^{l+1})) \big|

    self_agreement
        The same for B's own points, which is the ceiling. Chance is ten over the number of probes.
    """

    points: tuple[tuple[str, str], ...]
    translations: tuple[LinearTranslation, ...]
    path_agreement: Floats
    self_agreement: Floats

    @classmethod
    def of(
        cls,
        points: Sequence[tuple[str, str]],
        translations: Sequence[LinearTranslation],
        a: Sequence[Floats],
        b: Sequence[Floats],
        seed: int,
    ) -> PathTranslation:
        """Measure the agreement along the path of translations of points a, per depth, to points b."""
        generator = np.random.default_rng(seed)
        rows = generator.permutation(len(a[0]))[:PROBES]
        # A copy among the points that are searched would be nearest at every depth.
        columns, others = parted_by_group(groups_of_equal_rows(b[0]), len(b[0]) // 2, generator)
        half = min(PROBES, len(columns), len(others))
        columns, others = columns[:half], others[:half]
        near, own = [], []
        for t, x, y in zip(translations, a, b):
            target = unit_rows(y[columns] - t.offset_b)
            near.append(_nearest(unit_rows(t(x[rows]) - t.offset_b), target))
            own.append(_nearest(unit_rows(y[others] - t.offset_b), target))
        return cls(tuple(points), tuple(translations), _kept(near), _kept(own))

    @property
    def verdict(self) -> str:
        """The verdict of the last depth, which holds for the match of all depths."""
        return self.translations[-1].verdict

    @property
    def along(self) -> Floats:
        """Deprecated: :attr:`path_agreement`."""
        return _renamed(self.path_agreement, "along", "path_agreement")

    @property
    def own(self) -> Floats:
        """Deprecated: :attr:`self_agreement`."""
        return _renamed(self.self_agreement, "own", "self_agreement")

    def __len__(self) -> int:
        return len(self.translations)

    def __getitem__(self, points: tuple[str, str]) -> LinearTranslation:
        """The translation between two points."""
        if points not in self.points:
            raise RepdynError(f"path translation: has no pair of points {points}; it has {list(self.points)}")
        return self.translations[self.points.index(points)]

    def __repr__(self) -> str:
        lines = [f"PathTranslation at {len(self)} depths, verdict {self.verdict!r}"]
        for k, ((of_a, of_b), t) in enumerate(zip(self.points, self.translations)):
            kept = (
                ""
                if k == 0
                else f", neighbors kept {self.path_agreement[k - 1]:.2f} (of B's own "
                f"{self.self_agreement[k - 1]:.2f})"
            )
            lines.append(f"  {of_a} -> {of_b}: confidence {t.confidence:.3f}{kept}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Confidence at each depth, with its interval where one was measured."""
        from repdyn.views.intervals import intervals  # loads plotly

        nan = (float("nan"),) * 2
        found = {
            f"{of_a} → {of_b}": (t.confidence, *(t.interval or nan))
            for (of_a, of_b), t in zip(self.points, self.translations)
        }
        return intervals(f"Confidence of the translation at each depth: {self.verdict}", found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        agreement = {"path_agreement": self.path_agreement.tolist()}
        agreement["self_agreement"] = self.self_agreement.tolist()
        # The names of version 0.1 stay for one release.
        old = {"along": agreement["path_agreement"], "own": agreement["self_agreement"]}
        return {**super().to_dict(), **agreement, **old}

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 wrote a folder for each depth, and other names."""
        count = len(artifact.config["points"])
        loaded = [LinearTranslation.load(path / f"depth-{k}")._record() for k in range(count)]
        tensors = {
            f"translations.{k}.{name}": array
            for k, (_, arrays) in enumerate(loaded)
            for name, array in arrays.items()
        }
        config = {**artifact.config, "translations": [config for config, _ in loaded]}
        own = dict(artifact.tensors)
        own["path_agreement"], own["self_agreement"] = own.pop("along"), own.pop("own")
        return replace(artifact, config=config, tensors={**own, **tensors})


def _renamed(value: Floats, old: str, new: str) -> Floats:
    message = f"PathTranslation.{old} was renamed {new} and will be removed in the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return value


def _nearest(points: NDArray[np.floating], among: NDArray[np.floating]) -> NDArray[np.int64]:
    """Numbers of the ten nearest rows of ``among`` ``(M, D)`` for each point ``(N, D)``, ``(N, 10)``."""
    count = min(NEIGHBORS, len(among))
    found: NDArray[np.int64] = np.argpartition(-(points @ among.T), count - 1, axis=1)[:, :count]
    return found


def _kept(near: Sequence[NDArray[np.int64]]) -> Floats:
    """Share of nearest points that two consecutive depths have in common, ``(L - 1,)``."""
    shares = []
    for one, other in pairwise(near):
        shared = (one[:, :, None] == other[:, None, :]).any(2)
        shares.append(float(shared.mean()) if shared.size else float("nan"))
    return np.array(shares, dtype=np.float64)
