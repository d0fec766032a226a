"""Representation paths with depth as time: the part that is constant in depth, and where the label is.

:func:`depth_factors` compares linear probes on the static and the dynamic part; :func:`depth_swaps` exchanges
static parts between inputs and runs the rest of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.devices import to
from repdyn.disentangle.factors import Factors
from repdyn.disentangle.sequences import Sequences
from repdyn.disentangle.swaps import Decomposition, exchange
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, mean_of_groups, ratio_interval
from repdyn.koopman.frames import PointFrames
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["SPLITS", "DepthFactors", "DepthModel", "Head", "depth_factors", "depth_swaps", "rank_splits"]

SPLITS = ("spectral", "random", "mean components")
Head = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Maps representations ``(N, width)``, in the order of the paths, to logits ``(N, classes)``."""
_PARTS = ("static", "dynamic")
_WIDEST_NAME = 16  # characters of a point in the printed table


class DepthModel(Decomposition, Protocol):
    """A model of paths, such as SKD, that splits them into static and dynamic parts."""

    static_dim: int
    frames_: PointFrames | None

    def encode(self, sequences: Any) -> Any:
        """Latents of paths."""

    def reconstruct(self, sequences: Any) -> Any:
        """Paths in the shared state space after encoding and decoding."""

    def read(self, sequences: Any) -> Sequences:
        """Paths in the shared state space."""


@dataclass(frozen=True, eq=False, repr=False)
class DepthFactors(Result, kind="depth factors"):
    """The part of paths that is constant in depth, compared with other splits of the same rank.

    Attributes
    ----------
    points
        Names of the points, in order of depth.
    static_share
        Variance of the static part relative to the sum of both parts, for each split.
    explained
        Fraction of variance of the paths that the autoencoder explains. The rest is in neither part.
    probes
        ``{split: {part: one Estimate for each point}}``: accuracy of a linear probe for the label, on test
        paths. Splits: ``"spectral"``, the model's; ``"random"``, onto a random subspace of the same rank;
        ``"mean components"``, onto the leading principal components of the mean over depth.
    swaps
        ``{split: {"receiver", "donor": Estimate}}``: how often the prediction of the head, at the last point
        after static parts were exchanged between inputs, equals that for the one or for the other input. None
        without a head.
    majority
        Share of the most frequent label: the accuracy of a constant prediction.
    advantage
        Accuracy of the static probe at the last point minus that of the better control.
    """

    figures: ClassVar = (
        "verdict", "points", "static_share", "explained", "majority", "advantage", "probes", "swaps",
    )  # fmt: skip

    points: tuple[str, ...]
    static_share: Mapping[str, Estimate]
    explained: Estimate
    probes: Mapping[str, Mapping[str, tuple[Estimate, ...]]]
    swaps: Mapping[str, Mapping[str, Estimate]] | None
    majority: float
    advantage: Estimate

    @property
    def verdict(self) -> str:
        """``"found"``: the label is read better from the static part than from both controls of its rank."""
        if self.advantage.low > 0:
            return "found"
        return "not found" if self.advantage.high < 0 else "inconclusive"

    def plot(self) -> go.Figure:
        """Probe accuracy at each depth from either part, and the controls."""
        from repdyn.views.depth_factors import depth_factors

        return depth_factors(self.points, self.probes, self.majority, self.verdict)

    def __repr__(self) -> str:
        names = [f"{split}, {part}" for split in self.probes for part in _PARTS]
        width = max(map(len, names))
        # Points differ at the end of their names, so that long names are cut at the front.
        shown = [
            point if len(point) <= _WIDEST_NAME else "…" + point[1 - _WIDEST_NAME :] for point in self.points
        ]
        column = max(9, *map(len, shown)) + 2
        lines = [" " * (width + 4) + "".join(f"{name:>{column}}" for name in shown)]
        for split, parts in self.probes.items():
            for part, row in parts.items():
                lines.append(
                    f"    {f'{split}, {part}':<{width}}"
                    + "".join(f"{value.value:>{column}.3f}" for value in row)
                )
        for split, sides in (self.swaps or {}).items():
            followed = ", ".join(f"{side} {value}" for side, value in sides.items())
            lines.append(f"  after a swap of static parts ({split}), the head predicts as for the {followed}")
        share = ", ".join(f"{split} {value}" for split, value in self.static_share.items())
        return "\n".join(
            [
                f"DepthFactors: {self.verdict}",
                f"  variance explained by the autoencoder {self.explained}",
                f"  static share of that variance: {share}",
                f"  accuracy of a linear probe for the label (most frequent label: {self.majority:.3f})",
                *lines,
                f"  static probe minus the better control, last point: {self.advantage}",
            ]
        )


