"""Decompose depth: the operator that best advances observables by a step, and its certified spectrum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.koopman import resdmd
from repdyn.koopman.reading import checked_point, read_points
from repdyn.koopman.spectrum import KoopmanSpectrum
from repdyn.paths import RepresentationPaths, equal_samples, nearby
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["decompose", "spectrum"]

_BLOCKS = 50  # of samples; a bootstrap over blocks needs only sums of the blocks' Gram matrices
_LEVEL = 0.95
_HELD_BYTES = 2**29  # of representations (float32) and observables (float64) together


def spectrum(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    *,
    threshold: float = 0.1,
    resamples: int = 100,
    seed: int = 0,
) -> KoopmanSpectrum:
    """Spectrum of one step of depth on a Koopman autoencoder's observables.

    The operator is solved for on the observables of the given paths (extended dynamic mode decomposition
    with the learned encoder as dictionary), so that intervals over samples exist for every kind of
    operator.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder.
    paths
        At least twice as many pairs of neighbouring points as there are observables.
    threshold
        A pair with a larger residual is not called a Koopman eigenvalue.
    resamples
        Bootstrap replicates.
    seed
        Of the bootstrap.

    Returns
    -------
    KoopmanSpectrum
    """
    kae.check_paths(paths)
    paths = nearby(paths, _HELD_BYTES)
    if len(paths) * len(paths.points) * (4 * max(paths.widths.values()) + 8 * kae.latent_dim_) > _HELD_BYTES:
        return _streamed(kae, paths, threshold, resamples, seed)
    states = read_points(paths)
    z = np.stack([kae.encode(x.numpy(), point) for x, point in zip(states, paths.points)]).astype(np.float64)
    found = decompose(z, threshold=threshold, resamples=resamples, seed=seed)
    last = states[-1].double().numpy()
    rows = z[-1]
    return _read_out(found, rows.T @ rows, rows.T @ (last - last.mean(axis=0)))


def _read_out(
    found: KoopmanSpectrum, gram: NDArray[np.float64], cross: NDArray[np.float64]
) -> KoopmanSpectrum:
    """The modes as states at the last point: z = Σ (z v_k) w_k, and each w is read as a state."""
    readout = resdmd.solve(gram, cross)
    return replace(found, modes=resdmd.left_vectors(found.vectors) @ readout)


def _streamed(
    kae: KoopmanAutoencoder, paths: RepresentationPaths, threshold: float, resamples: int, seed: int
) -> KoopmanSpectrum:
    """The same from sums over paths that are read in parts."""
    points, d = len(paths.points), kae.latent_dim_
    _check_pairs((points - 1) * len(paths), points, d, resamples)
    blocks = _blocks_of(equal_samples(paths))
    where = np.empty(len(paths), dtype=np.int64)
    for number, rows in enumerate(blocks):
        where[rows] = number
    sums, total = np.zeros((len(blocks), 3, d, d)), np.zeros(d)
    gram, cross = np.zeros((d, d)), np.zeros((d, paths.widths[paths.points[-1]]))
    origin, last_total, reached = None, np.zeros(cross.shape[1]), np.zeros(d)
    for block in track(paths.iterate(), "adding up observables"):
        start = block.rows.start
        states = [checked_point(paths, point, block[point], start) for point in paths.points]
        z = np.stack([kae.encode(x, point) for x, point in zip(states, paths.points)]).astype(np.float64)
        for number in np.unique(own := where[start : block.rows.stop]):
            sums[number] += resdmd.moments(z[:, own == number])
        total += z[:-1].sum(axis=(0, 1))
        last = states[-1].astype(np.float64)
        origin = last.mean(axis=0) if origin is None else origin
        last -= origin
        gram, cross = gram + z[-1].T @ z[-1], cross + z[-1].T @ last
        last_total, reached = last_total + last.sum(axis=0), reached + z[-1].sum(axis=0)
    found = _certified(sums, total, points, len(paths), threshold, resamples, seed)
    return _read_out(found, gram, cross - np.outer(reached, last_total / len(paths)))


def decompose(
    z: NDArray[Any], *, threshold: float = 0.1, resamples: int = 100, seed: int = 0
) -> KoopmanSpectrum:
    """Spectrum of the operator that best advances observables by one step.

    ``K = (Ψ*Ψ + r I)^-1 Ψ*Ψ'`` over all steps of all samples.

    Parameters
    ----------
    z
        Observables of every point, shape ``(points, N, d)``.
    threshold
        Of the residual certificate.
    resamples
        Bootstrap replicates, over blocks of samples; at least 2.
    seed
        Of the bootstrap.

    Returns
    -------
    KoopmanSpectrum
        Its modes are those of the observables themselves.

    Raises
    ------
    RepdynError
        If there are not at least twice as many pairs as observables: every residual would then be small
        by construction.

    References
    ----------
    Colbrook, Ayton and Szőke (2023), Residual dynamic mode decomposition, J. Fluid Mech. 955, eq. (3.5).
    """
    z = as_array(z, dtype=np.float64)
    if z.ndim != 3 or len(z) < 2 or not np.isfinite(z).all():
        raise RepdynError(
            "observables must be finite, of shape (points, samples, d) with two points or more, "
            f"got {z.shape}"
        )
    points, samples, d = z.shape
    _check_pairs((points - 1) * samples, points, d, resamples)
    blocks = _blocks_of(groups_of_equal_rows(z.transpose(1, 0, 2)))
    sums = np.stack([resdmd.moments(z[:, rows]) for rows in blocks])
    total = z[:-1].reshape(-1, d).mean(axis=0) * ((points - 1) * samples)
    return _certified(sums, total, points, samples, threshold, resamples, seed)


def _check_pairs(pairs: int, points: int, d: int, resamples: int) -> None:
    if pairs < 2 * d:
        raise RepdynError(
            f"{pairs} pairs of observables cannot certify {d} eigenvalues; give at least {2 * d} "
            f"({-(-2 * d // (points - 1))} samples)"
        )
    if resamples < 2:
        raise RepdynError(f"resamples must be at least 2, for an interval, got {resamples}")


def _blocks_of(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Samples in blocks; equal ones in one, because copies would be judged by what they were found on."""
    different = int(groups.max()) + 1
    rows = np.argsort(groups, kind="stable") if different < len(groups) else np.arange(len(groups))
    return np.array_split(rows, min(_BLOCKS, different))


