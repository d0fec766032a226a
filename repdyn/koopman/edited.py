"""An edited Koopman autoencoder, and the report of what the edit did."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.devices import as_given, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, ratio_interval
from repdyn.koopman.checks import check_same_model
from repdyn.koopman.operators import real_power
from repdyn.koopman.pretrained import describe, restore
from repdyn.koopman.reading import point_number
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["EditReport", "EditedKoopman", "moved"]

_PREFIX = "kae."  # of the autoencoder's tensors in a saved edit
_ROOT_ERROR = 1e-6  # a root whose power misses the map by more, relatively, interpolates something else


@dataclass(frozen=True, eq=False)
class EditReport:
    """What an edit did, on samples that it was not fitted to.

    Attributes
    ----------
    forgotten
        Accuracy on the targeted samples, ``(before, after)``.
    retained
        Macro accuracy on all other samples, ``(before, after)``.
    per_class
        For each class among the others, ``(before, after)``.
    drift
        ``E |x' - x|^2 / var x`` between edited and unedited predictions ``x', x`` of the last point, on the
        samples that were not targeted.
    samples
        Targeted and other samples.
    judge
        ``"head"`` or ``"linear probe"``: what reads the class from the predicted representation.
    chance
        Accuracy of a guess, one over the number of classes.
    """

    forgotten: tuple[Estimate, Estimate]
    retained: tuple[Estimate, Estimate]
    per_class: dict[str, tuple[Estimate, Estimate]]
    drift: Estimate
    samples: tuple[int, int]
    judge: str
    chance: float

    @property
    def verdict(self) -> str:
        """``"found"`` where the target is forgotten to chance or below, by its whole interval.

        ``"inconclusive"`` where only the estimate is, else ``"not found"``.
        """
        after = self.forgotten[1]
        if after.high <= self.chance:
            return "found"
        return "inconclusive" if after.value <= self.chance else "not found"

    def __repr__(self) -> str:
        lines = [
            f"Edit, judged by the {self.judge}; {self.samples[0]} targeted samples, {self.samples[1]} others",
            f"  targeted  {self.forgotten[0]} -> {self.forgotten[1]}  (chance {self.chance:.3f}; "
            f"forgotten to chance or below: {self.verdict})",
            f"  retained  {self.retained[0]} -> {self.retained[1]}",
        ]
        worst = sorted(self.per_class.items(), key=lambda item: item[1][1].value - item[1][0].value)[:5]
        lines += [f"    class {name}: {before} -> {after}" for name, (before, after) in worst]
        lines.append(f"  drift of the others {self.drift}")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Accuracy before and after, of what was to go and of what was to stay."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.forgetting import forgetting

        told = self.to_dict()
        return forgetting(told["forgotten"], told["retained"], told["per_class"])

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> EditReport:
        """The report that :meth:`to_dict` gave."""

        def pair(read: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
            return Estimate(**read["before"]), Estimate(**read["after"])

        return cls(
            pair(found["forgotten"]),
            pair(found["retained"]),
            {name: pair(read) for name, read in found["per_class"].items()},
            Estimate(**found["drift"]),
            (int(found["samples"][0]), int(found["samples"][1])),
            str(found["judge"]),
            float(found["chance"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""

        def pair(found: tuple[Estimate, Estimate]) -> dict[str, Any]:
            return {"before": found[0].to_dict(), "after": found[1].to_dict()}

        return {
            "forgotten": pair(self.forgotten),
            "retained": pair(self.retained),
            "per_class": {name: pair(found) for name, found in self.per_class.items()},
            "drift": self.drift.to_dict(),
            "samples": list(self.samples),
            "judge": self.judge,
            "chance": self.chance,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, eq=False)
class EditedKoopman:
    """A Koopman autoencoder whose operator from the first point to the last was edited.

    Attributes
    ----------
    kae
        The autoencoder, unchanged.
    matrix
        The edited map ``T'``, shape ``(d, d)``, float64.
    quantile
        Of the medoid ball.
    strength
        Weight of a redirected sample, in kept ones.
    redirected
        Rows that were redirected, of those the edit was fitted to.
    report
        What the edit did.
    """

    kae: KoopmanAutoencoder
    matrix: NDArray[np.float64]
    quantile: float
    strength: float
    redirected: int
    report: EditReport

    def __repr__(self) -> str:
        what = f"EditedKoopman: {self.redirected} rows redirected, ball of quantile {self.quantile:g}, "
        what += f"strength {self.strength:g}"
        middle = "can be interpolated" if self.root is not None else f"has two points only: {self._why}"
        return f"{what}\n  its path {middle}\n{self.report}"

    @property
    def verdict(self) -> str:
        """Whether the target is forgotten to chance or below; see :attr:`EditReport.verdict`."""
        return self.report.verdict

    def plot(self) -> go.Figure:
        """Accuracy before and after, of what was to go and of what was to stay."""
        return self.report.plot()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        told = {
            "quantile": self.quantile,
            "strength": self.strength,
            "redirected": self.redirected,
            "root": self.root is not None,
        }
        return {**told, **self.report.to_dict()}

    @property
    def original(self) -> NDArray[np.float64]:
        """The map ``T`` that was edited, shape ``(d, d)``."""
        steps = len(self.kae.points_) - 1
        return as_array(self.kae.operator_.matrix(0, steps), np.float64)

    def observables(self, x: Any) -> Any:
        """Last-point observables ``E(x) T'`` of first-point representations ``(N, width)``.

        An array is answered by an array, a tensor by a tensor on its device in its type.
        """
        encoded = np.asarray(self.kae.encode(as_array(x), self.kae.points_[0]))
        return as_given(encoded.astype(np.float64) @ self.matrix, x)

    def predict(self, x: Any) -> Any:
        """Last-point representations from first-point ones, through the edited map; in kind."""
        reached = self.observables(as_array(x)).astype(np.float32)
        return as_given(self.kae.decode(reached, self.kae.points_[-1]), x)

    @cached_property
    def root(self) -> NDArray[np.float64] | None:
        """One step of the edited path: the real principal root of ``T'``, or ``None``.

        A real matrix has a real principal root of every order if and only if it has no eigenvalue on the
        closed negative real axis. Where it exists, the edited path can be interpolated as the unedited one.
        A root that exists but cannot be computed to 1e-6 (an ill-conditioned map) counts as none.
        """
        steps = len(self.kae.points_) - 1
        found = real_power(self.matrix, 1 / steps)
        if found is None or not np.isfinite(found).all():
            return None
        missed = np.linalg.norm(np.linalg.matrix_power(found, steps) - self.matrix)
        return found if missed <= _ROOT_ERROR * np.linalg.norm(self.matrix) else None

    @property
    def _why(self) -> str:
        values = np.linalg.eigvals(self.matrix)
        real = values.real[np.abs(values.imag) <= 1e-9 * np.abs(values).max()]
        if (real <= 0).any():
            return (
                f"the edited map has {int((real <= 0).sum())} eigenvalues on the closed negative real axis "
                "and so no real root"
            )
        return "the edited map is so ill-conditioned that its root is not one to 1e-6"

    def propagate(self, x: Any, target: str | float) -> Any:
        """Representations at any depth of the edited path, from first-point ones.

        ``D(E(x) T'^(t / L))``, by the principal power.

        Parameters
        ----------
        x
            First-point representations, shape ``(N, width)``; an array is answered by an array, a tensor by a
            tensor on its device in its type.
        target
            A point, or any depth between the first and the last. Between two points the answer is in the
            coordinates of the nearest one, as in :meth:`KoopmanAutoencoder.propagate`.

        Raises
        ------
        RepdynError
            If ``target`` lies between the first and the last point and the edited map has no real root.
        """
        points = self.kae.points_
        depth = float(point_number(target, points)) if isinstance(target, str) else float(target)
        last = len(points) - 1
        if not 0 <= depth <= last:
            raise RepdynError(f"depth must lie between 0 and {last} (the path's points), got {target}")
        if depth == last:
            return self.predict(x)
        if self.root is None:
            raise RepdynError(f"{self._why}: the edited path has a first and a last point, none between them")
        power = real_power(self.matrix, depth / last)
        assert power is not None  # as the root exists
        encoded = np.asarray(self.kae.encode(as_array(x), points[0])).astype(np.float64)
        reached = (encoded @ power).astype(np.float32)
        return as_given(self.kae.decode(reached, points[round(depth)]), x)

    def run(self, model: Any, x: Any, point: str | None = None, inputs: Any = None) -> Any:
        """What the real model makes of the edited representation: the edit, then the model from there on.

        Parameters
        ----------
        model
            A :class:`~repdyn.TracedModel`, or anything with ``run_from(point, x)``.
        x
            First-point representations, shape ``(N, width)``.
        point
            Where the edited representation is put in; default: the last. Earlier points need the
            edited path to have them (:attr:`root`), and the module there to give one vector a sample: the
            model goes on from what the module gives, not from what was pooled of it.
        inputs
            The prepared inputs of the same samples, where the model needs them to go on.

        Returns
        -------
        What ``model.run_from`` returns: the model's outputs.

        Raises
        ------
        RepdynError
            If the model cannot be run from a point.
        """
        if not callable(getattr(model, "run_from", None)):
            raise RepdynError(
                f"{type(model).__name__} has no run_from(point, x); give what repdyn.load or repdyn.wrap gave"
            )
        where = point or self.kae.points_[-1]
        edited = torch.as_tensor(self.propagate(x, where))
        edited = to(edited, getattr(model, "device", None))
        return model.run_from(where, edited) if inputs is None else model.run_from(where, edited, inputs)

    def drift(self, paths: RepresentationPaths, *, seed: int = 0) -> Estimate:
        """How far the edit moves predictions of other inputs, ``E |x' - x|^2 / var x``: 0 where not at all.

        Parameters
        ----------
        paths
            Of the same model, of any inputs: of data that have nothing to do with what was edited, say.
        seed
            Of the bootstrap.
        """
        check_same_model(self.kae, paths)
        source, first, last = np.asarray(paths[paths.points[0]]), paths.points[0], paths.points[-1]
        reached = self.kae.propagate(source, first, last)
        return moved(reached, self.predict(source), seed, groups_of_equal_rows(source))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the edited map, its report and the autoencoder to a folder."""
        config, tensors = describe(self.kae)
        document = {
            "kae": config,
            "quantile": self.quantile,
            "strength": self.strength,
            "redirected": self.redirected,
            "report": self.report.to_dict(),
        }
        arrays = {_PREFIX + name: value for name, value in tensors.items()}
        save_artifact(path, "edited_koopman", document, {**arrays, "matrix": self.matrix})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> EditedKoopman:
        """Read what :meth:`save` wrote, its autoencoder onto ``device``; default: the CPU.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        # The autoencoder's methods import this module; it is imported here when they are all there.
        from repdyn.koopman.autoencoder import KoopmanAutoencoder

        found = load_artifact(path, "edited_koopman")
        try:
            weights = {n.removeprefix(_PREFIX): v for n, v in found.tensors.items() if n.startswith(_PREFIX)}
            return cls(
                restore(KoopmanAutoencoder, found.config["kae"], weights, path).to(device),
                found.tensors["matrix"],
                float(found.config["quantile"]),
                float(found.config["strength"]),
                int(found.config["redirected"]),
                EditReport.from_dict(found.config["report"]),
            )
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: is not a readable edit ({error})") from None


def moved(before: NDArray[Any], after: NDArray[Any], seed: int, groups: NDArray[np.int64]) -> Estimate:
    """``E |x' - x|^2 / var x`` of predictions ``(N, D)`` before and after an edit, with its interval.

    Rows of one of ``groups`` are equal and are resampled as one.
    """
    squares = np.square(np.asarray(after, dtype=np.float64) - before).sum(axis=1)
    spread = np.square(before - before.mean(axis=0, dtype=np.float64)).sum(axis=1)
    return ratio_interval(sums_by_group(groups, squares), sums_by_group(groups, spread), seed=seed)
