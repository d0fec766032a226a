"""Representation paths with depth as time: what stays through depth, and which part carries the label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.disentangle.depth_swaps import SPLITS, Head, depth_swaps, rank_splits
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups, ratio_interval
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.disentangle.factors import Factors
    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["DepthFactors", "depth_factors"]

_PARTS = ("static", "dynamic")


@dataclass(frozen=True, eq=False, repr=False)
class DepthFactors:
    """What stays through depth, beside what splits of the same rank would say.

    Attributes
    ----------
    points
        Names, in order of depth.
    static_share
        Variance of the static part over that of both parts, for each split.
    explained
        Share of the paths' variance that the autoencoder reconstructs; what it does not is in no part.
    probes
        ``{split: {part: one Estimate for each point}}``: accuracy of a linear probe for the label, on test
        paths. Splits: ``"spectral"``, the model's; ``"random"``, onto a random subspace of the same rank;
        ``"mean components"``, onto the leading principal components of the mean over depth.
    swaps
        ``{split: {"receiver", "donor": Estimate}}``: how often the head, given the last point after static
        parts were exchanged between inputs, says what it said of the one or of the other. None without a
        head.
    majority
        Share of the most frequent label: what a probe that knows nothing scores.
    advantage
        Accuracy of the static probe at the last point less that of the better control's.
    """

    points: tuple[str, ...]
    static_share: Mapping[str, Estimate]
    explained: Estimate
    probes: Mapping[str, Mapping[str, tuple[Estimate, ...]]]
    swaps: Mapping[str, Mapping[str, Estimate]] | None
    majority: float
    advantage: Estimate

    @property
    def verdict(self) -> str:
        """``"found"``: the static part tells more of the label than either control of its rank."""
        if self.advantage.low > 0:
            return "found"
        return "not found" if self.advantage.high < 0 else "inconclusive"

    def to_dict(self) -> dict[str, Any]:
        """All figures, for ``--json``."""
        swaps = self.swaps
        return {
            "verdict": self.verdict,
            "points": list(self.points),
            "static_share": {split: share.to_dict() for split, share in self.static_share.items()},
            "explained": self.explained.to_dict(),
            "majority": self.majority,
            "advantage": self.advantage.to_dict(),
            "probes": {
                split: {part: [value.to_dict() for value in row] for part, row in parts.items()}
                for split, parts in self.probes.items()
            },
            "swaps": None
            if swaps is None
            else {
                split: {side: value.to_dict() for side, value in sides.items()}
                for split, sides in swaps.items()
            },
        }

    def plot(self) -> go.Figure:
        """Probe accuracy at each depth from either part, beside the controls."""
        from repdyn.views.depth_factors import depth_factors

        return depth_factors(self.points, self.probes, self.majority, self.verdict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder."""
        save_artifact(path, "depth factors", self.to_dict(), {})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> DepthFactors:
        """Read what :meth:`save` wrote."""
        found = load_artifact(path, "depth factors").config
        try:
            swaps = found["swaps"]
            return cls(
                tuple(found["points"]),
                {split: Estimate(**share) for split, share in found["static_share"].items()},
                Estimate(**found["explained"]),
                {
                    split: {part: tuple(Estimate(**value) for value in row) for part, row in parts.items()}
                    for split, parts in found["probes"].items()
                },
                None
                if swaps is None
                else {
                    split: {side: Estimate(**value) for side, value in sides.items()}
                    for split, sides in swaps.items()
                },
                found["majority"],
                Estimate(**found["advantage"]),
            )
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: its config.json is not that of depth factors ({error})") from None

    def __repr__(self) -> str:
        names = [f"{split}, {part}" for split in self.probes for part in _PARTS]
        width = max(map(len, names))
        lines = [" " * (width + 4) + "".join(f"{point[-10:]:>11}" for point in self.points)]
        for split, parts in self.probes.items():
            for part, row in parts.items():
                lines.append(
                    f"    {f'{split}, {part}':<{width}}" + "".join(f"{value.value:>11.3f}" for value in row)
                )
        for split, sides in (self.swaps or {}).items():
            said = ", ".join(f"the {side}'s {value}" for side, value in sides.items())
            lines.append(f"  static parts swapped ({split}), the head says {said}")
        share = ", ".join(f"{split} {value}" for split, value in self.static_share.items())
        return "\n".join(
            [
                f"DepthFactors: {self.verdict}",
                f"  reconstructed share of variance {self.explained}",
                f"  static share of it: {share}",
                f"  label read by a linear probe (always the commonest: {self.majority:.3f})",
                *lines,
                f"  static probe less the better control's, last point: {self.advantage}",
            ]
        )


