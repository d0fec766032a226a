"""The spectrum of depth: eigenvalues with intervals, and which of them the data certify."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh as generalised_eigh
from scipy.optimize import linear_sum_assignment

from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.koopman.reading import read_points
from repdyn.paths import RepresentationPaths

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["KoopmanSpectrum", "decompose", "riesz_projector", "spectrum"]

Complex = NDArray[Any]
Real = NDArray[np.float64]

_SHRINKAGE = 1e-10  # ridge relative to the mean eigenvalue: below it is rounding of the float32 encoder
_BLOCKS = 50  # of samples; a bootstrap over blocks needs only sums of the blocks' Gram matrices
_NODES = 64  # of a contour: a projector is idempotent to 1e-13 with them where the contour keeps its distance


@dataclass(frozen=True, eq=False)
class KoopmanSpectrum:
    """Eigenvalues of the operator of one step of depth, on learned or given observables.

    Pairs are sorted by modulus, largest first. A pair whose residual exceeds the threshold may be of the
    dictionary's making and is not called a Koopman eigenvalue.

    Attributes
    ----------
    eigenvalues
        ``λ``, shape ``(d,)``, complex, of one step.
    modulus_low, modulus_high
        95 % bootstrap interval of each ``|λ|``, over samples, shape ``(d,)``.
    residuals
        ``|Ψ' v - λ Ψ v| / |Ψ v|`` of each pair, shape ``(d,)``, corrected for the ``d`` parameters fitted.
    threshold
        Residuals up to it are certified.
    vectors
        Columns ``v``, ``K v = λ v``: the eigenfunction is ``x -> E(x) v``. Shape ``(d, d)``.
    modes
        Rows in last-point coordinates: what one unit of each eigenfunction adds to the representation, by
        ridge regression of the states on the observables. Shape ``(d, width)``.
    operator
        ``K``, shape ``(d, d)``; observables are rows, ``z' ≈ z K``.
    gram, cross, after
        ``Ψ*Ψ``, ``Ψ*Ψ'``, ``Ψ'*Ψ'`` over the number of pairs, each ``(d, d)``.
    condition
        Condition number of the Gram matrix. Past 1e12, trailing eigenvalues are rounding.
    pairs, steps
        Pairs of observables fitted to, steps of the path.
    """

    eigenvalues: Complex
    modulus_low: Real
    modulus_high: Real
    residuals: Real
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

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Which pairs the data certify, shape ``(d,)``."""
        return self.residuals <= self.threshold

    @property
    def frequencies(self) -> Real:
        """Turns for each step, ``arg λ / 2π``, shape ``(d,)``."""
        return np.angle(self.eigenvalues) / (2 * np.pi)

    @property
    def decay_rates(self) -> Real:
        """``-log |λ|`` for each step, shape ``(d,)``; negative where a mode grows."""
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

    def pseudospectrum(self, places: Complex) -> Real:
        """Smallest residual that any observable reaches at given places of the complex plane.

        ``min_v |Ψ' v - λ Ψ v| / |Ψ v|``; where it is small, an approximate eigenvalue exists, whether or not
        the operator has one there.

        Parameters
        ----------
        places
            Complex, any shape.

        References
        ----------
        Colbrook and Townsend (2024), Rigorous data-driven computation of spectral properties of Koopman
        operators, algorithm 2.
        """
        gram = self.gram + _SHRINKAGE * np.trace(self.gram) / len(self.gram) * np.eye(len(self.gram))
        found = []
        for place in np.ravel(places):
            form = self.after - place * self.cross.T - np.conj(place) * self.cross + abs(place) ** 2 * gram
            smallest = generalised_eigh(form, gram, eigvals_only=True, subset_by_index=[0, 0])[0]
            found.append(np.sqrt(max(0.0, float(smallest))))
        return np.reshape(np.array(found), np.shape(places))

    def eigenfunctions(self, z: NDArray[Any]) -> Complex:
        """Eigenfunctions at observables ``(…, d)`` of ``kae.encode``: what each input excites."""
        return np.asarray(z, dtype=np.float64) @ self.vectors

    def __repr__(self) -> str:
        lines = [
            f"KoopmanSpectrum: {int(self.certified.sum())} of {len(self.eigenvalues)} eigenvalues certified "
            f"(residual <= {self.threshold:g}), from {self.pairs} pairs",
            f"  departure from normality {self.henrici:.2f}, condition number {self.condition:.0e}",
            "  |λ|                     turns/step  residual",
        ]
        lines += [
            f"  {abs(self.eigenvalues[k]):.3f} [{self.modulus_low[k]:.3f}, {self.modulus_high[k]:.3f}]"
            f"{self.frequencies[k]:13.3f}{self.residuals[k]:10.3f}"
            + ("" if self.certified[k] else "  (not certified)")
            for k in range(min(8, len(self.eigenvalues)))
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Eigenvalues in the complex plane and what is left of each mode through depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.spectrum import spectrum as draw

        return draw(
            self.eigenvalues, self.residuals, self.threshold, self.modulus_low, self.modulus_high, self.steps
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "eigenvalues": [[float(v.real), float(v.imag)] for v in self.eigenvalues],
            "modulus": [
                {"value": float(abs(v)), "low": float(a), "high": float(b)}
                for v, a, b in zip(self.eigenvalues, self.modulus_low, self.modulus_high)
            ],
            "residuals": self.residuals.tolist(),
            "certified": int(self.certified.sum()),
            "threshold": self.threshold,
            "henrici": self.henrici,
            "condition": self.condition,
            "pairs": self.pairs,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the spectrum to a folder."""
        tensors: dict[str, NDArray[Any]] = {}
        for name in _COMPLEX:
            value = getattr(self, name)
            tensors[f"{name}.real"], tensors[f"{name}.imag"] = value.real, value.imag
        tensors |= {name: getattr(self, name) for name in _REAL}
        config = {name: getattr(self, name) for name in ("threshold", "condition", "pairs", "steps")}
        save_artifact(path, "spectrum", config, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KoopmanSpectrum:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        found = load_artifact(path, "spectrum")
        try:
            arrays: dict[str, Any] = {name: found.tensors[name] for name in _REAL}
            for name in _COMPLEX:
                arrays[name] = found.tensors[f"{name}.real"] + 1j * found.tensors[f"{name}.imag"]
            return cls(**arrays, **found.config)
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: is not a readable spectrum ({error})") from None


_COMPLEX = ("eigenvalues", "vectors", "modes")
_REAL = ("modulus_low", "modulus_high", "residuals", "operator", "gram", "cross", "after")


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
    states = read_points(paths)
    z = np.stack([kae.encode(x.numpy(), point) for x, point in zip(states, paths.points)]).astype(np.float64)
    found = decompose(z, threshold=threshold, resamples=resamples, seed=seed)
    last = states[-1].double().numpy()
    rows = z[-1]
    gram = rows.T @ rows
    ridge = _SHRINKAGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    readout = np.linalg.solve(gram + ridge, rows.T @ (last - last.mean(axis=0)))
    # z = Σ (z v_k) w_k with the rows w of the inverse of v; each w is then read as a state.
    modes = np.linalg.pinv(found.vectors) @ readout
    return replace(found, modes=modes)


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
        Bootstrap replicates, over blocks of samples.
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
    z = np.asarray(z, dtype=np.float64)
    points, samples, d = z.shape
    pairs = (points - 1) * samples
    if pairs < 2 * d:
        raise RepdynError(
            f"{pairs} pairs of observables cannot certify {d} eigenvalues; give at least {2 * d} "
            f"({-(-2 * d // (points - 1))} samples)"
        )
    blocks = np.array_split(np.arange(samples), min(_BLOCKS, samples))
    sums = np.stack([_moments(z[:, rows]) for rows in blocks])
    moments = sums.sum(axis=0) / pairs
    operator, values, vectors = _eigen(moments)
    residuals = _residuals(moments, values, vectors) * np.sqrt(pairs / (pairs - d))
    low, high = _intervals(sums, values, resamples, seed)
    spread = np.linalg.eigvalsh(moments[0])
    condition = float(spread[-1] / max(spread[0], 1e-300))
    return KoopmanSpectrum(
        values,
        low,
        high,
        residuals,
        threshold,
        vectors,
        np.linalg.pinv(vectors),
        operator,
        moments[0],
        moments[1],
        moments[2],
        condition,
        pairs,
        points - 1,
    )


def riesz_projector(matrix: NDArray[Any], centre: complex, radius: float) -> Complex:
    """Spectral projector onto all eigenvalues within a circle: stable where single eigenvectors are not.

    ``P = (1 / 2πi) ∮ (ζ I - K)^-1 dζ``, by the trapezoidal rule, which converges geometrically.

    Parameters
    ----------
    matrix
        Shape ``(d, d)``.
    centre, radius
        Of the circle; no eigenvalue may lie near it.

    Returns
    -------
    ndarray
        Shape ``(d, d)``, complex; its trace is the number of eigenvalues inside.

    Examples
    --------
    >>> found = riesz_projector(np.diag([1.0, 0.9, 0.1]), 0.95, 0.2)
    >>> bool(np.allclose(found, np.diag([1, 1, 0])))
    True

    References
    ----------
    Kato (1995), Perturbation Theory for Linear Operators, section I.5.3.
    """
    angles = 2 * np.pi * (np.arange(_NODES) + 0.5) / _NODES
    offsets = radius * np.exp(1j * angles)
    identity = np.eye(len(matrix))
    resolvents = np.linalg.inv((centre + offsets)[:, None, None] * identity - matrix)
    found: Complex = (offsets[:, None, None] * resolvents).mean(axis=0)
    return found


def _moments(z: Real) -> Real:
    before, after = z[:-1].reshape(-1, z.shape[-1]), z[1:].reshape(-1, z.shape[-1])
    return np.stack([before.T @ before, before.T @ after, after.T @ after])


def _eigen(moments: Real) -> tuple[Real, Complex, Complex]:
    gram, cross, _ = moments
    ridge = _SHRINKAGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    operator = np.linalg.solve(gram + ridge, cross)
    values, vectors = np.linalg.eig(operator)
    order = np.argsort(-np.abs(values), kind="stable")
    return operator, values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)


def _residuals(moments: Real, values: Complex, vectors: Complex) -> Real:
    gram, cross, after = moments

    def form(matrix: Real) -> Complex:
        found: Complex = (vectors.conj() * (matrix @ vectors)).sum(axis=0)
        return found

    norm = np.maximum(form(gram).real, 1e-300)
    square = form(after).real - 2 * (values.conj() * form(cross)).real + np.abs(values) ** 2 * norm
    found: Real = np.sqrt(np.maximum(square, 0.0) / norm)
    return found


def _intervals(sums: Real, values: Complex, resamples: int, seed: int) -> tuple[Real, Real]:
    draw = np.random.default_rng(seed)
    moduli = np.empty((resamples, len(values)))
    for number in range(resamples):
        counts = np.bincount(draw.integers(len(sums), size=len(sums)), minlength=len(sums))
        _, found, _ = _eigen(np.tensordot(counts, sums, axes=1))
        # Eigenvalues have no order of their own: each replicate is matched to the estimate.
        _, match = linear_sum_assignment(np.abs(values[:, None] - found[None]))
        moduli[number] = np.abs(found[match])
    low, high = np.quantile(moduli, [0.025, 0.975], axis=0)
    return low, high
