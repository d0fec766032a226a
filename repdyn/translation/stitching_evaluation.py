"""What stitching is worth: accuracy of B's head on what A has read, beside B's own and what needs no map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.reading import as_array
from repdyn.results import Result
from repdyn.translation.linear import LinearTranslation
from repdyn.translation.stitching import stitch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from repdyn.tracing import TracedModel

__all__ = ["StitchingEvaluation", "evaluate_stitching"]

OURS, OWN, FREQUENT = "translation", "B's own", "most frequent class"


@dataclass(frozen=True, eq=False)
class StitchingEvaluation(Result, kind="stitching"):
    """Accuracy of A's body, a translation and B's head, beside its controls, with 95 % intervals.

    Attributes
    ----------
    accuracy
        By name: ``"translation"``; the controls ``"most frequent class"``, ``"random map"`` (orthogonal,
        between the same centres) and, where widths agree, ``"identity"``; and ``"B's own"``, B reading the
        inputs itself, which is the ceiling.
    samples
        Number of inputs.
    verdict
        ``"found"`` where the translation's answers are right more often than those of every control, the
        interval of the paired difference above 0; ``"not found"`` where one control's are at least as often
        right, interval and all; else ``"inconclusive"``.
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
        from repdyn.views.translation import stitching  # plotly loads only when a picture is asked for

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
    """Accuracy of B's head on A's translated representations, beside simpler maps.

    Parameters
    ----------
    model_a, t, model_b
        As in :func:`stitch`, through B's head.
    inputs
        N inputs that both models read, and that nothing was fitted on.
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
    from repdyn.tracing import trace

    stitch(model_a, t, model_b)  # refuses what cannot be stitched before anything is read
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
    beyond = [bootstrap_mean(right[OURS].astype(float) - right[name], seed=seed) for name in controls]
    verdict = (
        "found"
        if min(difference.low for difference in beyond) > 0
        else "not found"
        if min(difference.high for difference in beyond) <= 0
        else "inconclusive"
    )
    accuracy = {name: bootstrap_mean(right[name], seed=seed) for name in (OURS, *controls, OWN)}
    return StitchingEvaluation(accuracy, len(wanted), verdict)


def _controls(t: LinearTranslation, read: NDArray[np.float64], seed: int) -> dict[str, NDArray[np.float64]]:
    """What maps that know nothing make of A's points: a random one keeps the centres and the scale of t."""
    rows, columns = t.matrix.shape
    scale = np.linalg.norm(t.matrix) / np.sqrt(min(rows, columns))
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns))))[0]
    frame = frame if rows >= columns else frame.T
    found = {"random map": (read - t.offset_a) @ (scale * frame) + t.offset_b}
    return found | ({"identity": read} if rows == columns else {})
