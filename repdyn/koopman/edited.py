"""An edited Koopman autoencoder, and the report on its edit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import as_given, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, ratio_interval
from repdyn.koopman.interfaces import AUTOENCODERS, FittedAutoencoder
from repdyn.koopman.operators import real_power
from repdyn.koopman.settings import EditSettings
from repdyn.koopman.states import point_number
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result
from repdyn.tracing import TracedModel

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["EditReport", "EditedKoopman", "relative_change"]

_PREFIX = "kae."  # of the autoencoder's tensors in a saved edit
_SETTINGS = EditSettings()


@dataclass(frozen=True, eq=False)
class EditReport(Result, kind="edit_report"):
    """Accuracy and drift of an edit, on samples that it was not fitted to.

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
        Number of targeted and of other samples.
    judge
        ``"head"`` or ``"linear probe"``: the classifier of the predicted representations.
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
        """Whether the target is forgotten to chance or below.

        ``"found"`` if the whole interval is at or below chance, ``"inconclusive"`` if only the estimate is,
        else ``"not found"``.
        """
        after = self.forgotten[1]
        if after.high <= self.chance:
            return "found"
        return "inconclusive" if after.value <= self.chance else "not found"

    def __repr__(self) -> str:
        lines = [
            f"Edit, evaluated by the {self.judge}; {self.samples[0]} targeted samples, "
            f"{self.samples[1]} others",
            f"  targeted  {self.forgotten[0]} -> {self.forgotten[1]}  (chance {self.chance:.3f}; "
            f"forgotten to chance or below: {self.verdict})",
            f"  retained  {self.retained[0]} -> {self.retained[1]}",
        ]
        worst = sorted(self.per_class.items(), key=lambda item: item[1][1].value - item[1][0].value)[:5]
        lines += [f"    class {name}: {before} -> {after}" for name, (before, after) in worst]
        lines.append(f"  drift of the retained samples {self.drift}")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot accuracy before and after the edit, on targeted and on retained samples."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.forgetting import forgetting

        values = self.to_dict()
        return forgetting(values["forgotten"], values["retained"], values["per_class"])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditReport:
        """The report from the values of :meth:`to_dict`."""

        def pair(read: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
            return Estimate(**read["before"]), Estimate(**read["after"])

        return cls(
            pair(values["forgotten"]),
            pair(values["retained"]),
            {name: pair(read) for name, read in values["per_class"].items()},
            Estimate(**values["drift"]),
            (int(values["samples"][0]), int(values["samples"][1])),
            str(values["judge"]),
            float(values["chance"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""

        def pair(estimates: tuple[Estimate, Estimate]) -> dict[str, Any]:
            return {"before": estimates[0].to_dict(), "after": estimates[1].to_dict()}

        return {
            "forgotten": pair(self.forgotten),
            "retained": pair(self.retained),
            "per_class": {name: pair(estimates) for name, estimates in self.per_class.items()},
            "drift": self.drift.to_dict(),
            "samples": list(self.samples),
            "judge": self.judge,
            "chance": self.chance,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, eq=False)
class EditedKoopman(Result, kind="edited_koopman"):
    """A Koopman autoencoder with an edited operator from the first point to the last.

    Attributes
    ----------
    kae
        The unchanged autoencoder.
    matrix
        The edited map ``T'``, shape ``(d, d)``, float64.
    quantile
        Share of each targeted class that was redirected.
    strength
        Weight of a redirected sample, in retained ones.
    redirected
        Number of redirected rows among those the edit was fitted to.
    report
        Accuracy and drift of the edit.
    """

    kae: FittedAutoencoder
    matrix: NDArray[np.float64]
    quantile: float
    strength: float
    redirected: int
    report: EditReport

    def __repr__(self) -> str:
        what = f"EditedKoopman: {self.redirected} rows redirected, ball of quantile {self.quantile:g}, "
        what += f"strength {self.strength:g}"
        depths = "between its ends" if self.root is not None else f"at its ends only: {self._no_root}"
        return f"{what}\n  the edited path is defined {depths}\n{self.report}"

    @property
    def verdict(self) -> str:
        """Whether the target is forgotten to chance or below; see :attr:`EditReport.verdict`."""
        return self.report.verdict

    def plot(self) -> go.Figure:
        """Plot accuracy before and after the edit, on targeted and on retained samples."""
        return self.report.plot()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        values = {
            "quantile": self.quantile,
            "strength": self.strength,
            "redirected": self.redirected,
            "root": self.root is not None,
        }
        return {**values, **self.report.to_dict()}

    @property
    def original(self) -> NDArray[np.float64]:
        """The map ``T`` before the edit, shape ``(d, d)``."""
        steps = len(self.kae.points_) - 1
        return as_array(self.kae.operator_.matrix(0, steps), np.float64)

    def observables(self, x: Any) -> Any:
        """Last-point observables ``E(x) T' + b`` of first-point representations ``(N, width)``.

        Returns an array for an array, and a tensor of the same device and dtype for a tensor.
        """
        encoded = np.asarray(self.kae.encode(as_array(x), self.kae.points_[0]))
        return as_given(encoded.astype(np.float64) @ self.matrix + self._offset(len(self.kae.points_) - 1), x)

    def _offset(self, depth: float) -> NDArray[np.float64]:
        """The operator's offset on the way from the first point, ``(d,)``, which is not edited."""
        return as_array(self.kae.operator_.offset(0, depth), np.float64)

    def predict(self, x: Any) -> Any:
        """Last-point representations ``(N, width)`` from first-point ones, an array or a tensor as given."""
        reached = self.observables(as_array(x)).astype(np.float32)
        return as_given(self.kae.decode(reached, self.kae.points_[-1]), x)

    @cached_property
    def root(self) -> NDArray[np.float64] | None:
        """One step of the edited path, ``(d, d)``: the real principal root of ``T'``, or ``None``.

        A real matrix has a real principal root of every order if and only if it has no eigenvalue on the
        closed negative real axis. With a root, the edited path is defined at every depth. A root that cannot
        be computed to 1e-6 (an ill-conditioned map) counts as none.
        """
        steps = len(self.kae.points_) - 1
        root = real_power(self.matrix, 1 / steps)
        if root is None or not np.isfinite(root).all():
            return None
        error = np.linalg.norm(np.linalg.matrix_power(root, steps) - self.matrix)
        return root if error <= _SETTINGS.root_error * np.linalg.norm(self.matrix) else None

    @property
    def _no_root(self) -> str:
        """The reason why the edited map has no root."""
        values = np.linalg.eigvals(self.matrix)
        # Rounding leaves real eigenvalues with a small imaginary part.
        real = values.real[np.abs(values.imag) <= 1e-9 * np.abs(values).max()]
        if (real <= 0).any():
            count = int((real <= 0).sum())
            return (
                f"the edited map has {count} eigenvalue{'s' * (count != 1)} on the closed negative real axis "
                "and therefore no real root"
            )
        return "the edited map is too ill-conditioned for a root to 1e-6"

    def propagate(self, x: Any, target: str | float) -> Any:
        """Representations at any depth of the edited path, from first-point ones.

        ``D(E(x) T'^(t / L))``, by the principal power.

        Parameters
        ----------
        x
            First-point representations, shape ``(N, width)``, an array or a tensor. The result has the same
            kind, and for a tensor the same device and dtype.
        target
            A point, or any depth between the first and the last. Between two points the result is in the
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
            raise RepdynError(
                f"{self._no_root}: the edited path is undefined between its first and last point"
            )
        power = real_power(self.matrix, depth / last)
        assert power is not None  # because the root exists
        encoded = np.asarray(self.kae.encode(as_array(x), points[0])).astype(np.float64)
        reached = (encoded @ power + self._offset(depth)).astype(np.float32)
        return as_given(self.kae.decode(reached, points[round(depth)]), x)

    def run(self, model: Any, x: Any, point: str | None = None, inputs: Any = None) -> Any:
        """Run the model from an edited representation on.

        Parameters
        ----------
        model
            A :class:`~repdyn.TracedModel`, or anything with ``run_from(point, x)``.
        x
            First-point representations, shape ``(N, width)``.
        point
            Point whose output is replaced; default: the last. An earlier point needs :attr:`root`, and a
            module with one vector per sample: the output of a module that was pooled cannot be restored.
        inputs
            The prepared inputs of the same samples, if the model needs them after that point.

        Returns
        -------
        The outputs of ``model.run_from``.

        Raises
        ------
        RepdynError
            If the model cannot be run from a point.
        """
        if not callable(getattr(model, "run_from", None)):
            raise RepdynError(
                f"{type(model).__name__} has no run_from(point, x); give a model of repdyn.load or "
                "repdyn.wrap"
            )
        where = point or self.kae.points_[-1]
        edited = torch.as_tensor(self.propagate(x, where))
        edited = to(edited, getattr(model, "device", None))
        return model.run_from(where, edited) if inputs is None else model.run_from(where, edited, inputs)

    @torch.no_grad()
    def intervene(self, model: TracedModel, inputs: Sequence[Any]) -> Any:
        """Outputs of the model with the edit's change added to its own last point.

        The change, ``edited prediction - unedited prediction`` from the first point, is added at every token
        or position of the last point (:meth:`repdyn.TracedModel.patched`). What the autoencoder does not
        explain thus stays as it is. :meth:`run` instead replaces the last point by the edited prediction.

        Parameters
        ----------
        model
            The traced model of the paths.
        inputs
            Samples, before preparation.

        Returns
        -------
        The outputs of the patched model.

        Raises
        ------
        RepdynError
            If the model has no such points.

        Examples
        --------
        >>> import numpy as np
        >>> import repdyn
        >>> from torch import nn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
        >>> x = np.random.default_rng(0).standard_normal((200, 3)).astype("float32")
        >>> paths = repdyn.trace(model, x, points=["0", "1"], labels=(x[:, 0] > 0).astype(int))
        >>> edited = repdyn.KoopmanAutoencoder(4, ()).fit(paths, epochs=2).forget(paths, label=1)
        >>> edited.intervene(model, x[:8]).shape
        torch.Size([8, 2])
        """
        first, last = self.kae.points_[0], self.kae.points_[-1]
        source = as_array(model.read(inputs, [first])[first], np.float32)
        change = torch.as_tensor(self.predict(source) - self.kae.propagate(source, first, last))
        known = model.points[last]

        def add(reached: Tensor) -> Tensor:
            own = as_given(change, reached)
            places = (1,) * (reached.ndim - 2)
            shape = (-1, *places) if known.layout.startswith("NC") else (*places, -1)
            return reached + own.view(len(own), *shape)

        return model.patched({last: add})(model.prepare(inputs))

    def drift(self, paths: RepresentationPaths, *, seed: int = 0) -> Estimate:
        """Relative change of predictions on other inputs, ``E |x' - x|^2 / var x``.

        Parameters
        ----------
        paths
            Paths of the same model and of any inputs, for example of an unrelated data set.
        seed
            Seed of the bootstrap.
        """
        self.kae.check_paths(paths)
        source, first, last = np.asarray(paths[paths.points[0]]), paths.points[0], paths.points[-1]
        reached = self.kae.propagate(source, first, last)
        return relative_change(reached, self.predict(source), seed, groups_of_equal_rows(source))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Self:
        """Read a folder that :meth:`save` wrote.

        Parameters
        ----------
        path
            The folder.
        device
            Device of the autoencoder; default: the CPU.

        Raises
        ------
        RepdynError
            If the folder is missing, holds another kind, or is damaged.
        """
        loaded = super().load(path)
        to(loaded.kae, device)
        return loaded

    def _record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fields, with settings and weights of the autoencoder in place of the module."""
        config, tensors = self.kae.describe()
        values = {
            "kae": config,
            "quantile": self.quantile,
            "strength": self.strength,
            "redirected": self.redirected,
            "report": self.report.to_dict(),
        }
        return values, {**{_PREFIX + name: value for name, value in tensors.items()}, "matrix": self.matrix}

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The edit from the values of :meth:`_record`."""
        weights = {n.removeprefix(_PREFIX): v for n, v in tensors.items() if n.startswith(_PREFIX)}
        try:
            kae = AUTOENCODERS["koopman"].restore(config["kae"], weights, "its autoencoder")
        except RepdynError as error:
            raise ValueError(str(error)) from None  # the caller adds the folder to the message
        return cls(
            kae,
            tensors["matrix"],
            float(config["quantile"]),
            float(config["strength"]),
            int(config["redirected"]),
            EditReport.from_dict(config["report"]),
        )


def relative_change(
    before: NDArray[Any], after: NDArray[Any], seed: int, groups: NDArray[np.int64]
) -> Estimate:
    """``E |x' - x|^2 / var x`` with its interval.

    Parameters
    ----------
    before, after
        Predictions before and after an edit, shape ``(N, D)``.
    seed
        Seed of the bootstrap.
    groups
        Group of each row, ``(N,)``. Equal rows share a group and are resampled together.
    """
    squares = np.square(np.asarray(after, dtype=np.float64) - before).sum(axis=1)
    spread = np.square(before - before.mean(axis=0, dtype=np.float64)).sum(axis=1)
    return ratio_interval(sums_by_group(groups, squares), sums_by_group(groups, spread), seed=seed)