def depth_factors(
    model: StructuredKoopman,
    test: RepresentationPaths,
    train: RepresentationPaths,
    head: Head | None = None,
    *,
    seed: int = 0,
) -> DepthFactors:
    """What of a network's paths stays through depth, and whether that part carries the label.

    Parameters
    ----------
    model
        Fitted to paths of the same network.
    test
        Labelled paths, not those it was fitted to.
    train
        Labelled paths to fit probes and controls on.
    head
        From representations at the last point ``(N, width)`` to logits ``(N, classes)``: the real model's.
    seed
        Of the random split, the pairs that are swapped and the intervals.

    Returns
    -------
    DepthFactors

    Raises
    ------
    RepdynError
        If labels are missing, or the model was not fitted to paths.
    """
    if model.frames_ is None:
        raise RepdynError("this model was not fitted to representation paths; fit it to some")
    for name, paths in (("test", test), ("train", train)):
        if paths.labels is None:
            raise RepdynError(f"the {name} paths have no labels; trace them with labels")
    fitted, found = (rank_splits(model, train, paths, seed) for paths in (train, test))
    values = as_array(model.read(test).values)
    groups = groups_of_equal_rows(values)
    answers, probes = _probes(fitted, found, np.asarray(train.labels), np.asarray(test.labels), seed, groups)
    y = np.asarray(test.labels)
    unexplained = ((model.reconstruct(test) - values) ** 2).sum(axis=(1, 2))
    whole = ((values - values.mean(axis=0)) ** 2).sum(axis=(1, 2))
    best = max(SPLITS[1:], key=lambda split: float(answers[split].mean()))
    return DepthFactors(
        test.points,
        {split: _share(parts, seed, groups) for split, parts in found.items()},
        _explained(unexplained, whole, seed, groups),
        probes,
        None if head is None else depth_swaps(model, test, train, head, seed=seed),
        float(np.unique(y, return_counts=True)[1].max() / len(y)),
        mean_of_groups(answers["spectral"] - answers[best], groups, seed=seed),
    )


def _probes(
    fitted: Mapping[str, Factors],
    found: Mapping[str, Factors],
    labels: NDArray[Any],
    wanted: NDArray[Any],
    seed: int,
    groups: NDArray[np.int64],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, dict[str, tuple[Estimate, ...]]]]:
    """Which test labels the static probe of the last point gets right, and all accuracies."""
    right: dict[str, NDArray[np.float64]] = {}
    table: dict[str, dict[str, tuple[Estimate, ...]]] = {}
    for split, parts in found.items():
        table[split] = {}
        for part in _PARTS:
            x, new = fitted[split].some(part), parts.some(part)
            rows = [_probe(x[:, t], labels, new[:, t], wanted) for t in range(x.shape[1])]
            table[split][part] = tuple(mean_of_groups(row, groups, seed=seed) for row in rows)
            if part == "static":
                right[split] = rows[-1]
    return right, table


def _probe(
    x: NDArray[np.float32], labels: NDArray[Any], new: NDArray[np.float32], wanted: NDArray[Any]
) -> NDArray[np.float64]:
    """A ridge classifier in closed form: 1 where it is right."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    called = make_pipeline(StandardScaler(), RidgeClassifier()).fit(x, labels).predict(new)
    return np.asarray(called == wanted, dtype=np.float64)


def _explained(
    unexplained: NDArray[Any], whole: NDArray[Any], seed: int, groups: NDArray[np.int64]
) -> Estimate:
    found = _ratio(unexplained, whole, seed, groups)
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.level)


def _ratio(part: NDArray[Any], whole: NDArray[Any], seed: int, groups: NDArray[np.int64]) -> Estimate:
    """Equal inputs are resampled as one."""
    return ratio_interval(sums_by_group(groups, part), sums_by_group(groups, whole), seed=seed)


def _share(parts: Factors, seed: int, groups: NDArray[np.int64]) -> Estimate:
    static, dynamic = (x - x.mean(axis=(0, 1)) for x in (parts.static, parts.dynamic))
    sums = [(x.astype(np.float64) ** 2).sum(axis=(1, 2)) for x in (static, dynamic)]
    whole = sums[0] + sums[1]
    if not whole.sum() > 0:
        return Estimate(0.0, 0.0, 0.0)
    # The interval of the smaller part: its logarithm is the better behaved.
    if sums[0].sum() > sums[1].sum():
        return _explained(sums[1], whole, seed, groups)
    return _ratio(sums[0], whole, seed, groups)
