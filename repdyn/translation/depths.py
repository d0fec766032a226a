"""Translations at several depths of two paths, and whether they agree along the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.results import Result
from repdyn.translation.coordinates import unit_rows
from repdyn.translation.linear import LinearTranslation

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PathTranslation"]

Floats = NDArray[np.float64]

PROBES = 1000
"""Points of either model on which agreement along the path is measured."""

NEIGHBORS = 10
"""Neighbours among B's points that a translated point keeps from one depth to the next, or loses."""


@dataclass(frozen=True, eq=False)
class PathTranslation(Result, kind="path_translation"):
    r"""One translation per depth, found together.

    Attributes
    ----------
    points
        Point of A and point of B at each depth.
    translations
        One per depth.
    along
        For neighbouring depths l, l + 1, the share of a translated point's ten nearest points of B that stay
        its nearest, shape ``(L - 1,)``:

        .. math:: \frac1n \sum_i \tfrac1{10}
                  \big| N_{10}(t_l(x_i^l)) \cap N_{10}(t_{l+1}(x_i^{l+1})) \big|

    own
        The same for B's own points: what agreement there is to be had. Chance is ten in the probes.
    """

    points: tuple[tuple[str, str], ...]
    translations: tuple[LinearTranslation, ...]
    along: Floats
    own: Floats

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
        order = generator.permutation(len(b[0]))
        half = min(PROBES, len(order) // 2)
        columns, others = order[:half], order[half : 2 * half]
        near, own = [], []
        for t, x, y in zip(translations, a, b):
            target = unit_rows(y[columns] - t.offset_b)
            near.append(_nearest(unit_rows(t(x[rows]) - t.offset_b), target))
            own.append(_nearest(unit_rows(y[others] - t.offset_b), target))
        return cls(tuple(points), tuple(translations), _kept(near), _kept(own))

    @property
    def verdict(self) -> str:
        """Of the last depth, which the others were found with."""
        return self.translations[-1].verdict

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
                "" if k == 0 else f", neighbours kept {self.along[k - 1]:.2f} (B's own {self.own[k - 1]:.2f})"
            )
            lines.append(f"  {of_a} -> {of_b}: confidence {t.confidence:.3f}{kept}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Confidence at each depth, with its interval where one was measured."""
        from repdyn.views.intervals import intervals  # plotly loads only when a picture is asked for

        nan = (float("nan"),) * 2
        found = {
            f"{of_a} → {of_b}": (t.confidence, *(t.interval or nan))
            for (of_a, of_b), t in zip(self.points, self.translations)
        }
        return intervals(f"Confidence of the translation at each depth: {self.verdict}", found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {**super().to_dict(), "along": self.along.tolist(), "own": self.own.tolist()}

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 kept a folder for each depth."""
        count = len(artifact.config["points"])
        loaded = [LinearTranslation.load(path / f"depth-{k}")._record() for k in range(count)]
        tensors = {
            f"translations.{k}.{name}": array
            for k, (_, own) in enumerate(loaded)
            for name, array in own.items()
        }
        config = {**artifact.config, "translations": [config for config, _ in loaded]}
        return replace(artifact, config=config, tensors={**artifact.tensors, **tensors})


def _nearest(points: NDArray[np.floating], among: NDArray[np.floating]) -> NDArray[np.int64]:
    count = min(NEIGHBORS, len(among))
    found: NDArray[np.int64] = np.argpartition(-(points @ among.T), count - 1, axis=1)[:, :count]
    return found


def _kept(near: Sequence[NDArray[np.int64]]) -> Floats:
    shares = []
    for one, other in pairwise(near):
        shared = (one[:, :, None] == other[:, None, :]).any(2)
        shares.append(float(shared.mean()) if shared.size else float("nan"))
    return np.array(shares, dtype=np.float64)
