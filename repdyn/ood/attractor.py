"""The attractor score of Fumero et al. (2025), reproduced under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.chunks import read
from repdyn.ood.crossfit import FOLDS
from repdyn.ood.detector import noted
from repdyn.ood.orbits import Map, apply, as_numpy, as_tensor
from repdyn.ood.residuals import FieldDetector
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group

if TYPE_CHECKING:
    from torch import Tensor

    from repdyn.paths import RepresentationPaths

__all__ = ["AttractorDetector"]

Array = NDArray[np.float64]

SAME = 0.99  # cosine above which the paper counts two ends as one attractor


class AttractorDetector(FieldDetector):
    """Minus the mean distance of a code's orbit to the nearest attractor reached from training codes.

        score(x) = − (1 / n) Σ_{k < n} min_{a ∈ Z*} ‖z_k − a‖,   z_{k+1} = E(D(z_k)), z_0 = E(x),

    over the orbit until ‖z_{k+1} − z_k‖² < ``tol`` or ``max_steps``. Z* are the ends of training orbits
    under the same rule, those of cosine above 0.99 counted once.

    Parameters
    ----------
    encode, decode, point
        As in :class:`FieldDetector`.
    starts
        At most so many training codes are followed to attractors (the paper: 2000).
    tol, max_steps
        The rule to stop (the paper: 1e-6 and 3000 for small auto-encoders, 1e-5 and 500 for large ones).
        The tolerance is absolute and squared, as published, so it depends on the codes' scale.
    seed
        Draws the starts and the folds.

    Notes
    -----
    A reproduction for comparison, not a recommendation: in our runs on small auto-encoders and feature
    surrogates it stayed below the first residual and the reconstruction error. The paper reports it on a
    ViT-MAE, which was not tried. An end that has not converged counts as an attractor, as published.

    References
    ----------
    Fumero, M., Moschella, L., Rodolà, E. & Locatello, F. (2025). Navigating the latent space dynamics of
    neural models. arXiv 2505.22785, section 5.3.
    """

    def __init__(
        self,
        encode: Map | None = None,
        decode: Map | None = None,
        point: str | None = None,
        starts: int = 2000,
        tol: float = 1e-6,
        max_steps: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__(encode, decode, point)
        self.starts = starts
        self.tol = tol
        self.max_steps = max_steps
        self.seed = seed

    _followed: tuple[int | None, int | None]

    def _learn(self, paths: RepresentationPaths) -> Array:
        generator = np.random.default_rng(self.seed)
        chosen = np.sort(generator.permutation(len(paths))[: self.starts])
        # Equal samples end at one attractor: they share a fold.
        _, group = np.unique(self._row_groups[chosen], return_inverse=True)
        fold = folds_by_group(group, FOLDS, generator)
        batches = read(paths.subset(chosen), self.points_, "following training codes")
        ends = np.concatenate([self._ends(batch) for batch in batches])
        usable = np.isfinite(ends).all(axis=1)
        if not usable.any():
            raise RepdynError(
                "fit: every training orbit diverges; the map expands, there is no attractor to find"
            )
        self._attractors = _merged(ends[usable])
        self._followed = len(chosen), len(paths)
        # A training sample's own end is an attractor at distance 0: it is scored against the others' ends.
        scores = np.empty(len(paths))
        rest = np.setdiff1d(np.arange(len(paths)), chosen)
        if len(rest):
            scores[rest] = self._collect(paths.subset(rest), self._score)
        for k in range(FOLDS):
            others = usable & (fold != k)
            if (fold == k).any():
                held_out = _merged(ends[others]) if others.any() else self._attractors
                batches = read(paths.subset(chosen[fold == k]), self.points_, "scoring held-out codes")
                scores[chosen[fold == k]] = np.concatenate([self._against(b, held_out) for b in batches])
        return scores

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        return self._against(batch, self._attractors)

    def _ends(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        encode, _ = self._maps()
        code = apply(encode, as_tensor(encode, batch[self.points_[0]]))
        return as_array(self._follow(code, None)[0], np.float32)

    def _against(self, batch: Mapping[str, NDArray[Any]], attractors: NDArray[np.float32]) -> Array:
        import torch

        encode, _ = self._maps()
        code = apply(encode, as_tensor(encode, batch[self.points_[0]]))
        mean = self._follow(code, torch.as_tensor(attractors).to(code))[1]
        # A diverged orbit is infinitely far; a score must be finite to be ranked.
        return -as_numpy(mean.nan_to_num(nan=1e30, posinf=1e30).clamp_max(1e30))

    def _follow(self, code: Tensor, attractors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ends ``(n, d)`` and mean distances to the nearest attractor ``(n,)``; finished orbits leave."""
        import torch

        encode, decode = self._maps()
        ends, total, count = code.clone(), code.new_zeros(len(code)), code.new_zeros(len(code))
        active = torch.arange(len(code), device=code.device)
        for _ in range(self.max_steps):
            if attractors is not None:
                total[active] += torch.cdist(code, attractors).amin(dim=1)
            count[active] += 1
            after = apply(encode, apply(decode, code))
            ends[active] = after
            speed = (after - code).square().sum(dim=1)
            going = (speed >= self.tol) & speed.isfinite()
            active, code = active[going], after[going]
            if len(active) == 0:
                break
        return ends, total / count

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = super()._state()
        own = {"starts": self.starts, "tol": self.tol, "max_steps": self.max_steps, "seed": self.seed}
        counts = dict(zip(("followed", "samples"), self._followed))
        return {**config, **own, **counts}, {**tensors, "attractors": self._attractors}

    def _drawn(self) -> list[str]:
        followed, samples = self._followed
        if followed is None:
            return []
        return [f"attractors: reached from {followed} of {samples} samples, drawn with seed {self.seed}"]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(config, tensors)
        check_values(config, starts=int, tol=float, max_steps=int, seed=int)
        check_arrays(tensors, True, attractors="A D")
        self.starts, self.tol = int(config["starts"]), float(config["tol"])
        self.max_steps, self.seed = int(config["max_steps"]), int(config["seed"])
        self._followed = noted(config, "followed"), noted(config, "samples")
        self._attractors = np.asarray(tensors["attractors"], dtype=np.float32)


def _merged(ends: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first of every group of ends whose cosine is above 0.99."""
    norm = np.linalg.norm(ends, axis=1, keepdims=True)
    units = ends / np.maximum(norm, 1e-12)
    kept: list[int] = []
    free = np.ones(len(ends), dtype=bool)
    for row in range(len(ends)):
        if free[row]:
            kept.append(row)
            free &= units @ units[row] <= SAME
    return ends[kept]
