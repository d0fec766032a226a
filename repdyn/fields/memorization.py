"""Whether attractors are copies of training samples, compared with unseen samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors, upgraded_record
from repdyn.fields.field import LatentField
from repdyn.fields.map import widened
from repdyn.fields.settings import VERDICTS
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Memorization", "memorization"]

BLOCK = 2**24
"""Numbers in a block of the similarity matrix."""

N_NEAREST = 40
"""Nearest samples of an attractor that an exchange uses. All are of one kind with probability 1 in 2⁴⁰."""


@dataclass(frozen=True, eq=False)
class Memorization(Result, kind="memorization"):
    """Similarity of attractors to training samples, compared with unseen samples.

    Attributes
    ----------
    coefficient
        Mean over attractors of the cosine between the decoded attractor and its nearest training sample.
    null
        The same mean over unseen samples instead of attractors: the value without memorization.
    to_test
        Mean cosine between the attractors and their nearest unseen sample. Both banks are of one size.
    preference
        Mean over attractors of the difference between the cosine to the nearest training sample and to the
        nearest of as many unseen samples. A blurred average of many digits is equally close to some training
        digit and to some unseen one, so it does not count as memorized.
    weighted
        The coefficient, with attractors weighted by the share of starts in their basins.
    components
        Number of principal components with 90 % of the variance of the decoded attractors.
    test_error
        Fraction of variance unexplained of unseen samples after one encoding and decoding.
    similarity, null_similarity
        Largest cosine of each attractor, shape ``(A,)``, and of each unseen sample, shape ``(M,)``, to a
        training sample.
    nearest
        Index of each attractor's nearest training sample, shape ``(A,)``.
    attractors
        The search, started from the codes of the training samples.
    verdict
        ``"found"``: the interval of the coefficient lies above that of the null, the interval of the
        preference lies above zero, and at most .002 of random exchanges of training and unseen samples reach
        the preference. ``"not found"``: the coefficient is not above the interval of the null, or the
        preference is not above zero. ``"inconclusive"``: anything else, such as fewer than two attractors or
        fewer than six samples of either kind.
    """

    figures: ClassVar = (
        "verdict", "coefficient", "null", "to_test", "preference", "weighted", "components", "test_error",
        "attractors",
    )  # fmt: skip

    coefficient: Estimate
    null: Estimate
    to_test: Estimate
    preference: Estimate
    weighted: float
    components: int
    test_error: Estimate
    similarity: NDArray[np.float64]
    null_similarity: NDArray[np.float64]
    nearest: NDArray[np.int64]
    attractors: Attractors
    verdict: str

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"Memorization: {self.verdict}, {len(self.attractors)} attractors",
                f"  cosine to the nearest training sample  {self.coefficient}",
                f"  the same, weighted by basins           {self.weighted:.3f}",
                f"  null: of unseen samples                {self.null}",
                f"  cosine to the nearest unseen sample    {self.to_test}",
                f"  cosine to training minus to unseen     {self.preference}",
                f"  variance unexplained, unseen samples   {self.test_error}",
                f"  components for 90 % of the attractors' variance: {self.components}",
            ]
        )

    def plot(self) -> Figure:
        """Similarity of attractors, and of unseen samples, to training samples."""
        # plotly is slow to import.
        from repdyn.views.memorization import memorization as picture

        return picture(self.similarity, self.null_similarity, self.verdict)

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 kept the arrays of the attractors beside its own, which were prefixed."""
        config = dict(artifact.config)
        config["attractors"], arrays = upgraded_record(
            config["attractors"], artifact.tensors, to="attractors."
        )
        own = {
            name.removeprefix("own."): array
            for name, array in artifact.tensors.items()
            if name.startswith("own.")
        }
        return replace(artifact, config=config, tensors={**arrays, **own})