def depth_factors(
    model: DepthModel,
    test: RepresentationPaths,
    train: RepresentationPaths,
    head: Head | None = None,
    *,
    seed: int = 0,
) -> DepthFactors:
    """The part of a network's paths that is constant in depth, and whether the label can be read from it.

    Parameters
    ----------
    model
        A model fitted to paths of the same network.
    test
        Labeled paths that the model was not fitted to.
    train
        Labeled paths on which probes and controls are fitted.
    head
        The head of the network: from representations at the last point ``(N, width)`` to logits
        ``(N, classes)``.
    seed
        Of the random split, the swapped pairs and the intervals.

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
    fitted, test_parts = (rank_splits(model, train, paths, seed) for paths in (train, test))
    values = as_array(model.read(test).values)
    groups = groups_of_equal_rows(values)
    correct, probes = _probes(
        fitted, test_parts, np.asarray(train.labels), np.asarray(test.labels), seed, groups
    )
    y = np.asarray(test.labels)
    unexplained = ((model.reconstruct(test) - values) ** 2).sum(axis=(1, 2))
    whole = ((values - values.mean(axis=0)) ** 2).sum(axis=(1, 2))
    best = max(SPLITS[1:], key=lambda split: float(correct[split].mean()))
    return DepthFactors(
        test.points,
        {split: _share(parts, seed, groups) for split, parts in test_parts.items()},
        _explained(unexplained, whole, seed, groups),
        probes,
        None if head is None else depth_swaps(model, test, train, head, seed=seed),
        float(np.unique(y, return_counts=True)[1].max() / len(y)),
        mean_of_groups(correct["spectral"] - correct[best], groups, seed=seed),
    )


def depth_swaps(
    model: DepthModel,
    test: RepresentationPaths,
    train: RepresentationPaths,
    head: Head,
    *,
    point: str | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Predictions of the rest of the network after inputs have exchanged their static parts.

    Latents are decoded at the point, before and after the exchange, and ``head`` predicts from both. Only
    pairs with different predictions before the exchange are counted.

    Parameters
    ----------
    model
        A model fitted to paths of the same network.
    test
        Paths that the model was not fitted to.
    train
        Paths that it was fitted to. The split by principal components is computed on them.
    head
        The rest of the network from the point on. At the last point: its head. At an earlier point: for each
        row, the representation shifted by the change of its pooled value, through ``TracedModel.run_from``.
    point
        Name of the point; default: the last.
    seed
        Of the random split, the pairs and the intervals.

    Returns
    -------
    dict
        ``{split: {"receiver", "donor": Estimate}}``: how often the prediction equals that for the one or
        for the other input, for the split of the model and for its controls of the same rank.

    Raises
    ------
    RepdynError
        If the point does not exist, or the head predicts the same for every input.
    """
    point = test.points[-1] if point is None else point
    if point not in test.points:
        raise RepdynError(f"point: there is no {point!r}; {nearest_names(point, test.points)}")
    depth = list(test.points).index(point)
    splits = rank_splits(model, train, test, seed)
    return {split: _followed(model, parts, head, depth, seed) for split, parts in splits.items()}


def rank_splits(
    model: DepthModel, train: RepresentationPaths, paths: RepresentationPaths, seed: int
) -> dict[str, Factors]:
    """The split of the latents by the model, and two controls of the same rank that ignore the spectrum."""
    own = model.factors(paths)
    z = own.latents
    mean = model.encode(train).mean(axis=1).astype(np.float64)
    components = np.linalg.svd(mean - mean.mean(axis=0), full_matrices=False)[2][: model.static_dim]
    drawn = np.random.default_rng(seed).standard_normal((z.shape[2], model.static_dim))
    random = np.linalg.qr(drawn)[0].T
    splits = {"spectral": own}
    for name, axes in zip(SPLITS[1:], (random, components)):
        static = (z @ (axes.T @ axes)).astype(np.float32)
        splits[name] = Factors(static, z - static, own.mask)
    return splits


