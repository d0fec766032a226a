"""The spectrum of depth: eigenvalues with intervals, each certified by its residual on unseen samples.

:func:`spectrum` decomposes an autoencoder's observables, :func:`decompose` given ones; the linear algebra is
in :mod:`repdyn.koopman.resdmd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.deprecation import renamed_arguments
from repdyn.devices import double
from repdyn.errors import RepdynError
from repdyn.koopman import resdmd
from repdyn.koopman.interfaces import FittedAutoencoder
from repdyn.koopman.settings import VERDICTS, SpectrumSettings
from repdyn.koopman.states import checked_point, read_points
from repdyn.paths import RepresentationPaths, equal_samples, nearby
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["KoopmanSpectrum", "decompose", "spectrum"]

Complex = NDArray[Any]
Real = NDArray[np.float64]

_SETTINGS = SpectrumSettings()


@dataclass(frozen=True, eq=False)
class KoopmanSpectrum(Result, kind="spectrum"):
    """Eigenvalues of the operator of one step of depth, on learned or given observables.

    Pairs are sorted by modulus, largest first. A pair is certified if its residual on unseen samples stays
    below the threshold and all points share one frame. Other pairs may be artifacts of the dictionary and are
    not called Koopman eigenvalues. Where every point has a frame of its own, because their widths differ, the
    frames take a rotation and a scale out of each step: eigenvalues are relative to the frames, no pair is
    certified as a property of depth, and ``consistent`` says which pairs hold in the frames.

    Attributes
    ----------
    eigenvalues
        ``λ``, shape ``(d,)``, complex, of one step.
    radius
        Radius of the disc about each ``λ`` with 95 % of its bootstrap replicates over samples, ``(d,)``.
    modulus_low, modulus_high
        95 % bootstrap interval of each ``|λ|``, shape ``(d,)``.
    frequency_low, frequency_high
        95 % interval of each frequency, in turns per step, shape ``(d,)``.
    residuals
        ``|Ψ' v - λ Ψ v| / |Ψ v|`` of each pair, shape ``(d,)``, corrected for the ``d`` parameters fitted.
    residuals_high
        97.5 % quantile of each residual over bootstrap replicates, each evaluated on the samples that it did
        not draw, shape ``(d,)``. It decides the certificate.
    variation
        Share of each eigenfunction's mean square over samples that is variance, shape ``(d,)``. The
        constant function is an eigenfunction of every system, with ``λ = 1``, and carries no information.
    threshold
        Largest certified residual.
    vectors
        Columns ``v``, ``K v = λ v``: the eigenfunction is ``x -> E(x) v``. Shape ``(d, d)``.
    modes
        Mode of each eigenfunction in last-point coordinates, from a ridge regression of the states on the
        observables. Shape ``(d, width)``.
    operator
        ``K``, shape ``(d, d)``; observables are rows, ``z' ≈ z K``.
    gram, cross, after
        ``Ψ*Ψ``, ``Ψ*Ψ'``, ``Ψ'*Ψ'`` over the number of pairs, each ``(d, d)``.
    condition
        Condition number of the Gram matrix. Past 1e12, trailing eigenvalues are rounding.
    pairs, steps
        Number of pairs of observables, and of steps of the path.
    frame_rotation, frame_scale
        Only where points have frames of their own: the mean rotation that the frames take out of each step,
        in turns (not a number where two widths differ), and the factor by which they divide its growth, each
        of shape ``(steps,)``.
    """

    eigenvalues: Complex
    radius: Real
    modulus_low: Real
    modulus_high: Real
    frequency_low: Real
    frequency_high: Real
    residuals: Real
    residuals_high: Real
    variation: Real
    threshold: float
    vectors: Complex
    modes: Complex
    operator: Real
    gram: Real
    cross: Real
    after: Real
    condition: float
    pairs: int
    steps: int
    frame_rotation: Real | None = None
    frame_scale: Real | None = None

    @property
    def relative(self) -> bool:
        """Whether eigenvalues are relative to frames that differ between points."""
        return self.frame_scale is not None

    @property
    def consistent(self) -> NDArray[np.bool_]:
        """Whether the residual of each pair on unseen samples is below the threshold, shape ``(d,)``."""
        return self.residuals_high <= self.threshold

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Whether each pair is certified as a property of depth, ``(d,)``; none is in frames that differ."""
        return self.consistent & (not self.relative)

    @property
    def koopman_eigenvalues(self) -> Complex:
        """The certified eigenvalues."""
        return self.eigenvalues[self.certified]

    @property
    def sensitivity(self) -> Real:
        """Condition number of each eigenvalue, ``|w| |v| / |w v|``: 1 for a normal operator, shape ``(d,)``.

        A change of the operator by ``e`` (spectral norm) changes the eigenvalue by up to ``e`` times this.

        References
        ----------
        Trefethen and Embree (2005), Spectra and Pseudospectra, section 52.
        """
        left = resdmd.left_vectors(self.vectors)
        condition: Real = np.linalg.norm(left, axis=1) * np.linalg.norm(self.vectors, axis=0)
        return condition

    @property
    def frequencies(self) -> Real:
        """Frequencies in turns per step, ``arg λ / 2π``, shape ``(d,)``."""
        return np.angle(self.eigenvalues) / (2 * np.pi)

    @property
    def decay_rates(self) -> Real:
        """Decay rates per step, ``-log |λ|``, shape ``(d,)``; negative for growing modes."""
        return -np.log(np.maximum(np.abs(self.eigenvalues), 1e-300))

    @property
    def henrici(self) -> float:
        """Departure from normality, ``sqrt(|K|_F^2 - Σ|λ|^2) / |K|_F``: 0 for a normal operator, below 1.

        References
        ----------
        Trefethen and Embree (2005), Spectra and Pseudospectra, section 48.
        """
        square = float(np.square(self.operator).sum())
        departure = max(0.0, square - float(np.square(np.abs(self.eigenvalues)).sum()))
        return float(np.sqrt(departure / square)) if square > 0 else 0.0

    @renamed_arguments(places="points")
    def pseudospectrum(self, points: Complex) -> Real:
        """Smallest residual of any observable at points of the complex plane.

        ``min_v |Ψ' v - λ Ψ v| / |Ψ v|``. A small value marks an approximate eigenvalue, whether or not the
        operator has one there.

        Parameters
        ----------
        points
            Complex numbers ``λ``, any shape.

        Returns
        -------
        ndarray
            Residuals, of the shape of ``points``.

        References
        ----------
        Colbrook and Townsend (2024), Rigorous data-driven computation of spectral properties of Koopman
        operators, algorithm 2.
        """
        return resdmd.pseudospectrum(np.stack([self.gram, self.cross, self.after]), points)

    def clusters(self) -> list[NDArray[np.intp]]:
        """Groups of eigenvalues whose 95 % discs overlap, with their conjugates.

        The data cannot distinguish the eigenvalues of a cluster. Its single eigenvectors are not meaningful;
        the :meth:`projector` onto the whole cluster is.
        """
        return resdmd.overlapping(self.eigenvalues, self.radius)

    def projector(self, members: Sequence[int] | NDArray[np.intp]) -> Complex:
        """Riesz projector onto some eigenvalues, shape ``(d, d)``: ``z P`` is their part of the observables.

        Parameters
        ----------
        members
            Numbers of eigenvalues, such as one of :meth:`clusters`.

        Raises
        ------
        RepdynError
            If the set is empty, or separates eigenvalues that coincide.
        """
        return resdmd.spectral_projector(self.operator, self.eigenvalues[np.asarray(members, dtype=np.intp)])

    def eigenfunctions(self, z: NDArray[Any]) -> Complex:
        """Values of the eigenfunctions ``(…, d)`` at observables ``(…, d)`` of ``kae.encode``."""
        return as_array(z, dtype=np.float64) @ self.vectors

    def __repr__(self) -> str:
        count, clusters = len(self.eigenvalues), len(self.clusters())
        lines = [
            f"KoopmanSpectrum: {int(self.certified.sum())} of {count} eigenvalues certified "
            f"(residual on unseen samples <= {self.threshold:g}), from {self.pairs} pairs",
        ]
        if self.frame_scale is not None and self.frame_rotation is not None:
            turns, scale = self.frame_rotation, self.frame_scale
            known = turns[np.isfinite(turns)]
            rotation = f"up to {known.max():.3f} turns" if len(known) else "of points of other widths"
            lines += [
                f"  relative to frames: {int(self.consistent.sum())} of {count} pairs hold in these frames, "
                "none is a property of depth",
                f"  every point has its own frame; the frames take a rotation ({rotation}) and a factor "
                f"({scale.min():.3g} to {scale.max():.3g}) out of each step",
            ]
        lines += [
            f"  departure from normality {self.henrici:.2f}, condition number {self.condition:.0e}, "
            f"{clusters} distinguishable cluster{'s' * (clusters != 1)}",
        ]
        if self.condition > VERDICTS.ill_condition:
            lines.append(
                "  ill-conditioned: the observables are nearly dependent, and trailing pairs come from "
                "rounding"
            )
        sensitive = int((self.sensitivity > VERDICTS.sensitive).sum())
        if sensitive:
            lines.append(
                f"  sensitive eigenvalues (a change of the operator is amplified over {VERDICTS.sensitive:g} "
                f"times): {sensitive}; read clusters and the pseudospectrum, not single pairs"
            )
        lines.append("  |λ|                     turns/step               residual (up to)")
        for k in range(min(8, len(self.eigenvalues))):
            held = "  (relative to frames)" if self.relative and self.consistent[k] else "  (not certified)"
            notes = "" if self.certified[k] else held
            notes += "  (constant)" if self.variation[k] < VERDICTS.constant_variation else ""
            lines.append(
                f"  {abs(self.eigenvalues[k]):.3f} [{self.modulus_low[k]:.3f}, {self.modulus_high[k]:.3f}]"
                f"{self.frequencies[k]:9.3f} [{self.frequency_low[k]:6.3f}, {self.frequency_high[k]:6.3f}]"
                f"{self.residuals[k]:9.3f} ({self.residuals_high[k]:.3f}){notes}"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot eigenvalues in the complex plane and the magnitude of each mode against depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.spectrum import spectrum as draw

        return draw(
            self.eigenvalues,
            self.residuals_high,
            self.threshold,
            self.modulus_low,
            self.modulus_high,
            self.steps,
            self.relative,
        )

    def plot_pseudospectrum(self, resolution: int = 41) -> go.Figure:
        """Plot the smallest residual over the complex plane, with the eigenvalues.

        Parameters
        ----------
        resolution
            Points on each axis; each point costs one eigenvalue of a ``(d, d)`` matrix.
        """
        from repdyn.views.spectrum import pseudospectrum as draw

        reach = 1.15 * max(1.0, float(np.abs(self.eigenvalues).max()))
        real = np.linspace(-reach, reach, resolution)
        # The pseudospectrum of a real operator is symmetric about the real axis: half of it is computed.
        upper = np.linspace(0, reach, resolution // 2 + 1)
        half = self.pseudospectrum(real[None] + 1j * upper[:, None])
        grid = np.concatenate([half[:0:-1], half])
        imaginary = np.concatenate([-upper[:0:-1], upper])
        return draw(real, imaginary, grid, self.eigenvalues, self.certified)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "eigenvalues": [[float(v.real), float(v.imag)] for v in self.eigenvalues],
            "modulus": [
                {"value": float(abs(v)), "low": float(a), "high": float(b)}
                for v, a, b in zip(self.eigenvalues, self.modulus_low, self.modulus_high)
            ],
            "frequency": [
                {"value": float(v), "low": float(a), "high": float(b)}
                for v, a, b in zip(self.frequencies, self.frequency_low, self.frequency_high)
            ],
            "radius": self.radius.tolist(),
            "residuals": self.residuals.tolist(),
            "residuals_high": self.residuals_high.tolist(),
            "variation": self.variation.tolist(),
            "sensitivity": self.sensitivity.tolist(),
            "clusters": [rows.tolist() for rows in self.clusters()],
            "certified": int(self.certified.sum()),
            "relative": self.relative,
            "consistent": int(self.consistent.sum()),
            "frame_rotation": _plain(self.frame_rotation),
            "frame_scale": _plain(self.frame_scale),
            "threshold": self.threshold,
            "henrici": self.henrici,
            "condition": self.condition,
            "pairs": self.pairs,
        }


def spectrum(
    kae: FittedAutoencoder,
    paths: RepresentationPaths,
    *,
    threshold: float = 0.1,
    resamples: int = 100,
    phase: int | None = None,
    seed: int = 0,
) -> KoopmanSpectrum:
    """Spectrum of one step of depth on a Koopman autoencoder's observables.

    The operator is solved for on the observables of the given paths: extended dynamic mode decomposition
    with the learned encoder and the constant as dictionary. Intervals over samples thus exist for every kind
    of operator. The mean of each point is removed: eigenvalues say how the difference of two inputs evolves,
    and a mean that moves with depth changes none of them.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder.
    paths
        Paths with at least twice as many pairs of neighboring points as there are observables.
    threshold
        Largest residual of a certified pair.
    resamples
        Bootstrap replicates.
    phase
        Number of a phase of an autoencoder with ``operator="piecewise"``, from 0 on: the spectrum of its
        steps alone, with modes at its last point. Default: all steps.
    seed
        Seed of the bootstrap.

    Returns
    -------
    KoopmanSpectrum

    Raises
    ------
    RepdynError
        If there is no such phase, or there are too few pairs.
    """
    kae.check_paths(paths)
    ends = (*kae.phase_starts_[1:], len(paths.points) - 1)
    if phase is not None and not 0 <= phase < len(ends):
        raise RepdynError(
            f"phase must be the number of one of {len(ends)} phases, 0 to {len(ends) - 1}, got {phase}; fit "
            "with operator='piecewise' to find phases"
        )
    first, last_step = (0, ends[-1]) if phase is None else (kae.phase_starts_[phase], ends[phase])
    points = paths.points[first : last_step + 1]
    paths = nearby(paths, _SETTINGS.held_bytes)
    if (
        len(paths) * len(points) * (4 * max(paths.widths[p] for p in points) + 8 * kae.latent_dim_)
        > _SETTINGS.held_bytes
    ):
        return _streamed(kae, paths, points, threshold, resamples, seed)
    states = read_points(paths, points)
    z = np.stack([kae.encode(as_array(x), point) for x, point in zip(states, points)]).astype(np.float64)
    z -= z.mean(axis=1, keepdims=True)
    result = _in_frames(decompose(z, threshold=threshold, resamples=resamples, seed=seed), kae, points)
    last = as_array(double(states[-1]))
    rows = z[-1]
    return _with_modes(result, rows.T @ rows, rows.T @ (last - last.mean(axis=0)))


def _in_frames(result: KoopmanSpectrum, kae: FittedAutoencoder, points: tuple[str, ...]) -> KoopmanSpectrum:
    """The spectrum with the rotation and scale of the autoencoder's frames, where these are not one frame."""
    frames = kae.frames_
    if not frames.relative:
        return result
    first, last = (kae.points_.index(point) for point in (points[0], points[-1]))
    scale = as_array(frames.scale, np.float64)[first : last + 1]
    turns = frames.rotations()[first:last]
    return replace(result, frame_rotation=turns, frame_scale=scale[1:] / scale[:-1])


def _plain(values: Real | None) -> list[float | None] | None:
    """A list for JSON, with ``None`` for what is not a number."""
    return None if values is None else [float(v) if np.isfinite(v) else None for v in values]


def _with_modes(
    result: KoopmanSpectrum, gram: NDArray[np.float64], cross: NDArray[np.float64]
) -> KoopmanSpectrum:
    """The spectrum with modes as last-point states.

    ``z = Σ (z v_k) w_k`` with the left eigenvectors ``w_k``, each mapped to a state by ridge regression.

    Parameters
    ----------
    result
        A spectrum.
    gram, cross
        ``Z'Z`` of last-point observables, ``(d, d)``, and their product with centered states, ``(d, width)``.
    """
    readout = resdmd.solve(gram, cross)
    return replace(result, modes=resdmd.left_vectors(result.vectors) @ readout)


def _streamed(
    kae: FittedAutoencoder,
    paths: RepresentationPaths,
    names: tuple[str, ...],
    threshold: float,
    resamples: int,
    seed: int,
) -> KoopmanSpectrum:
    """The spectrum of steps between these points, from sums over paths that are read in parts."""
    points, d = len(names), kae.latent_dim_
    _check_pairs((points - 1) * len(paths), points, d, resamples)
    blocks = _blocks_of(equal_samples(paths))
    block_of = np.empty(len(paths), dtype=np.int64)
    for number, rows in enumerate(blocks):
        block_of[rows] = number
    sums, total = np.zeros((len(blocks), 3, d, d)), np.zeros((len(blocks), points, d))
    gram, cross = np.zeros((d, d)), np.zeros((d, paths.widths[names[-1]]))
    origin, last_total, z_total = None, np.zeros(cross.shape[1]), np.zeros(d)
    for block in track(paths.iterate(names), "adding up observables"):
        start = block.rows.start
        states = [checked_point(paths, point, block[point], start) for point in names]
        z = np.stack([kae.encode(x, point) for x, point in zip(states, names)]).astype(np.float64)
        for number in np.unique(own := block_of[start : block.rows.stop]):
            sums[number] += resdmd.moments(z[:, own == number])
            total[number] += z[:, own == number].sum(axis=1)
        last = states[-1].astype(np.float64)
        origin = last.mean(axis=0) if origin is None else origin
        last -= origin
        gram, cross = gram + z[-1].T @ z[-1], cross + z[-1].T @ last
        last_total, z_total = last_total + last.sum(axis=0), z_total + z[-1].sum(axis=0)
    mean = total.sum(axis=0) / len(paths)
    sizes = np.array([len(rows) for rows in blocks])
    sums = np.stack([_centered(*one, mean) for one in zip(sums, total, sizes)])
    gram -= len(paths) * np.outer(mean[-1], mean[-1])
    result = _certified(sums, np.zeros(d), points, len(paths), threshold, resamples, seed)
    return _with_modes(
        _in_frames(result, kae, names), gram, cross - np.outer(z_total, last_total / len(paths))
    )


def _centered(moments: Real, total: Real, samples: int, mean: Real) -> Real:
    """Moments ``(3, d, d)`` of samples about the mean of every point ``(points, d)``.

    ``total`` holds the sums of the samples at every point, ``(points, d)``.
    """
    sides = ((slice(None, -1), slice(None, -1)), (slice(None, -1), slice(1, None)), (slice(1, None),) * 2)
    shifts = [total[a].T @ mean[b] + mean[a].T @ total[b] - samples * (mean[a].T @ mean[b]) for a, b in sides]
    return moments - np.stack(shifts)


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
        Largest residual of a certified pair.
    resamples
        Bootstrap replicates over blocks of samples; at least 2.
    seed
        Seed of the bootstrap.

    Returns
    -------
    KoopmanSpectrum
        Its modes are in the coordinates of the observables.

    Raises
    ------
    RepdynError
        If there are fewer than twice as many pairs as observables: every residual would then be small by
        construction.

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
    """Raise :class:`RepdynError` for too few pairs of ``d`` observables, or fewer than two replicates."""
    if pairs < 2 * d:
        raise RepdynError(
            f"{pairs} pairs of observables cannot certify {d} eigenvalues; give at least {2 * d} "
            f"({-(-2 * d // (points - 1))} samples)"
        )
    if resamples < 2:
        raise RepdynError(f"resamples must be at least 2, for an interval, got {resamples}")


def _blocks_of(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers of each block of samples; equal samples share a block, so that no copy is unseen."""
    distinct = int(groups.max()) + 1
    rows = np.argsort(groups, kind="stable") if distinct < len(groups) else np.arange(len(groups))
    return np.array_split(rows, min(_SETTINGS.blocks, distinct))


def _certified(
    sums: NDArray[np.float64],
    total: NDArray[np.float64],
    points: int,
    samples: int,
    threshold: float,
    resamples: int,
    seed: int,
) -> KoopmanSpectrum:
    """The spectrum from moments of blocks ``(blocks, 3, d, d)`` and the sum before a step ``(d,)``."""
    pairs, d = (points - 1) * samples, sums.shape[-1]
    moments = sums.sum(axis=0) / pairs
    operator, values, vectors = resdmd.eigenpairs(moments)
    drawn = resdmd.resample(sums, values, resamples, seed)
    ends = [(1 - _SETTINGS.level) / 2, (1 + _SETTINGS.level) / 2]
    modulus = np.quantile(np.abs(drawn.values), ends, axis=0)
    # Angles are relative to the estimate, so that an interval across the negative axis is not split.
    turns = np.angle(drawn.values * values.conj()) / (2 * np.pi)
    frequency = np.angle(values) / (2 * np.pi) + np.quantile(turns, ends, axis=0)
    seen = resdmd.residuals(moments, values, vectors) * np.sqrt(pairs / (pairs - d))
    # A replicate that drew every block has no unseen samples. Without unseen samples nothing is certified.
    usable = np.isfinite(drawn.unseen).all(axis=1)
    unseen = (
        np.quantile(drawn.unseen[usable], ends[1], axis=0) if usable.any() else np.full(len(values), np.inf)
    )
    mean = (total / pairs) @ vectors
    square = (vectors.conj() * (moments[0] @ vectors)).sum(axis=0).real
    unseen = np.where(square > 1e-280, unseen, np.inf)  # an observable that is zero is no eigenfunction
    return KoopmanSpectrum(
        eigenvalues=values,
        radius=np.quantile(np.abs(drawn.values - values), _SETTINGS.level, axis=0),
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
        gram=moments[0],
        cross=moments[1],
        after=moments[2],
        condition=resdmd.condition_number(moments[0]),
        pairs=pairs,
        steps=points - 1,
    )
