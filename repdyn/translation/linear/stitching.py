"""Stitching: model A's body, a translation and the rest of model B, and its accuracy against controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.tracing.hooks import in_evaluation
from repdyn.tracing.model import TracedModel
from repdyn.tracing.reduction import WHOLE
from repdyn.tracing.samples import as_samples, batches
from repdyn.tracing.spec import ModelSpec
from repdyn.tracing.trace import trace
from repdyn.translation.linear.maps import LinearTranslation
from repdyn.translation.linear.modules import affine, register_affine

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["StitchedModel", "StitchingEvaluation", "evaluate_stitching", "stitch"]

READ_AT_ONCE = 64  # inputs in one forward pass of StitchedModel.predict
OURS, OWN, FREQUENT = "translation", "B's own", "most frequent class"

Order = tuple[int, int]
"""The axes of samples and channels."""


class StitchedModel(nn.Module):
    """Feeds A's translated representations into B; built by :func:`stitch`.

    Both models (and B's head, where it is a module of its own) are submodules: ``.to``, ``.eval``,
    ``parameters`` and ``state_dict`` include them. The translation is held as buffers, at first on A's
    device: fine-tuning does not change it. A ``state_dict`` with the translation alone, as version 0.1 saved
    it, loads and leaves the models' weights unchanged.

    Attributes
    ----------
    model_a, model_b
        The modules of both; None where a stand-in has none.
    verdict
        Of the translation.
    points
        Where A is left and B entered; None for A's pooled last point and B's head.
    """

    matrix: Tensor
    offset_a: Tensor
    offset_b: Tensor

    def __init__(
        self,
        model_a: TracedModel,
        translation: LinearTranslation,
        model_b: TracedModel,
        points: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._reads, self._answers = model_a, model_b
        self.verdict, self.points = translation.verdict, points
        self._orders: list[Order | None] = [_order(*end) for end in self._ends()]
        self.model_a, self.model_b = _whole(model_a), _whole(model_b)
        parts = (translation.matrix, translation.offset_a, translation.offset_b)
        register_affine(self, *parts, devices.device_of(self.model_a))
        self.head_b = model_b.head if isinstance(model_b.head, nn.Module) else None
        self.register_load_state_dict_pre_hook(_translation_alone)  # type: ignore[no-untyped-call]

    def translate(self, x: Tensor) -> Tensor:
        """A's representation as B's, pooled ``(N, D_a)`` or every token or place of an unpooled one.

        On the device and in the type of ``x``.
        """
        moved: Tensor = devices.as_given(self._translated(x), x)
        return moved

    def _translated(self, x: Tensor) -> Tensor:
        """:meth:`translate` on the device and in the type of the translation: only B's input is rounded."""
        second = self.points is not None and x.ndim > 2 and self._channels(x) == 1
        moved = affine(x.movedim(1, -1) if second else x, self.matrix, self.offset_a, self.offset_b)
        return moved.movedim(-1, 1) if second else moved

    def _ends(self) -> list[tuple[TracedModel, str]]:
        return list(zip((self._reads, self._answers), self.points or (), strict=False))

    def _channels(self, x: Tensor) -> int:
        """Axis of A's channels: the declared one, or the only one of the width that the translation reads."""
        before, after = len(self.offset_a), len(self.offset_b)
        axis = None if self._orders[0] is None else self._orders[0][1]
        if axis is None:
            fitting = [k for k in (1, x.ndim - 1) if x.shape[k] == before]
            axis = fitting[0] if len(fitting) == 1 else None if fitting else -1
        # With axes of equal length, B would accept an input whose axes are in another order.
        moved = list(x.shape)
        if axis is not None:
            moved[axis] = after
        if axis is None or (self._orders[1] is None and moved[1] == moved[-1]):
            name = (self.points or ("", ""))[0 if axis is None else 1]
            raise RepdynError(
                f"stitch: at {name!r} shape {tuple(moved)} leaves open which axis holds the channels; "
                "call predict with inputs once to determine it, or wrap the model with Points of a layout"
            )
        return axis

    def _find_orders(self, samples: Sequence[Any]) -> None:
        """Find the axes of the channels by passes at other sizes, where no layout is declared."""
        for number, (model, name) in enumerate(self._ends()):
            if self._orders[number] is None:
                with model.reader([name], WHOLE) as read:
                    found = read(samples)
                spread = any(value.ndim > 2 for value in found.values())
                self._orders[number] = _order(read.model, name, known=True) if spread else (0, -1)
        if self._orders[0] != self._orders[1] and self.points is not None:
            raise RepdynError(_other_layouts(self.points, self._orders))

    def forward(self, x: Tensor, inputs: Any = None) -> Tensor:
        """B's logits for A's representation, on the device and in the type of ``x``.

        Parameters
        ----------
        x
            A's pooled last point ``(N, D_a)``; stitched between ``points``, A's unpooled representation.
        inputs
            B's prepared inputs, where B is entered in the middle and needs other inputs after that point,
            such as the mask of padded texts.
        """
        moved, other = self._translated(x), self._answers
        if self.points is not None:
            logits = other.run_from(self.points[1], moved, inputs)
        elif other.head is None:  # refused by stitch; here for the type checker
            raise RepdynError("stitch: model B has no head")
        else:
            logits = devices.call(other.head, devices.to(moved, _device(other, moved)))
        answer: Tensor = devices.as_given(logits, x)
        return answer

    def predict(self, inputs: Any) -> Tensor:
        """B's logits for raw inputs (strings, pictures, arrays) of A, both models in evaluation mode.

        Raises
        ------
        RepdynError
            If there are no inputs, A passes its point more than once, or the points are of two layouts.
        """
        samples, model = as_samples(inputs), self._reads
        plan = batches(samples, range(len(samples)), READ_AT_ONCE, model.lengths, model.padded)
        parts = []
        if None in self._orders:
            self._find_orders(samples.take(np.arange(min(2, len(samples)))))
        name, pool = (model.default_points[-1], "auto") if self.points is None else (self.points[0], WHOLE)
        with torch.no_grad(), in_evaluation(self), model.reader([name], pool) as read:
            for index in plan:
                taken = samples.take(index)
                found = read(taken)
                if len(found) != 1 and self.points is not None:
                    raise RepdynError(
                        f"stitch: point {name!r} is passed {len(found)} times; choose one passed once"
                    )
                inputs_b = None if self.points is None else self._answers.prepare(taken)
                parts.append(self(found[read.points[-1]], inputs_b))
        return torch.cat(parts)[torch.as_tensor(np.argsort(np.concatenate(plan)))]


def stitch(
    model_a: TracedModel,
    t: LinearTranslation,
    model_b: TracedModel,
    points: tuple[str, str] | None = None,
) -> StitchedModel:
    r"""Feed A's translated representations into B's head, or into B from a middle layer on.

    .. math:: x \mapsto h_B\big(t(f_A(x))\big)

    Parameters
    ----------
    model_a
        The model that reads the inputs.
    t
        From A's pooled last point to B's; between ``points``, from the pooled representation at the one to
        that at the other. A mean over tokens or positions commutes with an affine map, so a map fitted on
        pooled points also translates single tokens or positions.
    model_b
        The model whose output is used. It needs a head, or ``run_from`` to be entered at a middle layer.
    points
        Where A is left and B entered, both unpooled, of one layout and one number of tokens or places: two
        vision models at one resolution, two language models of one tokenizer.

    Returns
    -------
    StitchedModel

    Raises
    ------
    RepdynError
        If B has no head; if a point is unknown, or the layouts differ.

    References
    ----------
    Lenc, K. and Vedaldi, A. (2015). Understanding image representations by measuring their equivariance
    and equivalence. CVPR.
    """
    if points is None:
        if model_b.head is None:
            raise RepdynError(
                f"stitch: {model_b.name} has no head; wrap it with one: repdyn.wrap(module, head=classifier)"
            )
        return StitchedModel(model_a, t, model_b)
    for model, point in zip((model_a, model_b), points):
        if point not in model.points:
            raise RepdynError(
                f"stitch: {model.name} has no point {point!r}; {nearest_names(point, model.points)}"
            )
    if not callable(getattr(model_b, "run_from", None)):
        raise RepdynError(f"stitch: {model_b.name} cannot be run from a middle layer; it has no run_from")
    orders = [_order(model, point) for model, point in zip((model_a, model_b), points)]
    if None not in orders and orders[0] != orders[1]:
        raise RepdynError(_other_layouts(points, orders))
    return StitchedModel(model_a, t, model_b, points)


def _order(model: ModelSpec, name: str, known: bool = False) -> Order | None:
    """The axes of a point's samples and channels; None where its layout is neither declared nor known."""
    point = model.points[name]
    if point.trust != "declared" and not known:
        return None
    layout = point.layout
    return layout.index("N"), 1 if layout[1] == "C" and layout != "NC" else -1


def _other_layouts(points: tuple[str, str], orders: Sequence[Order | None]) -> str:
    """Error message for two points of different layouts."""
    words = {0: "first", 1: "second", -1: "last"}
    described = [
        f"{name!r} has its samples on the {words[order[0]]} axis and its channels on the {words[order[1]]}"
        for name, order in zip(points, orders, strict=True)
        if order is not None
    ]
    return f"stitch: {' and '.join(described)}; choose points of one layout"


def _whole(model: TracedModel) -> nn.Module | None:
    """The module with all weights of a model, those of its head included."""
    found = getattr(model, "weights", None) or getattr(model, "module", None)
    return found if isinstance(found, nn.Module) else None


def _device(model: TracedModel, x: Tensor) -> torch.device:
    """The device of a model; for a stand-in without a module, that of the input."""
    module = getattr(model, "module", None)
    return devices.device_of(module) if isinstance(module, nn.Module) else x.device


def _translation_alone(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: a state of version 0.1 holds the translation alone; the models' weights are kept."""
    own = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    models = tuple(f"{prefix}{part}." for part in ("model_a", "model_b", "head_b"))
    if not any(name.startswith(models) for name in state):
        state.update({name: value for name, value in own.items() if name.startswith(models)})


@dataclass(frozen=True, eq=False)
class StitchingEvaluation(Result, kind="stitching"):
    """Accuracy of A's body, a translation and B's head, and of its controls, with 95 % intervals.

    Attributes
    ----------
    accuracy
        By name: ``"translation"``; the controls ``"most frequent class"``, ``"random map"`` (orthogonal,
        between the same centers) and, where widths agree, ``"identity"``; and ``"B's own"``, B on the
        inputs themselves, which is the ceiling.
    samples
        Number of inputs.
    verdict
        ``"found"`` where the accuracy exceeds that of every control, with the interval of each paired
        difference above 0. ``"not found"`` where the interval of the difference to some control is at or
        below 0. ``"inconclusive"`` otherwise.
    """

    accuracy: Mapping[str, Estimate]
    samples: int
    verdict: str

    def __repr__(self) -> str:
        lines = [f"StitchingEvaluation on {self.samples} inputs, verdict {self.verdict!r}"]
        lines += [f"  {name:20s} {value}" for name, value in self.accuracy.items()]
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Accuracies as bars, the translation's first."""
        from repdyn.views.translation import stitching  # loads plotly

        return stitching(self.accuracy, self.verdict)


def evaluate_stitching(
    model_a: TracedModel,
    t: LinearTranslation,
    model_b: TracedModel,
    inputs: Any,
    labels: ArrayLike,
    *,
    seed: int = 0,
) -> StitchingEvaluation:
    """Accuracy of B's head on A's translated representations, compared with simpler maps.

    Parameters
    ----------
    model_a, t, model_b
        As in :func:`stitch`, through B's head.
    inputs
        N inputs for both models, none of which a map was fitted on. Equal ones count once in the intervals.
    labels
        B's class numbers, shape ``(N,)``.
    seed
        Of the random map and of the bootstraps.

    Returns
    -------
    StitchingEvaluation

    Raises
    ------
    RepdynError
        If B has no head, or labels are not one class number of B's for each input.

    References
    ----------
    Lenc, K. and Vedaldi, A. (2015). Understanding image representations by measuring their equivariance
    and equivalence. CVPR. Moschella, L. et al. (2023). Relative representations enable zero-shot latent space
    communication. ICLR (zero-shot stitching).
    """
    stitch(model_a, t, model_b)  # raises before anything is read
    head = cast(nn.Module, model_b.head)
    read_a, read_b = (
        np.asarray(paths[paths.points[-1]]).astype(np.float64)
        for paths in (trace(m, inputs, points=[m.default_points[-1]]) for m in (model_a, model_b))
    )
    wanted = as_array(labels)
    if wanted.shape != (len(read_a),) or wanted.dtype.kind not in "iu":
        raise RepdynError(
            f"labels: one class number for each of {len(read_a)} inputs is needed, "
            f"got shape {wanted.shape} of {wanted.dtype}"
        )
    entering = {OURS: t(read_a), **_controls(t, read_a, seed), OWN: read_b}
    right: dict[str, NDArray[np.bool_]] = {}
    for name, points in entering.items():
        with torch.no_grad():
            x = devices.to(torch.as_tensor(points, dtype=torch.float32), model_b.device)
            logits = devices.call(head, x)
        if wanted.min() < 0 or wanted.max() >= logits.shape[1]:
            raise RepdynError(
                f"labels: B's head has {logits.shape[1]} classes, got {wanted.min()} to {wanted.max()}"
            )
        right[name] = as_array(logits.argmax(dim=1)) == wanted
    right[FREQUENT] = wanted == np.bincount(wanted).argmax()
    controls = [name for name in right if name not in (OURS, OWN)]
    equal = groups_of_equal_rows(np.concatenate([read_a, read_b], axis=1))
    beyond = [mean_of_groups(right[OURS].astype(float) - right[name], equal, seed=seed) for name in controls]
    verdict = (
        "found"
        if min(difference.low for difference in beyond) > 0
        else "not found"
        if min(difference.high for difference in beyond) <= 0
        else "inconclusive"
    )
    accuracy = {name: mean_of_groups(right[name], equal, seed=seed) for name in (OURS, *controls, OWN)}
    return StitchingEvaluation(accuracy, len(wanted), verdict)


def _controls(t: LinearTranslation, read: NDArray[np.float64], seed: int) -> dict[str, NDArray[np.float64]]:
    """A's points under controls: a random map with the centers and the scale of t, and the identity."""
    rows, columns = t.matrix.shape
    scale = np.linalg.norm(t.matrix) / np.sqrt(min(rows, columns))
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns))))[0]
    frame = frame if rows >= columns else frame.T
    found = {"random map": (read - t.offset_a) @ (scale * frame) + t.offset_b}
    return found | ({"identity": read} if rows == columns else {})
