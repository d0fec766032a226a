"""Fields that always converge: the gradient field of the log-density of noised data.

:class:`EnergyField` is fitted to a bank of latents. Its map is the posterior mean of a noised point, that is,
a step of mean shift, or of a modern Hopfield network whose memories are the bank. No orbit diverges or
circles, because each step lowers an energy. Its attractors are the modes of the noised density, and the noise
is its one scale.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_values
from repdyn.devices import as_given, double, to
from repdyn.errors import RepdynError
from repdyn.fields.field import LatentField
from repdyn.fields.map import SelfMap, as_tensor, narrowed_units, to_index
from repdyn.fields.mean_shift import (
    PosteriorMean,
    ScaleSpace,
    Step,
    in_blocks,
    scale_space,
    settled,
    spacing_of,
    spread_of,
)
from repdyn.fields.mixture import fit_mixture
from repdyn.fields.settings import ENERGY
from repdyn.fields.verification import merge_points
from repdyn.hub import repository
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["EnergyField", "EnergyWarning", "mixture_in_axes"]


class EnergyWarning(UserWarning):
    """A noise at which modes say nothing: below the spacing of the bank, or above its spread."""


class EnergyField(LatentField, HubMixin):
    r"""The field of a bank of latents under Gaussian noise, which always converges.

    .. math:: V(z) = \sigma^2 \nabla \log p_\sigma(z) = -\nabla E(z), \qquad
              E(z) = -\sigma^2 \log \sum_i w_i \exp\!\Big(-\frac{\lVert z - x_i \rVert^2}{2 \sigma^2}\Big)

    The map :math:`f = z + V` is the posterior mean of the bank (Tweedie). Each step lowers the energy by at
    least half of its squared length, so no orbit diverges or circles. The attractors are the modes of the
    noised density. Below the spacing of the bank every point is a mode; above its spread there is one mode.

    Latents are reduced to principal components first (:meth:`encode`, :meth:`decode`); all other methods take
    these coordinates.

    With ``atoms`` the bank is replaced by a mixture of Gaussians with one covariance, fitted by maximum
    likelihood:

    .. math:: f(z) = \sum_k p_k(z) \big(m_k + C (C + \sigma^2 I)^{-1} (z - m_k)\big), \qquad
              p_k(z) \propto w_k\, \mathcal N(z; m_k, C + \sigma^2 I)

    This is an autoencoder with one hidden layer (softmax) and tied weights. Its displacement is the gradient
    of the same kind of energy at every noise, so that it converges too, and a step costs K distances instead
    of one for each point of the bank. Orbits converge slowly where the noise is far below the width of the
    Gaussians.

    Parameters
    ----------
    sigma
        Standard deviation :math:`\sigma` of the noise, in units of the coordinates. None: chosen without
        labels, by the agreement of two halves of the bank about the basins of other points (``scales_``).
    components
        Number of principal components, or of the latents' dimensions where these are fewer. None: all.
    unit_length
        Whether latents are scaled to unit length, before and after the reduction. For embeddings that are
        compared by cosines.
    neighbors
        Points of the bank that a start is compared with, roughly, by cells. None: all. With cells, the
        energy falls up to the share of the posterior that lies in other cells.
    atoms
        Number K of Gaussians that replace the bank. None: the bank itself. On ten sets of latents
        (docs/studies/fields.md), a tenth of the points denoised unseen points better than the bank did, for
        noises up to half of its spacing.
    seed
        Of the halves, samples, cells and atoms.

    Attributes
    ----------
    bank_, weights_
        Distinct points ``(M, d)`` in coordinates, and their weights ``(M,)``: repeated points count as often
        as they occur. With ``atoms``, the means and weights of the Gaussians.
    variances_
        With ``atoms``, the variances of the Gaussians along the coordinates, shape ``(d,)``; else None.
    sigma_
        The noise.
    spacing_, spread_
        Median distance to the nearest other point, and root mean square distance from the mean.
    explained_
        Share of the variance that the components explain.
    scales_
        The modes of the bank through all scales, a :class:`repdyn.fields.ScaleSpace`; None where the bank has
        fewer than 20 distinct points.
    notes_
        Warnings.

    Examples
    --------
    >>> import torch
    >>> bank = torch.tensor([[0.0], [0.1], [5.0]])
    >>> field = EnergyField(0.5).fit(bank)
    >>> starts = field.encode(torch.tensor([[1.0], [4.0]]))
    >>> [round(float(end), 2) for end in field.decode(field.settle(starts))]
    [0.05, 5.0]

    References
    ----------
    Fukunaga, Hostetler (1975). The estimation of the gradient of a density function. IEEE Trans. Inf. Theory
    21. Alain, Bengio (2014). What regularized auto-encoders learn from the data-generating distribution.
    JMLR 15. Ramsauer et al. (2021). Hopfield networks is all you need. ICLR.
    """

    def __init__(
        self,
        sigma: float | None = None,
        *,
        components: int | None = 64,
        unit_length: bool = False,
        neighbors: int | None = None,
        atoms: int | None = None,
        seed: int = 0,
    ) -> None:
        # Not the parent's, which sets encode and decode: they are methods here.
        self.step = self._unfitted
        self._differentiable = True
        self._last_seen = torch.device("cpu")
        self.sigma, self.components, self.unit_length = sigma, components, unit_length
        self.neighbors, self.atoms, self.seed = neighbors, atoms, seed

    # --- fit ---

    def fit(self, bank: Any) -> EnergyField:
        """Fit to a bank of latents, on its device and in its precision.

        Parameters
        ----------
        bank
            Latents, a tensor or an array of shape ``(M, D)``. Half precision is widened to float32.

        Raises
        ------
        RepdynError
            On latents that are not finite numbers of shape ``(M, D)``; on parameters out of range; and where
            ``sigma`` is to be chosen from fewer than 20 distinct points.

        Warns
        -----
        EnergyWarning
            If every point is its own mode, or all share one.
        """
        rows = _floating(bank, "bank")
        self._check_parameters()
        self._fit_coordinates(rows)
        coordinates = self.encode(rows)
        group = groups_of_equal_rows(as_array(coordinates), 0)
        _, first, counts = np.unique(group, return_index=True, return_counts=True)
        order = np.argsort(first)
        self.rows_ = first[order].astype(np.int64)
        points = coordinates[to_index(self.rows_, coordinates)]
        weights = as_given(counts[order] / len(rows), points)
        self.spread_, self.spacing_ = spread_of(points, weights), spacing_of(points, self.seed)
        few = len(points) < ENERGY.min_points
        if few and self.sigma is None:
            raise RepdynError(
                f"sigma: cannot be chosen from {len(points)} distinct points, expected at least "
                f"{ENERGY.min_points}; give sigma"
            )
        self.bank_, self.weights_ = points, weights
        self.variances_: Tensor | None = None
        if self.atoms is not None:
            points = self._fit_atoms(points, weights)
        mean = self._prior(1.0)
        self.scales_: ScaleSpace | None = None
        if not few:
            self.scales_ = scale_space(
                mean, points, weights, self._part, self.spacing_, self.spread_, sigma=self.sigma,
                seed=self.seed,
            )  # fmt: skip
        chosen = self.sigma if self.sigma is not None or self.scales_ is None else self.scales_.sigma
        assert chosen is not None
        self.sigma_ = float(chosen)
        self.step = mean.at(self.sigma_)
        self.notes_ = self._notes()
        for note in self.notes_:
            warnings.warn(f"EnergyField: {note}", EnergyWarning, stacklevel=2)
        return self

    def at(self, sigma: float) -> EnergyField:
        """The field of the same bank at another noise."""
        self._check_fitted()
        if not (sigma > 0 and math.isfinite(sigma)):
            raise RepdynError(f"sigma: must be above 0, got {sigma}")
        other = EnergyField(
            sigma, components=self.components, unit_length=self.unit_length, neighbors=self.neighbors,
            atoms=self.atoms, seed=self.seed,
        )  # fmt: skip
        other.__dict__.update({name: value for name, value in vars(self).items() if name.endswith("_")})
        assert isinstance(self.step, PosteriorMean)
        other.sigma_, other.step = float(sigma), self.step.at(float(sigma))
        other.notes_ = other._notes()
        return other

    # --- use ---

    def encode(self, x: Any) -> Tensor:
        """Coordinates ``(N, d)`` of latents ``(N, D)``."""
        self._check_fitted()
        rows = _floating(x, "x")
        if rows.shape[1] != self.width_:
            raise RepdynError(f"x: fitted on shape (N, {self.width_}), got {tuple(rows.shape)}")
        rows = to(rows, self.axes_.device, self.axes_.dtype)
        turned = (self._unit(rows / self.units_) - self.shift_) @ self.axes_
        codes: Tensor = as_given(self._unit(turned), x)
        return codes

    def decode(self, z: Any) -> Tensor:
        """Latents ``(N, D)`` in the span of the components; if scaled, of about the usual length."""
        self._check_fitted()
        points = self._coordinates(z)
        latents: Tensor = as_given(
            (self.radius_ * points @ self.axes_.T + self.shift_) * self.units_ * self.length_, z
        )
        return latents

    def energy(self, z: Any) -> Tensor:
        """The energy at coordinates ``(N, d)``, shape ``(N,)``; lower where the bank is denser."""
        self._check_fitted()
        assert isinstance(self.step, PosteriorMean)
        points = self._coordinates(z)
        with torch.no_grad():
            energy: Tensor = as_given(self.step.energy(points), z)
        return energy

    def displacement(self, z: Any) -> Tensor:
        """The step :math:`V(z)` from coordinates ``(N, d)``: noise variance times the score, ``(N, d)``."""
        self._check_fitted()
        step: Tensor = as_given(self.velocity(self._coordinates(z)), z)
        return step

    def settle(self, z: Any) -> Tensor:
        """The mode that each point reaches by plain iteration, ``(N, d)``.

        Once a first part has shown some modes, points that come close to one of them are finished.

        Parameters
        ----------
        z
            Coordinates, shape ``(N, d)``.
        """
        self._check_fitted()
        ends: Tensor = as_given(settled(self.step, self._coordinates(z), self.sigma_)[0], z)
        return ends

    def basins(self, z: Any) -> tuple[NDArray[np.int64], Tensor]:
        """The modes that some points reach, and the mode of each point.

        Parameters
        ----------
        z
            Coordinates, shape ``(N, d)``.

        Returns
        -------
        basin, modes
            Index of each point's mode, shape ``(N,)``, most frequent mode first; the modes, shape ``(A, d)``.
        """
        ends = self.settle(z)
        leaders, member = merge_points(as_array(ends, np.float64), ENERGY.merge_radius * self.sigma_)
        order = np.argsort(-np.bincount(member, minlength=len(leaders)), kind="stable")
        return np.argsort(order)[member], ends[to_index(leaders[order], ends)]

    # An iterate of this map has no energy of its own, so that it is no EnergyField.
    def power(self, period: int) -> LatentField:  # type: ignore[override]
        """The map applied ``period`` times, as a field without a bank."""
        return LatentField(SelfMap(self.step).power(period).step)

    @classmethod
    def from_autoencoder(cls, encode: Any, decode: Any) -> LatentField:
        """Refused: this field is made from a bank of latents, by :meth:`fit`."""
        raise RepdynError(
            "EnergyField: is fitted to a bank; LatentField.from_autoencoder takes two functions"
        )

    def projected(self, field: LatentField, steps: int = 3) -> LatentField:
        r"""The field of another map of these coordinates, followed by steps of this one.

        .. math:: z \mapsto f^{\,k}(g(z))

        Its orbits stay in the convex hull of the bank, so that a map that expands no longer diverges. With
        ``atoms``, the share :math:`C (C + \sigma^2 I)^{-1}` of a displacement is kept: a map that expands by
        more than its inverse may still diverge.

        Parameters
        ----------
        field
            The other field, such as that of an autoencoder whose codes are the bank.
        steps
            Number k of steps of this field, at least 1.
        """
        self._check_fitted()
        if steps < 1:
            raise RepdynError(f"steps: must be at least 1, got {steps}")
        other = field.step
        if isinstance(other, nn.Module) and isinstance(self.step, nn.Module):
            return LatentField(nn.Sequential(other, *[self.step] * steps))
        again = SelfMap(self.step).power(steps).step
        return LatentField(lambda z: again(other(z)))

    def nearest(self, z: Any, count: int = 1) -> NDArray[np.int64]:
        """Rows of the bank, as given to :meth:`fit`, nearest to coordinates ``(N, d)``: ``(N, count)``."""
        self._check_fitted()
        count = min(count, len(self.bank_))
        points = self._coordinates(z)
        found = in_blocks(
            points, self.bank_, lambda x, b: torch.cdist(x, b).topk(count, largest=False).indices
        )
        return np.asarray(self.rows_[as_array(found)])

    def __repr__(self) -> str:
        if not hasattr(self, "bank_"):
            return f"EnergyField(sigma={self.sigma}, components={self.components}), not fitted"
        how = "given" if self.sigma is not None else "chosen without labels"
        lines = [
            f"EnergyField: {int(self.total_)} latents, {len(self.bank_)} "
            f"{'distinct' if self.variances_ is None else 'atoms'}, {self.width_} to "
            f"{self.bank_.shape[1]} dimensions ({self.explained_:.0%} of the variance)",
            f"  sigma {self.sigma_:.3g} ({how}), spacing {self.spacing_:.3g}, spread {self.spread_:.3g}",
        ]
        if self.scales_ is not None:
            lines += [f"  {line}" for line in repr(self.scales_).splitlines()]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes_])

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"energy field"``."""
        self._check_fitted()
        config = {
            "sigma": self.sigma,
            "components": self.components,
            "unit_length": self.unit_length,
            "neighbors": self.neighbors,
            "atoms": self.atoms,
            "seed": self.seed,
            "sigma_taken": self.sigma_,
            "spacing": self.spacing_,
            "spread": self.spread_,
            "explained": self.explained_,
            "length": self.length_,
            "radius": self.radius_,
            "total": self.total_,
            "notes": list(self.notes_),
        }
        names = ["bank", "weights", "units", "shift", "axes"]
        if self.variances_ is not None:
            names.append("variances")
        tensors = {name: as_array(getattr(self, f"{name}_")) for name in names} | {"rows": self.rows_}
        scales = None
        if self.scales_ is not None:
            scales, arrays = self.scales_._record()
            tensors |= {f"scales.{name}": array for name, array in arrays.items()}
        save_artifact(path, "energy field", {"field": config, "scales": scales}, tensors)

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> EnergyField:
        """Read what :meth:`save_pretrained` wrote, onto ``device``; default: the CPU.

        ``path`` is a folder, or ``"user/name"`` on the Hugging Face Hub; ``revision`` is its branch, tag or
        commit, and ``token`` that of an account.
        """
        artifact = load_artifact(repository(path, revision, token), "energy field")
        # Folders written before there were atoms, or a radius, do not name them.
        config = {"atoms": None, "radius": 1.0, **artifact.config["field"]}
        check_values(
            config, sigma=float | None, components=int | None, unit_length=bool, neighbors=int | None,
            atoms=int | None, seed=int, sigma_taken=float, spacing=float, spread=float, explained=float,
            length=float, radius=float, total=int, notes=list[str],
        )  # fmt: skip
        own = {name: array for name, array in artifact.tensors.items() if not name.startswith("scales.")}
        axes = {"bank": "M d", "weights": "M", "units": "D", "shift": "D", "axes": "D d", "rows": "M"}
        if config["atoms"] is not None:
            axes["variances"] = "d"
        check_arrays(own, True, **axes)
        keys = ("sigma", "components", "unit_length", "neighbors", "atoms", "seed")
        field = cls(**{key: config[key] for key in keys})
        field.variances_ = None
        for name in set(axes) - {"rows"}:
            setattr(field, f"{name}_", to(torch.from_numpy(own[name]), device))
        field.rows_, field.width_ = own["rows"], len(own["shift"])
        field.sigma_, field.spacing_, field.spread_ = (
            config[key] for key in ("sigma_taken", "spacing", "spread")
        )
        field.explained_, field.length_, field.radius_ = (
            config[key] for key in ("explained", "length", "radius")
        )
        field.total_, field.notes_ = config["total"], config["notes"]
        if field.variances_ is not None and not bool((field.variances_ >= 0).all()):
            raise ValueError(f"the smallest variance is {float(field.variances_.min())}")
        if not field.sigma_ > 0 or not bool((field.weights_ > 0).all()):
            raise ValueError(f"sigma is {field.sigma_}, the smallest weight {float(field.weights_.min())}")
        field.notes_ = tuple(field.notes_)
        prefix = "scales."
        arrays = {
            name.removeprefix(prefix): array
            for name, array in artifact.tensors.items()
            if name.startswith(prefix)
        }
        scales = artifact.config["scales"]
        field.scales_ = None if scales is None else ScaleSpace._revive(scales, arrays)
        field.step = field._prior(field.sigma_)
        return field

    # --- helpers ---

    def _unfitted(self, z: Tensor) -> Tensor:
        raise RepdynError("EnergyField: is not fitted; call fit(bank) first")

    def _check_fitted(self) -> None:
        if not hasattr(self, "axes_"):
            raise RepdynError("EnergyField: is not fitted; call fit(bank) first")

    def _check_parameters(self) -> None:
        """Refuse parameters out of range."""
        if self.sigma is not None and not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise RepdynError(f"sigma: must be above 0, or None to be chosen, got {self.sigma}")
        for name in ("components", "neighbors", "atoms"):
            value = getattr(self, name)
            if value is not None and whole(name, value) < 1:
                raise RepdynError(f"{name}: must be at least 1, or None, got {value}")
            setattr(self, name, None if value is None else whole(name, value))
        if self.atoms is not None and self.neighbors is not None:
            raise RepdynError("neighbors: is for a field of the bank itself; leave it out, or atoms")

    def _fit_coordinates(self, rows: Tensor) -> None:
        """Units, mean and principal axes of latents ``(M, D)``."""
        self.total_, self.width_ = len(rows), rows.shape[1]
        self.units_ = narrowed_units(rows)
        self.length_ = float((rows / self.units_).norm(dim=1).median()) if self.unit_length else 1.0
        unit = self._unit(rows / self.units_)
        wide = double(unit)
        self.shift_ = wide.mean(dim=0).to(rows.dtype)
        centered = wide - double(self.shift_)
        # The eigenvectors of the covariance matrix; large matrices are summed in blocks by the product.
        values, axes = torch.linalg.eigh(centered.T @ centered)
        kept = min(self.components or self.width_, self.width_)
        # Rounding can make the smallest eigenvalues negative.
        values = values.flip(0).clamp_min(0)
        self.axes_ = axes.flip(1)[:, :kept].contiguous().to(rows.dtype)
        whole = float(values.sum())
        self.explained_ = float(values[:kept].sum()) / whole if whole > 0 else 1.0
        # Coordinates of unit length are decoded to the mean length that they had before.
        turned = centered.to(rows.dtype) @ self.axes_
        self.radius_ = float(turned.norm(dim=1).mean()) if self.unit_length else 1.0

    def _fit_atoms(self, points: Tensor, weights: Tensor) -> Tensor:
        """Replace the bank ``(M, d)`` by a mixture; returns the bank in the axes of its covariance."""
        assert self.atoms is not None
        self.bank_, self.weights_, self.variances_, turn = mixture_in_axes(
            points, weights, self.atoms, self.seed
        )
        points = points @ turn
        self.axes_ = self.axes_ @ turn
        nearest = in_blocks(self.bank_, points, lambda a, x: torch.cdist(a, x).argmin(dim=1))
        self.rows_ = self.rows_[as_array(nearest)]
        return points

    def _prior(self, sigma: float) -> PosteriorMean:
        """The map of the bank or of the mixture."""
        return PosteriorMean(
            self.bank_, self.weights_, sigma, self.neighbors, self.seed, variances=self.variances_
        )

    def _part(self, share: float, points: Tensor, weights: Tensor) -> Callable[[float], Step]:
        """The map at each noise of this share of the bank, with as large a share of the atoms."""
        if self.atoms is None:
            return PosteriorMean(points, weights, 1.0).at
        atoms, own, variances, turn = mixture_in_axes(
            points, weights / weights.sum(), max(1, round(share * self.atoms)), self.seed
        )
        mean = PosteriorMean(atoms, own, 1.0, variances=variances)
        return lambda sigma: lambda z: mean.at(sigma)(z @ turn) @ turn.T

    def _unit(self, rows: Tensor) -> Tensor:
        """Rows ``(N, D)`` at unit length, if this was asked for; a zero row stays zero."""
        if not self.unit_length:
            return rows
        scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        return scaled

    def _coordinates(self, z: Any) -> Tensor:
        """Coordinates ``(N, d)`` on the device and in the precision of the bank."""
        points = as_tensor(z)
        if points.ndim != 2 or points.shape[1] != self.axes_.shape[1]:
            raise RepdynError(
                f"z: expected coordinates (N, {self.axes_.shape[1]}) that encode(x) gave, got "
                f"{tuple(points.shape)}"
            )
        moved: Tensor = to(points, self.axes_.device, self.axes_.dtype)
        return moved

    def _weights_device(self) -> torch.device | None:
        return self.bank_.device if hasattr(self, "bank_") else None

    def _notes(self) -> tuple[str, ...]:
        """What makes modes meaningless at this noise."""
        count = len(self.bank_)
        if count == 1:
            return ("the bank has one distinct point, which is the only mode",)
        sample = np.random.default_rng(self.seed).permutation(count)[: ENERGY.sampled_modes]
        ends = settled(self.step, self.bank_[to_index(sample, self.bank_)], self.sigma_)[0]
        modes = len(merge_points(as_array(ends, np.float64), ENERGY.merge_radius * self.sigma_)[0])
        if modes >= ENERGY.own_mode * len(sample) and self.variances_ is not None:
            return (
                f"at sigma {self.sigma_:.3g}, {modes} of {len(sample)} sampled atoms are modes of their own: "
                "their number is that of the atoms, not of the data; give a larger sigma, or more atoms",
            )
        if modes >= ENERGY.own_mode * len(sample):
            return (
                f"sigma {self.sigma_:.3g} lies below the spacing of the bank: {modes} of {len(sample)} "
                "sampled points are modes of their own (median distance to the nearest point "
                f"{self.spacing_:.3g}); give a larger sigma",
            )
        if modes == 1:
            return (
                f"sigma {self.sigma_:.3g} lies above the spread of the bank's parts: all points share one "
                f"mode (root mean square distance from the mean {self.spread_:.3g}); give a smaller sigma",
            )
        if self.sigma is None and self.scales_ is not None:
            best = float(self.scales_.agreement[self.scales_.sigmas == self.scales_.sigma][0])
            if best < ENERGY.replicates:
                return (
                    f"the basins of two halves of the bank agree to {best:.2f} only, at the best scale: the "
                    "modes are not reproducible; give more vectors, or fewer components",
                )
        return ()


