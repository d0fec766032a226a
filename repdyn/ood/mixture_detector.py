"""The log-density of a point under a mixture of Gaussians: for vectors without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from repdyn.arguments import whole
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.crossfit import bank_rows, directions
from repdyn.ood.detector import Detector, sample_note
from repdyn.ood.path_chunks import Chunk, MultiPassReader, read_chunks
from repdyn.ood.records import optional_count
from repdyn.ood.settings import FIT, MIXTURE
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group

if TYPE_CHECKING:
    from repdyn.ood.modules import MixtureModule
    from repdyn.paths import RepresentationPaths

__all__ = ["MixtureDetector"]

Array = NDArray[np.float64]


class _Density(NamedTuple):
    """A mixture of Gaussians with one covariance, in coordinates in which this is the identity.

    Attributes
    ----------
    center
        Subtracted from unit vectors first, shape ``(D,)``.
    whitener
        From the differences to coordinates, shape ``(D, D)``.
    means
        Of the Gaussians, in coordinates, shape ``(K, D)``.
    offsets
        Logarithms of their weights and of the density's constant, shape ``(K,)``.
    """

    center: Array
    whitener: Array
    means: Array
    offsets: Array

    def log(self, x: Array) -> Array:
        """Log-density of unit vectors, ``(n, D) -> (n,)``."""
        z = (x - self.center) @ self.whitener
        cross = z @ self.means.T + (self.offsets - 0.5 * np.square(self.means).sum(axis=1))
        return np.asarray(logsumexp(cross, axis=1) - 0.5 * np.square(z).sum(axis=1))


class MixtureDetector(Detector):
    r"""Log-density of a point's unit vector under a mixture of Gaussians with one covariance.

    .. math:: s(u) = \log \sum_k w_k\, \mathcal N(u;\, m_k,\, C + \lambda \bar v I)

    The mixture finds groups where there are no labels. It is fitted by expectation-maximization; the share
    :math:`\lambda` of the mean variance :math:`\bar v` that is added to the covariance is that at which
    held-out samples are most likely.

    Parameters
    ----------
    atoms
        Number of Gaussians. Default: a tenth of the different samples that are fitted, 500 at most.
    point
        The point. Default: the last one.
    bank
        Largest number of fitted samples, drawn at random; all samples are scored for the threshold.
    seed
        Draws the bank, the folds, and the first means.

    Attributes
    ----------
    ridge_
        The share :math:`\lambda`.

    Notes
    -----
    With labels that describe the samples, :class:`RelativePathDetector` and
    :class:`RelativeMahalanobisDetector` are usually better. docs/studies/ood.md, "Without labels".

    References
    ----------
    Dempster, Laird, Rubin (1977). Maximum likelihood from incomplete data via the EM algorithm. JRSS B 39.
    Lee, K. et al. (2018). A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks. NeurIPS: the same score with classes instead of Gaussians that are found.

    Examples
    --------
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> centers = generator.normal(size=(4, 8))
    >>> usual = centers[np.arange(200) % 4] + 0.1 * generator.normal(size=(200, 8))
    >>> detector = MixtureDetector(4).fit(usual)
    >>> detector.predict(np.stack([centers[0], -centers[0]])).tolist()
    [1, -1]
    """

    ridge_: float

    def __init__(
        self, atoms: int | None = None, point: str | None = None, bank: int = 20_000, seed: int = 0
    ) -> None:
        self.atoms = atoms
        self.point = point
        self.bank = bank
        self.seed = seed

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit the mixture; calibration scores are of mixtures that were fitted to other samples.

        Raises
        ------
        RepdynError
            On fewer than 20 different samples, samples that are all equal, or ``atoms`` out of range.
        """
        self._begin(paths, (self.point or paths.points[-1],))
        point = self.points_[0]
        reader = MultiPassReader(paths, self.points_)
        groups = reader.equal(directions)[point]
        for _, arrays in reader.read("measuring norms"):
            self._record_lengths(point, arrays[point])
        kept, self._distinct = bank_rows(groups, self.bank, self.seed, "a mixture")
        self._kept = len(kept)
        chunks = read_chunks(paths.subset(kept), self.points_, "reading samples of the mixture")
        x = np.concatenate([chunk.unit(point) for chunk in chunks])
        atoms = self._count(len(x))
        # One fold for equal samples, so that a copy never scores a fit that has seen it.
        fold = folds_by_group(groups, FIT.folds, np.random.default_rng(self.seed))
        constant = FIT.constant_variance_float64 if paths.dtype == np.float64 else FIT.constant_variance
        parts = [_Fit(x[fold[kept] != k], atoms, self.seed, constant) for k in range(FIT.folds)]
        held = [x[fold[kept] == k] for k in range(FIT.folds)]
        likely = [
            sum(float(part.density(ridge).log(own).sum()) for part, own in zip(parts, held))
            for ridge in MIXTURE.ridges
        ]
        self.ridge_ = MIXTURE.ridges[int(np.argmax(likely))]
        self._density = _Fit(x, atoms, self.seed, constant).density(self.ridge_)
        densities = [part.density(self.ridge_) for part in parts]
        scores, start = np.empty(len(paths)), 0
        for chunk in read_chunks(paths, self.points_, "scoring held-out samples"):
            own = chunk.unit(point)
            rows = slice(start, start + len(own))
            for k, density in enumerate(densities):
                scores[rows][fold[rows] == k] = density.log(own[fold[rows] == k])
            start += len(own)
        self._calibrate(scores, "cross-fitted", groups=groups)
        return self

    def score_chunk(self, chunk: Chunk) -> Array:
        """Log-density, ``(n,)``."""
        return self._density.log(chunk.unit(self.points_[0]))

    def as_module(self) -> MixtureModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import MixtureModule  # loads torch

        self.check_fitted()
        module = MixtureModule(self.points_[0], *self._density, self.threshold_)
        return module.guarded(self._all_limits())

    def sampling_notes(self) -> list[str]:
        """How many Gaussians there are, and from how many samples."""
        return [
            f"mixture of {len(self._density.means)}: " + sample_note(self._kept, self._distinct, self.seed)
        ]

    def _count(self, different: int) -> int:
        """Number of Gaussians for so many different samples."""
        if self.atoms is None:
            return int(np.clip(different // MIXTURE.samples_of_an_atom, 1, MIXTURE.max_atoms))
        atoms = whole("atoms", self.atoms)
        if not 1 <= atoms <= different:
            raise RepdynError(f"atoms: must lie between 1 and the {different} different samples, got {atoms}")
        return atoms

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config = {
            "atoms": self.atoms, "bank": self.bank, "seed": self.seed, "ridge": self.ridge_,
            "different": self._distinct, "kept": self._kept,
        }  # fmt: skip
        return config, {f"mixture {name}": part for name, part in self._density._asdict().items()}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, atoms=int | None, bank=int, seed=int, ridge=float, kept=int)
        width = self.widths_[self.points_[0]]
        named = {name: tensors[f"mixture {name}"] for name in _Density._fields}
        check_arrays(
            named, True, center=f"{width}", whitener=f"{width} {width}", means=f"K {width}", offsets="K"
        )
        self.atoms, self.bank, self.seed = config["atoms"], int(config["bank"]), int(config["seed"])
        self.ridge_, self._kept = float(config["ridge"]), int(config["kept"])
        self._distinct = optional_count(config, "different") or self._kept
        self._density = _Density(**{k: np.asarray(part, dtype=np.float64) for k, part in named.items()})


class _Fit:
    """A fitted mixture of unit vectors ``(M, D)``, with the eigenvectors of its covariance.

    A total variance up to ``constant`` is rounding.
    """

    def __init__(self, x: Array, atoms: int, seed: int, constant: float) -> None:
        import torch  # slow to import

        from repdyn.fields import mixture

        self.center = x.mean(axis=0)
        points = torch.from_numpy(x - self.center)
        self.variance = float(points.square().mean())
        if not self.variance * x.shape[1] > constant:
            raise RepdynError("fit: the samples are all the same vector at this point, up to rounding")
        weights = torch.full((len(points),), 1 / len(points), dtype=points.dtype)
        found = mixture.fit_mixture(points, weights, atoms, seed, MIXTURE.gain * x.shape[1])
        values, axes = torch.linalg.eigh(found.covariance)
        self.values, self.axes = as_array(values.clamp_min(0)), as_array(axes)
        self.means, self.log_weights = as_array(found.means) @ self.axes, as_array(found.weights.log())

    def density(self, ridge: float) -> _Density:
        """The mixture, with this share of the mean variance added to the covariance."""
        width = np.sqrt(self.values + ridge * self.variance)
        constant = -np.log(width).sum() - 0.5 * len(width) * math.log(2 * math.pi)
        return _Density(self.center, self.axes / width, self.means / width, self.log_weights + constant)
