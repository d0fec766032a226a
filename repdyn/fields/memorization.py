"""Are attractors copies of training samples? Measured beside what unseen samples score."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors
from repdyn.fields.field import LatentField
from repdyn.fields.starts import to_numpy, widened
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Memorization", "memorization"]

BLOCK = 2**24
"""Numbers in a block of the similarity matrix."""

EXCHANGES = 1999
"""Random exchanges of training and unseen samples."""
LEVEL = 0.002
"""Largest p-value of these that is called found; six samples of each kind can reach it."""
TOP = 40
"""Nearest samples of an attractor that an exchange looks at; all are of one kind in 1 of 2⁴⁰."""

_ESTIMATES = ("coefficient", "null", "to_test", "preference", "test_error")
_ARRAYS = ("similarity", "null_similarity", "nearest")


@dataclass(frozen=True, eq=False)
class Memorization:
    """How near attractors are to training samples, and how near anything else would be.

    Attributes
    ----------
    coefficient
        Mean over attractors of the cosine between the decoded attractor and its nearest training sample.
    null
        The same of unseen samples: what no memory at all scores.
    to_test
        Of attractors and their nearest unseen sample, from as many as there are training samples or fewer.
    preference
        How much nearer attractors are to training samples than to as many unseen ones, mean over attractors
        of the difference. A blurred average of many digits is near some training digit, and as near to some
        unseen one: it is no memory.
    weighted
        The coefficient with attractors weighted by the share of starts they hold.
    components
        Principal components that hold 90 % of the variance of the decoded attractors.
    test_error
        Fraction of variance unexplained of unseen samples after one encoding and decoding.
    similarity, null_similarity
        Of each attractor, shape ``(A,)``, and of each unseen sample, shape ``(M,)``.
    nearest
        Index of each attractor's nearest training sample, shape ``(A,)``.
    attractors
        The search, started from the codes of the training samples.
    verdict
        ``"found"``: the coefficient's interval lies above the null's, that of the preference above zero, and
        a preference as large is seen in at most .002 of random exchanges of training and unseen samples;
        ``"not found"``: the coefficient is not above the null's interval, or the preference not above zero;
        ``"inconclusive"``: intervals overlap, exchanges give as much, there are fewer than two attractors, or
        fewer than six samples of either kind.
    """

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
                f"  nearer to training than to unseen by   {self.preference}",
                f"  variance unexplained, unseen samples   {self.test_error}",
                f"  components for 90 % of the attractors' variance: {self.components}",
            ]
        )

    def plot(self) -> Figure:
        """How near attractors are to training samples, beside how near unseen samples are."""
        # plotly is slow to import: here, not with the room.
        from repdyn.views.memorization import memorization as picture

        return picture(self.similarity, self.null_similarity, self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """The figures, as plain values for ``--json``."""
        return {
            "verdict": self.verdict,
            "coefficient": self.coefficient.to_dict(),
            "null": self.null.to_dict(),
            "to_test": self.to_test.to_dict(),
            "preference": self.preference.to_dict(),
            "weighted": self.weighted,
            "components": self.components,
            "test_error": self.test_error.to_dict(),
            "attractors": self.attractors.to_dict(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"memorization"``."""
        attractors, tensors = self.attractors.record()
        config = {
            "verdict": self.verdict,
            "weighted": self.weighted,
            "components": self.components,
            "attractors": attractors,
            **{name: getattr(self, name).to_dict() for name in _ESTIMATES},
        }
        own = {f"own.{name}": getattr(self, name) for name in _ARRAYS}
        save_artifact(path, "memorization", config, {**tensors, **own})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Memorization:
        """Read what :meth:`save` wrote."""
        artifact = load_artifact(path, "memorization")
        config, tensors = artifact.config, dict(artifact.tensors)
        arrays: dict[str, Any] = {name: tensors.pop(f"own.{name}") for name in _ARRAYS}
        estimates: dict[str, Any] = {name: Estimate(**config[name]) for name in _ESTIMATES}
        return cls(
            weighted=float(config["weighted"]),
            components=int(config["components"]),
            attractors=Attractors.revive(config["attractors"], tensors),
            verdict=config["verdict"],
            **arrays,
            **estimates,
        )


