"""The spectrum of depth: eigenvalues with intervals, and which of them the data certify."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.koopman import resdmd
from repdyn.koopman.projectors import overlapping, spectral_projector
from repdyn.reading import as_array

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["KoopmanSpectrum"]

Complex = NDArray[Any]
Real = NDArray[np.float64]

_CONSTANT = 0.01  # an eigenfunction that varies less than this tells inputs apart by nothing
_ILL = 1e12  # condition number past which float64 keeps fewer than four digits of float32 data's products
_SENSITIVE = 1e3  # an eigenvalue moves by up to this many times a change of the operator


@dataclass(frozen=True, eq=False)
class KoopmanSpectrum:
    """Eigenvalues of the operator of one step of depth, on learned or given observables.

    Pairs are sorted by modulus, largest first. A pair whose residual, on samples it was not found on, may
    exceed the threshold may be of the dictionary's making and is not called a Koopman eigenvalue.

    Attributes
    ----------
    eigenvalues
        ``λ``, shape ``(d,)``, complex, of one step.
    radius
        Of the disc about each ``λ`` that holds 95 % of its bootstrap replicates over samples, ``(d,)``.
    modulus_low, modulus_high
        95 % bootstrap interval of each ``|λ|``, shape ``(d,)``.
    frequency_low, frequency_high
        That of each frequency, in turns for each step, shape ``(d,)``.
    residuals
        ``|Ψ' v - λ Ψ v| / |Ψ v|`` of each pair, shape ``(d,)``, corrected for the ``d`` parameters fitted.
    residuals_high
        Upper end (97.5 %) of each residual over bootstrap replicates, each judged on the samples that it
        did not draw, shape ``(d,)``. The certificate goes by it.
    variation
        Share of each eigenfunction's mean square over samples that is variance, shape ``(d,)``. The
        constant function is an eigenfunction of every system, with ``λ = 1``, and tells nothing.
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

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Which pairs the data certify, shape ``(d,)``."""
        return self.residuals_high <= self.threshold

    @property
    def koopman_eigenvalues(self) -> Complex:
        """The certified eigenvalues and no others."""
        return self.eigenvalues[self.certified]

    @property
    def sensitivity(self) -> Real:
        """Condition number of each eigenvalue, ``|w| |v| / |w v|``: 1 for a normal operator, shape ``(d,)``.

        The operator changed by ``e`` (in the spectral norm) moves the eigenvalue by up to ``e`` times this.

        References
        ----------
        Trefethen and Embree (2005), Spectra and Pseudospectra, section 52.
        """
        left = resdmd.left_vectors(self.vectors)
        found: Real = np.linalg.norm(left, axis=1) * np.linalg.norm(self.vectors, axis=0)
        return found

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
        return resdmd.pseudospectrum(np.stack([self.gram, self.cross, self.after]), places)

    def clusters(self) -> list[NDArray[np.intp]]:
        """Eigenvalues that the data cannot tell apart: those whose 95 % discs overlap, conjugates together.

        Within a cluster single eigenvectors mean nothing, but :meth:`projector` of all of it does.
        """
        return overlapping(self.eigenvalues, self.radius)

    def projector(self, members: Sequence[int] | NDArray[np.intp]) -> Complex:
        """Riesz projector onto some eigenvalues, shape ``(d, d)``: ``z P`` is their part of observables.

        Parameters
        ----------
        members
            Numbers of eigenvalues, such as one of :meth:`clusters`.

        Raises
        ------
        RepdynError
            If there is none, or the set cuts through eigenvalues that coincide.
        """
        return spectral_projector(self.operator, self.eigenvalues[np.asarray(members, dtype=np.intp)])

    def eigenfunctions(self, z: NDArray[Any]) -> Complex:
        """Eigenfunctions at observables ``(…, d)`` of ``kae.encode``: what each input excites."""
        return as_array(z, dtype=np.float64) @ self.vectors

    def __repr__(self) -> str:
        lines = [
            f"KoopmanSpectrum: {int(self.certified.sum())} of {len(self.eigenvalues)} eigenvalues certified "
            f"(residual on unseen samples <= {self.threshold:g}), from {self.pairs} pairs",
            f"  departure from normality {self.henrici:.2f}, condition number {self.condition:.0e}, "
            f"{len(self.clusters())} clusters that can be told apart",
        ]
        if self.condition > _ILL:
            lines.append(
                "  ill-conditioned: the observables are nearly dependent, trailing pairs are rounding"
            )
        sensitive = int((self.sensitivity > _SENSITIVE).sum())
        if sensitive:
            lines.append(
                f"  {sensitive} eigenvalues move by over {_SENSITIVE:g} times a change of the operator: "
                "read clusters and the pseudospectrum, not single pairs"
            )
        lines.append("  |λ|                     turns/step               residual (up to)")
        for k in range(min(8, len(self.eigenvalues))):
            notes = "" if self.certified[k] else "  (not certified)"
            notes += "  (constant)" if self.variation[k] < _CONSTANT else ""
            lines.append(
                f"  {abs(self.eigenvalues[k]):.3f} [{self.modulus_low[k]:.3f}, {self.modulus_high[k]:.3f}]"
                f"{self.frequencies[k]:9.3f} [{self.frequency_low[k]:6.3f}, {self.frequency_high[k]:6.3f}]"
                f"{self.residuals[k]:9.3f} ({self.residuals_high[k]:.3f}){notes}"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Eigenvalues in the complex plane and what is left of each mode through depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.spectrum import spectrum as draw

        return draw(
            self.eigenvalues,
            self.residuals_high,
            self.threshold,
            self.modulus_low,
            self.modulus_high,
            self.steps,
        )

    def plot_pseudospectrum(self, resolution: int = 41) -> go.Figure:
        """Smallest residual over the complex plane, with the eigenvalues in it.

        Parameters
        ----------
        resolution
            Places on each axis; each costs one eigenvalue of a ``(d, d)`` matrix.
        """
        from repdyn.views.spectrum import pseudospectrum as draw

        reach = 1.15 * max(1.0, float(np.abs(self.eigenvalues).max()))
        real = np.linspace(-reach, reach, resolution)
        # A real operator's pseudospectrum is its own mirror image: half of it is computed.
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
    @refuses_damage
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
_REAL = (
    "radius",
    "modulus_low",
    "modulus_high",
    "frequency_low",
    "frequency_high",
    "residuals",
    "residuals_high",
    "variation",
    "operator",
    "gram",
    "cross",
    "after",
)
