"""Data that attractors recover: training samples (memorization), and real latents without data (probing)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import Artifact
from repdyn.devices import as_given
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors, upgraded_record
from repdyn.fields.field import LatentField
from repdyn.fields.map import widened
from repdyn.fields.settings import SEARCH, VERDICTS
from repdyn.fields.verification import merge_points
from repdyn.intervals import Estimate, bootstrap_mean, ratio_interval
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Memorization", "Probing", "memorization", "probe_without_data"]

BLOCK = 2**24
"""Numbers in a block of the similarity matrix."""

ATTRACTORS, ORTHOGONAL, NOISE = "attractors", "random orthogonal", "random latents"
ENDS = "ends of iteration"
PRINCIPAL, REAL = "principal components of data", "latents of data"


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
        decoded = field.decode(as_given(attractors.points, codes))
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
            decoded_pooled = field.decode(as_given(pooled.points, codes))
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
    half, top = len(bank) // 2, min(len(bank), VERDICTS.n_nearest)
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
    # Draws that reach the observed value within rounding count. One is added: a p-value is never zero.
    return float((1 + np.sum(np.array(drawn) >= observed - 1e-12)) / (1 + VERDICTS.n_exchanges))


def _mean(values: NDArray[np.float64], seed: int) -> Estimate:
    """Mean with its bootstrap interval; NaN for no values."""
    nan = float("nan")
    return bootstrap_mean(values, seed=seed) if len(values) else Estimate(nan, nan, nan)


def _unit(x: Tensor) -> NDArray[np.float64]:
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


@dataclass(frozen=True, eq=False)
class Probing(Result, kind="probing"):
    """Error of reconstructing held-out latents from few atoms, for several dictionaries.

    Attributes
    ----------
    atoms
        Numbers of atoms per target.
    error
        Fraction of variance unexplained of the latents, one estimate per number of atoms, for each
        dictionary. The first, ``"attractors"``, needs no data. If iteration reached none, the points where it
        stopped replace them, as ``"ends of iteration"``. Random orthogonal atoms and random latents are its
        controls. The last two are made from other real data and bound what is possible. Each dictionary has
        as many atoms as the first, or as many as there are dimensions if its atoms are orthogonal.
    decoded_error
        The same after decoding, or None without a decoder.
    sizes
        Number of atoms in each dictionary.
    attractors
        The search from noise.
    verdict
        ``"found"``: at the largest number of atoms, the error of the attractors is below both controls, with
        disjoint intervals. ``"not found"``: it is below neither, or there are no attractors.
        ``"inconclusive"``: otherwise.
    """

    figures: ClassVar = ("verdict", "atoms", "error", "decoded_error", "sizes", "attractors")

    atoms: tuple[int, ...]
    error: dict[str, tuple[Estimate, ...]]
    decoded_error: dict[str, tuple[Estimate, ...]] | None
    sizes: dict[str, int]
    attractors: Attractors
    verdict: str

    def __repr__(self) -> str:
        lines = [
            f"Probing without data: {self.verdict}; {len(self.attractors)} attractors from "
            f"{len(self.attractors.status)} random latents",
            "  variance of held-out latents unexplained, by atoms used",
            f"  {'':<34}" + "".join(f"{k:>8}" for k in self.atoms),
        ]
        for name, estimates in self.error.items():
            row = "".join(f"{e.value:8.3f}" for e in estimates)
            lines.append(f"  {name + f' ({self.sizes[name]})':<34.34}{row}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Error by number of atoms, for each dictionary."""
        # plotly is slow to import.
        from repdyn.views.probing import probing

        return probing(self.atoms, self.error, self.verdict)

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 kept the arrays of the attractors under their own names."""
        config = dict(artifact.config)
        config["attractors"], arrays = upgraded_record(
            config["attractors"], artifact.tensors, to="attractors."
        )
        return replace(artifact, config=config, tensors=arrays)


def probe_without_data(
    field: LatentField,
    decode: Callable[[Tensor], Tensor] | None,
    targets: Any,
    *,
    atoms: Sequence[int] = (1, 2, 4, 8, 16),
    starts: int = 1024,
    max_steps: int = 1000,
    seed: int = 0,
) -> Probing:
    r"""Reconstruct real latents from attractors that were reached from noise alone.

    .. math:: \min_{w} \Big\lVert z - \sum_a w_a z^*_a \Big\rVert^2 \quad \text{with at most } k
              \text{ weights other than zero}

    by orthogonal matching pursuit. Starts are standard normal, as in the paper, so no data enters the
    dictionary. Half of the targets define the two reference dictionaries (principal components, real
    latents). The other half is reconstructed.

    Parameters
    ----------
    field
        The map.
    decode
        Latents to data, for the error after decoding; or None.
    targets
        Latents of held-out data, shape ``(M, d)``.
    atoms
        Numbers of atoms. Those above the latent dimension or the number of attractors are left out, since a
        control with more atoms than attractors would have an advantage.
    starts
        Number of random latents that are followed.
    max_steps
        Plain steps allowed for each.
    seed
        Of the starts, the halves and the random dictionaries.

    Raises
    ------
    RepdynError
        On targets that are not ``(M, d)`` with at least 4 rows.

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, section 5; Pati, Rezaiifar, Krishnaprasad (1993). Orthogonal
    matching pursuit.
    """
    targets = widened(field, field.on_device(targets))
    if targets.ndim != 2 or len(targets) < 4:
        raise RepdynError(f"targets: expected shape (M, d) with M at least 4, got {tuple(targets.shape)}")
    d = targets.shape[1]
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((starts, d))
    attractors = field.attractors(as_given(noise, targets), max_steps=max_steps, seed=seed)
    values = as_array(targets).astype(np.float64)
    # Equal targets stay on one side: a dictionary that contains a target reconstructs it with one atom.
    groups = groups_of_equal_rows(values)
    known, held = parted_by_group(groups, len(targets) // 2, generator)
    reference, held_out, held_groups = values[known], values[held], groups[held]
    own = attractors.points if len(attractors) else _distinct_ends(attractors)
    size = len(own)
    dictionaries = {
        ATTRACTORS if len(attractors) else ENDS: own,
        ORTHOGONAL: np.linalg.qr(generator.standard_normal((d, d)))[0][:size],
        NOISE: noise[:size],
        PRINCIPAL: np.linalg.svd(reference, full_matrices=False)[2][:size],
        REAL: reference[:size],
    }
    allowed = tuple(k for k in atoms if 0 < k <= min(d, size))
    error: dict[str, tuple[Estimate, ...]] = {}
    decoded: dict[str, tuple[Estimate, ...]] = {}
    truth = None if decode is None else _decoded(decode, held_out, targets)
    for name, dictionary in track(list(dictionaries.items()), "reconstructing latents from few atoms"):
        rebuilt = [_pursue(dictionary, held_out, k) for k in allowed]
        error[name] = tuple(_unexplained(held_out, r, held_groups, seed) for r in rebuilt)
        if decode is not None and truth is not None:
            decoded[name] = tuple(
                _unexplained(truth, _decoded(decode, r, targets), held_groups, seed) for r in rebuilt
            )
    return Probing(
        atoms=allowed,
        error=error,
        decoded_error=decoded if decode is not None else None,
        sizes={name: len(dictionary) for name, dictionary in dictionaries.items()},
        attractors=attractors,
        verdict=_verdict(error, allowed, len(attractors)),
    )


def _distinct_ends(attractors: Attractors) -> NDArray[np.float64]:
    """Distinct points ``(K, d)`` at which the starts stopped."""
    leaders, _ = merge_points(attractors.ends, SEARCH.merge_tolerance * attractors.scale)
    return attractors.ends[leaders]


def _pursue(dictionary: NDArray[np.float64], targets: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Orthogonal matching pursuit of targets ``(M, d)`` by at most ``k`` rows of a dictionary ``(K, d)``.

    All targets are processed at once: each takes the atom most correlated with its residual, then the weights
    of all its atoms are fitted again. (scikit-learn's ``orthogonal_mp`` loops over targets.) A small ridge
    keeps the weights of redundant atoms finite.
    """
    norms = np.linalg.norm(dictionary, axis=1, keepdims=True)
    unit = (dictionary / np.maximum(norms, 1e-300))[norms[:, 0] > 0]
    rebuilt = np.zeros_like(targets)
    chosen = np.zeros((len(targets), 0), dtype=np.int64)
    taken = np.zeros((len(targets), len(unit)), dtype=bool)
    rows = np.arange(len(targets))
    for _ in range(min(k, len(unit))):
        correlation = np.where(taken, -1.0, np.abs((targets - rebuilt) @ unit.T))
        best = correlation.argmax(axis=1)
        taken[rows, best] = True
        chosen = np.concatenate([chosen, best[:, None]], axis=1)
        basis = unit[chosen]
        # Atoms that are nearly equal make the system singular.
        gram = basis @ basis.transpose(0, 2, 1) + 1e-10 * np.eye(chosen.shape[1])
        weights = np.linalg.solve(gram, basis @ targets[:, :, None])
        rebuilt = (weights * basis).sum(axis=1)
    return rebuilt