def memorization(
    field: LatentField,
    train: Any,
    test: Any,
    *,
    max_starts: int = 1000,
    max_steps: int = 3000,
    seed: int = 0,
) -> Memorization:
    r"""The memorisation coefficient of an auto-encoder, beside its null.

    .. math:: \frac1A \sum_{a} \max_{x \in X_\text{train}} \cos(D(z^*_a), x)

    with attractors :math:`z^*_a` reached from the training codes. The paper prints a minimum where its words
    require this maximum. In high dimensions with non-negative data any sample has a near neighbour by
    cosine, so the figure means nothing without the same cosine of samples that were never trained on, nor
    without the attractors' cosine to these.

    Parameters
    ----------
    field
        From :meth:`LatentField.from_autoencoder`: it must know how to encode and decode.
    train, test
        Data as the encoder takes it, first axis the sample.
    max_starts
        Training samples that are followed, drawn at random. All serve as memories.
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
        raise RepdynError("field: has no encoder and decoder; make it with LatentField.from_autoencoder")
    train, test = (widened(field.encode, field.place(x)) for x in (train, test))
    if len(train) == 0 or len(test) == 0:
        raise RepdynError(f"train, test: need samples, got {len(train)} and {len(test)}")
    # Equal samples are looked at once: copies would narrow the intervals and fill a bank.
    once, once_test = (
        np.unique(groups_of_equal_rows(to_numpy(x.flatten(1))), return_index=True)[1] for x in (train, test)
    )
    train, test = train[torch.from_numpy(once)], test[torch.from_numpy(once_test)]
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(len(train), min(max_starts, len(train)), replace=False))
    with torch.no_grad():
        codes = field.encode(train[torch.from_numpy(chosen)])
        found = field.attractors(codes, max_steps=max_steps, seed=seed)
        decoded = field.decode(torch.from_numpy(found.points).to(codes))
        rebuilt = field.decode(field.encode(test))
    memories, unseen = _unit(train), _unit(test)
    null, _ = _nearest(unseen, memories)
    error = to_numpy(((rebuilt - test) ** 2).flatten(1).sum(1)).astype(np.float64)
    spread = float(((test - test.mean(dim=0)) ** 2).flatten(1).sum(1).mean())
    similarity, nearest = _nearest(_unit(decoded), memories)
    # More candidates have a nearer one among them: both banks are of one size.
    size = min(len(memories), len(unseen))
    alike = np.sort(generator.choice(len(memories), size, replace=False))
    drawn = np.sort(generator.choice(len(unseen), size, replace=False))
    to_train, _ = _nearest(_unit(decoded), memories[alike])
    to_test, _ = _nearest(_unit(decoded), unseen[drawn])
    coefficient, null_mean = _mean(similarity, seed), bootstrap_mean(null, seed=seed)
    preference = _mean(to_train - to_test, seed)
    held = found.basin_share
    verdict = "inconclusive"
    if len(found) >= 2 and coefficient.low > null_mean.high and preference.low > 0:
        # Started from both banks: attractors that no training code reaches are then not left out.
        both = torch.cat([train[torch.from_numpy(alike)], test[torch.from_numpy(drawn)]])
        starts = both[torch.from_numpy(generator.permutation(2 * size)[:max_starts])]
        with torch.no_grad():
            pooled = field.attractors(field.encode(starts), max_steps=max_steps, seed=seed)
            places = field.decode(torch.from_numpy(pooled.points).to(codes))
        bank = np.concatenate([memories[alike], unseen[drawn]])
        if _exchanged(_unit(places), bank, generator) <= LEVEL:
            verdict = "found"
    elif len(found) >= 2 and (coefficient.value <= null_mean.high or preference.value <= 0):
        verdict = "not found"
    return Memorization(
        coefficient=coefficient,
        null=null_mean,
        to_test=_mean(to_test, seed),
        preference=preference,
        weighted=float((similarity * held).sum() / held.sum()) if len(found) else float("nan"),
        components=_components(to_numpy(decoded.flatten(1)).astype(np.float64)),
        test_error=bootstrap_mean(error / max(spread, 1e-300), seed=seed),
        similarity=similarity,
        null_similarity=null,
        nearest=once[nearest],
        attractors=found,
        verdict=verdict,
    )


def _exchanged(
    places: NDArray[np.float64], bank: NDArray[np.float64], generator: np.random.Generator
) -> float:
    """P-value of the preference of attractors ``(A, D)`` for the first half of a bank ``(2 n, D)``.

    Training and unseen samples are exchanged at random. All attractors share both banks, so that an interval
    over attractors alone is too narrow.
    """
    if len(places) == 0:
        return 1.0
    half, top = len(bank) // 2, min(len(bank), TOP)
    size = max(1, BLOCK // len(bank))
    cosine, which = [], []
    for start in range(0, len(places), size):
        alike = places[start : start + size] @ bank.T
        order = np.argsort(-alike, axis=1)[:, :top]
        which.append(order)
        cosine.append(np.take_along_axis(alike, order, axis=1))
    values, rows = np.concatenate(cosine), np.concatenate(which)

    def preference(first: NDArray[np.bool_]) -> float:
        ours = first[rows]
        best = [np.take_along_axis(values, side.argmax(axis=1)[:, None], axis=1) for side in (ours, ~ours)]
        # An attractor whose nearest samples are all of one half has no second: the last is near enough.
        best = [
            np.where(s.any(axis=1, keepdims=True), b, values[:, -1:]) for b, s in zip(best, (ours, ~ours))
        ]
        return float((best[0] - best[1]).mean())

    own = np.arange(len(bank)) < half
    observed = preference(own)
    drawn = [preference(generator.permutation(own)) for _ in range(EXCHANGES)]
    return float((1 + np.sum(np.array(drawn) >= observed - 1e-12)) / (1 + EXCHANGES))


def _mean(values: NDArray[np.float64], seed: int) -> Estimate:
    nan = float("nan")
    return bootstrap_mean(values, seed=seed) if len(values) else Estimate(nan, nan, nan)


def _unit(x: torch.Tensor) -> NDArray[np.float64]:
    rows = to_numpy(x.flatten(1)).astype(np.float64)
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return unit


def _nearest(
    queries: NDArray[np.float64], bank: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest cosine of each query with the bank, and with which; by blocks, never all pairs at once."""
    value, which = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    rows = max(1, BLOCK // len(bank))
    for start in range(0, len(queries), rows):
        cosine = queries[start : start + rows] @ bank.T
        which[start : start + rows] = cosine.argmax(axis=1)
        value[start : start + rows] = cosine.max(axis=1)
    return value, which


def _components(points: NDArray[np.float64], share: float = 0.9) -> int:
    if len(points) < 2:
        return 0
    variance = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(variance) / max(float(variance.sum()), 1e-300), share - 1e-12) + 1)