def memorization(
    field: LatentField,
    train: Any,
    test: Any,
    *,
    max_starts: int = 1000,
    max_steps: int = 3000,
    seed: int = 0,
) -> Memorization:
    r"""The memorization coefficient of an autoencoder, and its null.

    .. math:: \frac1A \sum_{a} \max_{x \in X_\text{train}} \cos(D(z^*_a), x)

    with attractors :math:`z^*_a` reached from the training codes. (The formula of the paper has a minimum,
    its text requires this maximum.) In high dimensions with non-negative data, every sample has a neighbor
    with a large cosine. The coefficient is therefore compared with the same cosine of unseen samples, and
    with the cosine of the attractors to unseen samples.

    Parameters
    ----------
    field
        From :meth:`LatentField.from_autoencoder`: it must know how to encode and decode.
    train, test
        Data as the encoder takes it, first axis the sample.
    max_starts
        Number of training samples that are followed, drawn at random. All serve as candidates for memories.
    max_steps
        Plain steps allowed for each.
    seed
        Of the draw and the bootstrap.

    Raises
    ------
    RepdynError
        If the field has no encoder and decoder, or there is no sample.

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, section 4; Radhakrishnan, Belkin, Uhler (2020), PNAS 117.
    """
    if field.encode is None or field.decode is None:
        raise RepdynError("field: has no encoder and decoder; create it with LatentField.from_autoencoder")
    train, test = (widened(field.encode, field.on_device(x)) for x in (train, test))
    if len(train) == 0 or len(test) == 0:
        raise RepdynError(f"train, test: expected at least one sample each, got {len(train)} and {len(test)}")
    # Equal samples count once: copies would narrow the intervals and dominate a bank.
    once, once_test = (
        np.unique(groups_of_equal_rows(as_array(x.flatten(1))), return_index=True)[1] for x in (train, test)
    )
    train, test = train[torch.from_numpy(once)], test[torch.from_numpy(once_test)]
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(len(train), min(max_starts, len(train)), replace=False))
    with torch.no_grad():
        codes = field.encode(train[torch.from_numpy(chosen)])
        attractors = field.attractors(codes, max_steps=max_steps, seed=seed)
        decoded = field.decode(torch.from_numpy(attractors.points).to(codes))
        rebuilt = field.decode(field.encode(test))
    memories, unseen = _unit(train), _unit(test)
    null, _ = _nearest(unseen, memories)
    error = as_array(((rebuilt - test) ** 2).flatten(1).sum(1), np.float64)
    spread = float(((test - test.mean(dim=0)) ** 2).flatten(1).sum(1).mean())
    similarity, nearest = _nearest(_unit(decoded), memories)
    # A larger bank has a closer nearest sample, so both banks are of one size.
    size = min(len(memories), len(unseen))
    kept = np.sort(generator.choice(len(memories), size, replace=False))
    drawn = np.sort(generator.choice(len(unseen), size, replace=False))
    to_train, _ = _nearest(_unit(decoded), memories[kept])
    to_test, _ = _nearest(_unit(decoded), unseen[drawn])
    coefficient, null_mean = _mean(similarity, seed), bootstrap_mean(null, seed=seed)
    preference = _mean(to_train - to_test, seed)
    share = attractors.basin_share
    verdict = "inconclusive"
    if len(attractors) >= 2 and coefficient.low > null_mean.high and preference.low > 0:
        # Starts from both banks, so that attractors that no training code reaches are included.
        both = torch.cat([train[torch.from_numpy(kept)], test[torch.from_numpy(drawn)]])
        starts = both[torch.from_numpy(generator.permutation(2 * size)[:max_starts])]
        with torch.no_grad():
            pooled = field.attractors(field.encode(starts), max_steps=max_steps, seed=seed)
            decoded_pooled = field.decode(torch.from_numpy(pooled.points).to(codes))
        bank = np.concatenate([memories[kept], unseen[drawn]])
        if _exchange_p_value(_unit(decoded_pooled), bank, generator) <= VERDICTS.memorization_p:
            verdict = "found"
    elif len(attractors) >= 2 and (coefficient.value <= null_mean.high or preference.value <= 0):
        verdict = "not found"
    return Memorization(
        coefficient=coefficient,
        null=null_mean,
        to_test=_mean(to_test, seed),
        preference=preference,
        weighted=float((similarity * share).sum() / share.sum()) if len(attractors) else float("nan"),
        components=_components(as_array(decoded.flatten(1), np.float64)),
        test_error=bootstrap_mean(error / max(spread, 1e-300), seed=seed),
        similarity=similarity,
        null_similarity=null,
        nearest=once[nearest],
        attractors=attractors,
        verdict=verdict,
    )


def _exchange_p_value(
    attractors: NDArray[np.float64], bank: NDArray[np.float64], generator: np.random.Generator
) -> float:
    """P-value of the preference of decoded attractors ``(A, D)`` for the first half of a bank ``(2 n, D)``.

    Rows have unit length. The null exchanges training and unseen samples at random. All attractors share both
    banks, so an interval over attractors alone would be too narrow.
    """
    if len(attractors) == 0:
        return 1.0
    half, top = len(bank) // 2, min(len(bank), N_NEAREST)
    size = max(1, BLOCK // len(bank))
    cosine, which = [], []
    for start in range(0, len(attractors), size):
        products = attractors[start : start + size] @ bank.T
        order = np.argsort(-products, axis=1)[:, :top]
        which.append(order)
        cosine.append(np.take_along_axis(products, order, axis=1))
    values, rows = np.concatenate(cosine), np.concatenate(which)

    def preference(first: NDArray[np.bool_]) -> float:
        """Mean difference of the largest cosine to the marked half ``(2 n,)`` and to the other half."""
        ours = first[rows]
        best = [np.take_along_axis(values, side.argmax(axis=1)[:, None], axis=1) for side in (ours, ~ours)]
        # If all nearest samples are of one half, the last of them bounds the cosine to the other half.
        best = [
            np.where(s.any(axis=1, keepdims=True), b, values[:, -1:]) for b, s in zip(best, (ours, ~ours))
        ]
        return float((best[0] - best[1]).mean())

    own = np.arange(len(bank)) < half
    observed = preference(own)
    drawn = [preference(generator.permutation(own)) for _ in range(VERDICTS.n_exchanges)]
    return float((1 + np.sum(np.array(drawn) >= observed - 1e-12)) / (1 + VERDICTS.n_exchanges))


def _mean(values: NDArray[np.float64], seed: int) -> Estimate:
    """Mean with its bootstrap interval; NaN for no values."""
    nan = float("nan")
    return bootstrap_mean(values, seed=seed) if len(values) else Estimate(nan, nan, nan)


def _unit(x: torch.Tensor) -> NDArray[np.float64]:
    """Samples as rows ``(N, D)`` of unit length, float64."""
    rows = as_array(x.flatten(1)).astype(np.float64)
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return unit


def _nearest(
    queries: NDArray[np.float64], bank: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest cosine of each query ``(Q, D)`` with a bank ``(B, D)``, and its index, ``(Q,)`` each; in
    blocks."""
    value, which = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    rows = max(1, BLOCK // len(bank))
    for start in range(0, len(queries), rows):
        cosine = queries[start : start + rows] @ bank.T
        which[start : start + rows] = cosine.argmax(axis=1)
        value[start : start + rows] = cosine.max(axis=1)
    return value, which


def _components(points: NDArray[np.float64], share: float = 0.9) -> int:
    """Number of principal components of ``points`` ``(A, D)`` that reach this share of the variance."""
    if len(points) < 2:
        return 0
    variance = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(variance) / max(float(variance.sum()), 1e-300), share - 1e-12) + 1)
