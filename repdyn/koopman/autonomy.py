"""Is depth autonomous: does one map serve every step as well as a map of its own does?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.koopman.controls import controls
from repdyn.koopman.fidelity import unexplained
from repdyn.paths import RepresentationPaths

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Autonomy", "autonomy"]

_ROUNDING = 1e-12  # a fraction of variance below this is rounding, of either map


@dataclass(frozen=True, eq=False)
class Autonomy:
    """One-step predictions by a shared affine map and by each step's own, from true representations.

    Attributes
    ----------
    points
        Where each step arrives, in order of depth.
    own, shared
        Fraction of variance unexplained at each of these points, on test paths.
    """

    points: tuple[str, ...]
    own: tuple[Estimate, ...]
    shared: tuple[Estimate, ...]

    @property
    def gap(self) -> tuple[float, ...]:
        """How many times more variance the shared map leaves unexplained, step by step; 1 is autonomous."""
        return tuple(max(s.value, _ROUNDING) / max(o.value, _ROUNDING) for o, s in zip(self.own, self.shared))

    def __repr__(self) -> str:
        width = max(len(point) for point in self.points) + 2
        lines = ["Autonomy of depth: FVU of one step from the true representation"]
        lines += [
            f"  {point:{width}} own map {own}   shared map {shared}   {gap:.1f} times"
            for point, own, shared, gap in zip(self.points, self.own, self.shared, self.gap)
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Both maps' unexplained variance through depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.fidelity import fidelity

        return fidelity(
            self.points,
            {
                "shared map": [e.to_dict() for e in self.shared],
                "each step's own map": [e.to_dict() for e in self.own],
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "points": list(self.points),
            "own": [e.to_dict() for e in self.own],
            "shared": [e.to_dict() for e in self.shared],
            "gap": list(self.gap),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the figures to a folder."""
        save_artifact(path, "autonomy", self.to_dict(), {"gap": np.array(self.gap)})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Autonomy:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        found = load_artifact(path, "autonomy").config
        try:
            own, shared = (tuple(Estimate(**e) for e in found[name]) for name in ("own", "shared"))
            return cls(tuple(found["points"]), own, shared)
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: its config.json is not that of an autonomy ({error})") from None


def autonomy(paths: RepresentationPaths, train: RepresentationPaths, *, seed: int = 0) -> Autonomy:
    """Compare one affine map for all steps with one for each, step by step.

    ``u_(l+1) ≈ u_l K`` against ``u_(l+1) ≈ u_l K_l``, in the frames of the controls and with their penalties:
    what no single operator on these coordinates can explain. A lift to more observables may close the gap;
    that it does is what a Koopman autoencoder has to show.

    Parameters
    ----------
    paths
        Test paths.
    train
        Training paths of the same model.
    seed
        Of the penalties' held-out part and the bootstrap.

    Returns
    -------
    Autonomy

    Raises
    ------
    RepdynError
        If the two are paths of different models.
    """
    if paths.points != train.points or paths.widths != train.widths:
        raise RepdynError(
            f"test paths have points {paths.points}, training paths {train.points}, or other widths"
        )
    fitted = controls(train, seed=seed)
    own, shared = [], []
    for number, point in enumerate(paths.points[1:]):
        before = np.asarray(paths[paths.points[number]])
        after = np.asarray(paths[point], dtype=np.float64)
        own.append(unexplained(fitted.step("per-step affine", before, number), after, seed))
        shared.append(unexplained(fitted.step("shared affine", before, number), after, seed))
    return Autonomy(paths.points[1:], tuple(own), tuple(shared))
