"""Eigenfunctions on inputs: which inputs excite which mode, and the variance that labels explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays
from repdyn.errors import RepdynError
from repdyn.koopman.interfaces import FittedAutoencoder
from repdyn.koopman.settings import VERDICTS, SpectrumSettings
from repdyn.koopman.spectrum import KoopmanSpectrum
from repdyn.paths import RepresentationPaths
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Excitation", "excitation", "explained_by_label"]

_SETTINGS = SpectrumSettings()


@dataclass(frozen=True, eq=False)
class Excitation(Result, kind="excitation"):
    """Amplitude with which each input excites each mode.

    Attributes
    ----------
    point
        Point at which the eigenfunctions were evaluated.
    amplitude
        ``|E(x) v - mean|`` over its root mean square, ``(N, d)``; 1 is the typical amplitude of a mode.
    top
        Rows of the inputs with the largest amplitude of each mode, in decreasing order, ``(d, count)``.
    ids
        Ids of the inputs, shape ``(N,)``.
    certified
        Whether each mode is certified, shape ``(d,)``.
    classes
        The labels, sorted, or ``None``.
    by_class
        Mean amplitude of each class, shape ``(classes, d)``, or ``None``.
    explained
        Share of each eigenfunction's variance that lies between classes, shape ``(d,)``, or ``None``.
    chance
        95 % quantile of the share that shuffled labels explain, shape ``(d,)``, or ``None``.
    """

    point: str
    amplitude: NDArray[np.float64]
    top: NDArray[np.intp]
    ids: NDArray[Any]
    certified: NDArray[np.bool_]
    classes: NDArray[Any] | None
    by_class: NDArray[np.float64] | None
    explained: NDArray[np.float64] | None
    chance: NDArray[np.float64] | None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For each mode, whether it separates the classes.

        ``"found"`` if labels explain more than shuffled labels, ``"not found"`` if not, ``"inconclusive"``
        for a mode that is not certified, and for every mode without labels.
        """
        if self.explained is None or self.chance is None:
            return ("inconclusive",) * len(self.certified)
        return tuple(
            "inconclusive" if not certified else "found" if share > limit else "not found"
            for share, limit, certified in zip(self.explained, self.chance, self.certified)
        )

    def __repr__(self) -> str:
        count = int(self.certified.sum())
        lines = [f"Excitation of {self.amplitude.shape[1]} modes ({count} certified) at {self.point!r}"]
        for k in range(min(8, self.amplitude.shape[1])):
            best = ", ".join(f"{self.ids[row]} ({self.amplitude[row, k]:.1f})" for row in self.top[k][:3])
            line = f"  mode {k}{'' if self.certified[k] else ' (not certified)'}: {best}"
            if self.by_class is not None and self.explained is not None and self.chance is not None:
                assert self.classes is not None
                line += (
                    f"; most in class {self.classes[self.by_class[:, k].argmax()]}, labels explain "
                    f"{self.explained[k]:.2f} (chance {self.chance[k]:.2f})"
                )
            lines.append(line)
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot the mean amplitude of each class in each mode.

        Raises
        ------
        RepdynError
            Without labels.
        """
        if self.by_class is None or self.classes is None:
            raise RepdynError("the paths have no labels, so there are no classes to plot; use .top instead")
        # plotly is slow to import and not everyone plots.
        from repdyn.views.forgetting import excitation as draw

        return draw(self.by_class, [str(name) for name in self.classes], self.certified)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "point": self.point,
            "certified": self.certified.tolist(),
            "top": [
                [{"id": str(self.ids[row]), "amplitude": float(self.amplitude[row, k])} for row in rows]
                for k, rows in enumerate(self.top)
            ],
            "classes": None if self.classes is None else [str(name) for name in self.classes],
            "by_class": None if self.by_class is None else self.by_class.tolist(),
            "explained": None if self.explained is None else self.explained.tolist(),
            "chance": None if self.chance is None else self.chance.tolist(),
            "verdicts": list(self.verdicts),
        }

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The excitation of a saved folder, after a check that its arrays agree in size."""
        axes = {"amplitude": "N d", "top": "d n", "certified": "d"}
        loaded = super()._revive(config, tensors)
        if loaded.classes is not None:
            axes |= {"by_class": f"{len(loaded.classes)} d", "explained": "d", "chance": "d"}
        samples = check_arrays(tensors, **axes)["N"]
        if len(loaded.ids) != samples or not ((loaded.top >= 0) & (loaded.top < samples)).all():
            raise ValueError(f"ids or top inputs are not of {samples} samples")
        if loaded.classes is None and any(name in tensors for name in ("by_class", "explained", "chance")):
            raise ValueError("its classes are missing")
        return loaded


