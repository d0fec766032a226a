"""Probing without data: attractors reached from noise, used as a dictionary for real latents."""

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
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors, upgraded_record
from repdyn.fields.field import LatentField
from repdyn.fields.map import widened
from repdyn.fields.settings import SEARCH
from repdyn.fields.verification import merge_points
from repdyn.intervals import Estimate, ratio_interval
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Probing", "probe_without_data"]

ATTRACTORS, ORTHOGONAL, NOISE = "attractors", "random orthogonal", "random latents"
ENDS = "ends of iteration"
PRINCIPAL, REAL = "principal components of data", "latents of data"


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
    attractors = field.attractors(torch.from_numpy(noise).to(targets), max_steps=max_steps, seed=seed)
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
        return as_array(decode(torch.from_numpy(z).to(like)).flatten(1), np.float64)


def _verdict(error: dict[str, tuple[Estimate, ...]], atoms: tuple[int, ...], n_attractors: int) -> str:
    """Whether attractors reconstruct better than both controls at the largest number of atoms."""
    if not n_attractors or not atoms:
        return "inconclusive" if n_attractors else "not found"
    ours = error[ATTRACTORS][-1]
    beaten = [ours.high < error[name][-1].low for name in (ORTHOGONAL, NOISE)]
    return "found" if all(beaten) else "not found" if not any(beaten) else "inconclusive"