def _unexplained(
    truth: NDArray[np.float64], rebuilt: NDArray[np.float64], groups: NDArray[np.int64], seed: int
) -> Estimate:
    """Fraction of variance unexplained of ``truth`` ``(M, d)``, with an interval over groups of equal
    rows."""
    error = ((truth - rebuilt) ** 2).sum(axis=1)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=1)
    return ratio_interval(sums_by_group(groups, error), sums_by_group(groups, spread), seed=seed)


def _decoded(decode: Callable[[Tensor], Tensor], z: NDArray[np.float64], like: Tensor) -> NDArray[np.float64]:
    """Decoded latents ``(M, d)`` as rows ``(M, D)``, computed in the precision and on the device of
    ``like``."""
    with torch.no_grad():
        return as_array(decode(as_given(z, like)).flatten(1), np.float64)


def _verdict(error: dict[str, tuple[Estimate, ...]], atoms: tuple[int, ...], n_attractors: int) -> str:
    """Whether attractors reconstruct better than both controls at the largest number of atoms."""
    if not n_attractors or not atoms:
        return "inconclusive" if n_attractors else "not found"
    ours = error[ATTRACTORS][-1]
    beaten = [ours.high < error[name][-1].low for name in (ORTHOGONAL, NOISE)]
    return "found" if all(beaten) else "not found" if not any(beaten) else "inconclusive"