def excitation(
    spectrum: KoopmanSpectrum,
    kae: FittedAutoencoder,
    paths: RepresentationPaths,
    *,
    point: str | None = None,
    count: int = 10,
    seed: int = 0,
) -> Excitation:
    """Evaluate the eigenfunctions ``x -> E(x) v``, less their mean: which inputs excite which mode.

    The amplitude of a certified eigenfunction changes by the factor ``|λ|`` per step and otherwise stays the
    same along the path, so it is evaluated at one point.

    Parameters
    ----------
    spectrum
        Spectrum of the same autoencoder.
    kae
        The autoencoder.
    paths
        Paths of the inputs, with or without labels.
    point
        Point at which to evaluate; default: the first.
    count
        Number of top inputs for each mode.
    seed
        Seed of the shuffled labels.

    Returns
    -------
    Excitation

    Raises
    ------
    RepdynError
        If the spectrum is another autoencoder's, or ``count`` is not positive.

    References
    ----------
    Mezić (2005), Spectral properties of dynamical systems, Nonlinear Dynamics 41.
    """
    kae.check_paths(paths)
    if len(spectrum.operator) != kae.latent_dim_:
        raise RepdynError(
            f"spectrum: it has {len(spectrum.operator)} observables, this autoencoder {kae.latent_dim_}; "
            "give the spectrum of this autoencoder"
        )
    if count < 1:
        raise RepdynError(f"count must be at least 1, got {count}")
    where = point or paths.points[0]
    values = spectrum.eigenfunctions(kae.encode(np.asarray(paths[where]), where))
    values = values - values.mean(axis=0)  # an eigenfunction of differences is known up to a constant
    amplitude = np.abs(values) / np.maximum(np.sqrt(np.square(np.abs(values)).mean(axis=0)), 1e-300)
    top = np.argsort(-amplitude, axis=0, kind="stable")[:count].T
    classes = by_class = explained = chance = None
    if paths.labels is not None:
        classes, code = np.unique(np.asarray(paths.labels), return_inverse=True)
        size = np.bincount(code)
        by_class = np.zeros((len(classes), amplitude.shape[1]))
        np.add.at(by_class, code, amplitude)
        by_class /= size[:, None]
        # Equal samples share a label, which shuffling single samples would break; each is used once.
        once = np.unique(groups_of_equal_rows(np.asarray(paths[where])), return_index=True)[1]
        explained = explained_by_label(values[once], code[once])
        draw = np.random.default_rng(seed)
        shuffled = [
            explained_by_label(values[once], draw.permutation(code[once])) for _ in range(_SETTINGS.shuffles)
        ]
        chance = np.quantile(shuffled, VERDICTS.label_quantile, axis=0)
    return Excitation(
        where, amplitude, np.ascontiguousarray(top), paths.ids, spectrum.certified, classes, by_class,
        explained, chance,
    )  # fmt: skip


def explained_by_label(values: NDArray[Any], code: NDArray[np.intp]) -> NDArray[np.float64]:
    """Share of the variance of complex values ``(N, d)`` between classes ``(N,)``, shape ``(d,)``."""
    size = np.bincount(code).astype(np.float64)
    sums = np.zeros((len(size), values.shape[1]), dtype=np.complex128)
    np.add.at(sums, code, values - values.mean(axis=0))
    between = (np.abs(sums) ** 2 / np.maximum(size, 1)[:, None]).sum(axis=0)
    total = np.maximum(np.square(np.abs(values - values.mean(axis=0))).sum(axis=0), 1e-300)
    share: NDArray[np.float64] = between / total
    return share