def _followed(model: DepthModel, parts: Factors, head: Head, depth: int, seed: int) -> dict[str, Estimate]:
    """How often the head predicts as for the receiver and as for the donor, after an exchange at
    ``depth``."""
    assert model.frames_ is not None
    frames = model.frames_
    other = np.random.default_rng(seed).permutation(len(parts))
    other = np.where(other == np.arange(len(parts)), (other + 1) % len(parts), other)

    def predicted(latents: NDArray[np.float32]) -> NDArray[np.int64]:
        """Classes ``(N,)`` that the head predicts from latents ``(N, T, k)`` decoded at the depth."""
        state = to(torch.from_numpy(model.decode(latents)[:, depth]), frames.scale.device)
        logits = as_array(head(as_array(frames.lower(state, depth))))
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    before = predicted(parts.latents)
    after = predicted(exchange(parts, parts.take(other), "static")[0])
    # Equal predictions before the exchange cannot be distinguished after it.
    differs = before != before[other]
    if not differs.any():
        raise RepdynError(
            "head: predicts the same class for every reconstructed input, so swaps have no effect"
        )
    # Pairs of equal inputs are one group.
    alike = groups_of_equal_rows(parts.latents)
    pairs = groups_of_equal_rows(np.stack([alike, alike[other]], axis=1), 0)[differs]
    return {
        "receiver": mean_of_groups((after == before)[differs], pairs, seed=seed),
        "donor": mean_of_groups((after == before[other])[differs], pairs, seed=seed),
    }


def _probes(
    fitted: Mapping[str, Factors],
    test_parts: Mapping[str, Factors],
    labels: NDArray[Any],
    test_labels: NDArray[Any],
    seed: int,
    groups: NDArray[np.int64],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, dict[str, tuple[Estimate, ...]]]]:
    """Whether the static probe of the last point is right ``(N,)``, for each split; and all accuracies."""
    right: dict[str, NDArray[np.float64]] = {}
    table: dict[str, dict[str, tuple[Estimate, ...]]] = {}
    for split, parts in test_parts.items():
        table[split] = {}
        for part in _PARTS:
            x, new = fitted[split].part(part), parts.part(part)
            rows = [_probe(x[:, t], labels, new[:, t], test_labels) for t in range(x.shape[1])]
            table[split][part] = tuple(mean_of_groups(row, groups, seed=seed) for row in rows)
            if part == "static":
                right[split] = rows[-1]
    return right, table


def _probe(
    x: NDArray[np.float32], labels: NDArray[Any], new: NDArray[np.float32], test_labels: NDArray[Any]
) -> NDArray[np.float64]:
    """1 where a ridge classifier, fitted to ``x`` ``(N, k)``, is right about ``new`` ``(M, k)``; shape
    ``(M,)``."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = make_pipeline(StandardScaler(), RidgeClassifier()).fit(x, labels).predict(new)
    return np.asarray(predicted == test_labels, dtype=np.float64)


def _explained(
    unexplained: NDArray[Any], whole: NDArray[Any], seed: int, groups: NDArray[np.int64]
) -> Estimate:
    """Fraction of variance explained, from squared errors and deviations ``(N,)``."""
    rest = _ratio(unexplained, whole, seed, groups)
    return Estimate(1 - rest.value, 1 - rest.high, 1 - rest.low, rest.level)


def _ratio(part: NDArray[Any], whole: NDArray[Any], seed: int, groups: NDArray[np.int64]) -> Estimate:
    """Ratio of two sums over inputs ``(N,)``; equal inputs are resampled together."""
    return ratio_interval(sums_by_group(groups, part), sums_by_group(groups, whole), seed=seed)


def _share(parts: Factors, seed: int, groups: NDArray[np.int64]) -> Estimate:
    """Variance of the static part relative to the sum of both parts, equal inputs as one group."""
    static, dynamic = (x - x.mean(axis=(0, 1)) for x in (parts.static, parts.dynamic))
    sums = [(x.astype(np.float64) ** 2).sum(axis=(1, 2)) for x in (static, dynamic)]
    whole = sums[0] + sums[1]
    if not whole.sum() > 0:
        return Estimate(0.0, 0.0, 0.0)
    # The interval of the smaller part: its logarithm is closer to normal.
    if sums[0].sum() > sums[1].sum():
        return _explained(sums[1], whole, seed, groups)
    return _ratio(sums[0], whole, seed, groups)