def _certified(
    sums: NDArray[np.float64],
    total: NDArray[np.float64],
    points: int,
    samples: int,
    threshold: float,
    resamples: int,
    seed: int,
) -> KoopmanSpectrum:
    """The spectrum from sums over blocks of samples, ``(blocks, 3, d, d)``, and over all before a step."""
    pairs, d = (points - 1) * samples, sums.shape[-1]
    found = sums.sum(axis=0) / pairs
    operator, values, vectors = resdmd.eigenpairs(found)
    drawn = resdmd.resample(sums, values, resamples, seed)
    ends = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    modulus = np.quantile(np.abs(drawn.values), ends, axis=0)
    # Angles are measured from the estimate's, so that an interval across the negative axis stays whole.
    turns = np.angle(drawn.values * values.conj()) / (2 * np.pi)
    frequency = np.angle(values) / (2 * np.pi) + np.quantile(turns, ends, axis=0)
    seen = resdmd.residuals(found, values, vectors) * np.sqrt(pairs / (pairs - d))
    # Where every block was drawn in every replicate nothing was left to judge on: nothing is certified.
    judged = np.isfinite(drawn.unseen).all(axis=1)
    unseen = (
        np.quantile(drawn.unseen[judged], ends[1], axis=0) if judged.any() else np.full(len(values), np.inf)
    )
    mean = (total / pairs) @ vectors
    square = (vectors.conj() * (found[0] @ vectors)).sum(axis=0).real
    return KoopmanSpectrum(
        eigenvalues=values,
        radius=np.quantile(np.abs(drawn.values - values), _LEVEL, axis=0),
        modulus_low=modulus[0],
        modulus_high=modulus[1],
        frequency_low=frequency[0],
        frequency_high=frequency[1],
        residuals=seen,
        residuals_high=np.maximum(seen, unseen),
        variation=np.clip(1 - np.abs(mean) ** 2 / np.maximum(square, 1e-300), 0.0, 1.0),
        threshold=threshold,
        vectors=vectors,
        modes=resdmd.left_vectors(vectors),
        operator=operator,
        gram=found[0],
        cross=found[1],
        after=found[2],
        condition=resdmd.condition_number(found[0]),
        pairs=pairs,
        steps=points - 1,
    )