def _floating(x: Any, name: str) -> Tensor:
    """Finite latents ``(N, D)`` in float32 or float64."""
    try:
        rows = as_tensor(x)
    except TypeError as error:  # texts, objects
        raise RepdynError(f"{name}: expected numbers of shape (N, D); {error}") from None
    if rows.ndim != 2 or 0 in rows.shape or rows.is_complex() or rows.dtype == torch.bool:
        raise RepdynError(f"{name}: expected numbers of shape (N, D), got {rows.dtype} {tuple(rows.shape)}")
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    broken = (~torch.isfinite(rows).all(dim=1)).nonzero()
    if len(broken):
        raise RepdynError(
            f"{name}: row {int(broken[0])} is not finite ({len(broken)} of {len(rows)} are not)"
        )
    return rows


def mixture_in_axes(
    points: Tensor, weights: Tensor, atoms: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means ``(K, d)``, weights ``(K,)``, variances ``(d,)`` in the axes ``(d, d)`` of the covariance.

    In these axes the covariance is a vector, and a step needs no product with a matrix.
    """
    mixture = fit_mixture(points, weights, atoms, seed)
    variances, turn = torch.linalg.eigh(mixture.covariance)
    found = (mixture.means @ turn, mixture.weights, variances.clamp_min(0), turn)
    return tuple(part.to(points.dtype) for part in found)  # type: ignore[return-value]
