"""A model and its detector as one module: outputs and scores in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.ood.detector import Detector
from repdyn.ood.path_chunks import LOGITS, select_points
from repdyn.tracing.reader import Reader, Reading, ReadLock
from repdyn.tracing.registry import traced

if TYPE_CHECKING:
    from repdyn.tracing.model import TracedModel

__all__ = ["Monitored", "MonitoredModel", "MonitoredModule", "what_to_read"]


class Monitored(NamedTuple):
    """Output and scores of a batch.

    Attributes
    ----------
    output
        Output of the model's head, ``(N, classes)``, as of :meth:`TracedModel.run_from`. For a model without
        a head, or whose head reads another pooling than the detector, the output of its module.
    scores
        ``(N,)``, higher is more normal, on the model's device.
    flagged
        ``(N,)``, true where a score is below the detector's threshold.
    """

    output: Any
    scores: Tensor
    flagged: Tensor


class MonitoredModel(nn.Module):
    """Outputs and scores in one forward pass, on the model's device, without gradients.

    The model runs in evaluation mode, and its mode is restored after every pass; no hook stays in it. Its
    weights and the detector's buffers are parts of this module; the buffers keep float32 when the model is
    converted to another type. A detector that cannot run as a module (:meth:`Detector.as_module`) scores on
    the host. Passes of several threads run one after the other.

    Parameters
    ----------
    model
        The model that the detector's paths were traced from.
    detector
        Fitted.

    Raises
    ------
    RepdynError
        If the detector is not fitted, was fitted on another model, or reads points that the model lacks.

    Examples
    --------
    >>> import numpy as np, repdyn
    >>> from repdyn.ood import PathDetector
    >>> model = repdyn.wrap(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    >>> monitored = MonitoredModel(model, PathDetector().fit(repdyn.trace(model, x)))
    >>> answer = monitored(x[:8])
    >>> answer.output.shape, answer.scores.shape, answer.flagged.dtype
    (torch.Size([8, 4]), torch.Size([8]), torch.bool)
    """

    def __init__(self, model: TracedModel | nn.Module | str, detector: Detector) -> None:
        super().__init__()
        detector.check_fitted()
        subject = traced(model)
        known = detector.source_.get("digest")
        if known is not None and known != subject.digest:
            raise RepdynError(
                f"model: {subject.name} has other weights than the one that the detector was fitted on "
                f"(digest {subject.digest[:12]}, not {str(known)[:12]}); fit a detector on paths of this one"
            )
        self._fitted, self._widths = detector, detector.widths_
        self.model = subject.weights or subject.module
        self.head = subject.head if isinstance(subject.head, nn.Module) else None
        self.detector = _module(detector, subject.device)
        wanted = (*detector.points_, *(() if subject.head is None or subject.final is None else (LOGITS,)))
        points, pool = what_to_read(subject, wanted, str(detector.source_.get("pooling", "auto")))
        self._turn = ReadLock()
        self._reader = Reader(subject, points, pool, output=True)

    def forward(self, samples: Sequence[Any]) -> Monitored:
        """Outputs and scores of samples, as the model's ``prepare`` takes them.

        Raises
        ------
        RepdynError
            As the reader does; if the detector needs logits and there are none.
        """
        return self._run(lambda read: read(samples))

    def prepared(self, inputs: Any, count: int | None = None) -> Monitored:
        """Outputs and scores of inputs of the module itself; see :meth:`repdyn.tracing.Reader.prepared`."""
        return self._run(lambda read: read.prepared(inputs, count))

    def as_module(self) -> MonitoredModule:
        """The pass over prepared inputs as a module of its own, to be exported by ``torch.export`` or ONNX.

        Run one batch before the export: the first batch determines the layouts of the points.

        Returns
        -------
        MonitoredModule
            Maps a prepared input (a tensor, or a mapping of them) to outputs, scores and flags.

        Raises
        ------
        RepdynError
            If the detector cannot run as a module.
        """
        if self.detector is None:
            self._fitted.as_module()  # raises, and names the detector
        return MonitoredModule(self)

    def _run(self, read: Callable[[Reader], Reading]) -> Monitored:
        with torch.no_grad():
            with self._turn, self._reader.attached():
                found = read(self._reader)
            features = select_points(found, self._fitted.points_, self._widths)
            if self.detector is None:
                scores = self._fitted.score_samples(features)
                threshold: Any = self._fitted.threshold_
            else:
                here = next(iter(features.values())).device
                scores = self.detector(devices.to(features, devices.device_of(self.detector)))
                scores, threshold = devices.to((scores, self.detector.threshold), here)
            output = found.output if found.logits is None else found.logits
            return Monitored(output, scores, scores < threshold)

    def _apply(self, function: Any, recurse: bool = True) -> Any:
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        if self.detector is not None and self.detector.threshold.dtype in (torch.float16, torch.bfloat16):
            self.detector = _module(self._fitted, devices.device_of(self.detector))
        return self


class MonitoredModule(nn.Module):
    """A monitored model from prepared inputs to ``(output, scores, flagged)``, as one graph.

    Parameters
    ----------
    monitored
        The monitored model.
    """

    def __init__(self, monitored: MonitoredModel) -> None:
        super().__init__()
        self.monitored = monitored

    def forward(self, inputs: Any) -> tuple[Any, Tensor, Tensor]:
        """Output, scores ``(N,)`` and flags ``(N,)`` of prepared inputs."""
        return tuple(self.monitored.prepared(inputs))


def _module(detector: Detector, device: torch.device) -> nn.Module | None:
    """The detector as a module on a device; None if there is no module for it.

    A module that holds modules of the user stays on their device.
    """
    try:
        module = detector.as_module()
    except RepdynError:
        return None
    return module if next(module.parameters(), None) is not None else devices.to(module, device)


def what_to_read(model: TracedModel, points: Iterable[str], pool: str) -> tuple[tuple[str, ...], str]:
    """The points and the pooling of a model that give the features a detector was fitted on.

    Parameters
    ----------
    model
        The model that is read.
    points
        Points of the detector, with ``"logits"`` if it reads them.
    pool
        The pooling in the detector's metadata.

    Raises
    ------
    RepdynError
        If it reads logits, and the model has no head.
    """
    points = tuple(points)
    names = dict.fromkeys(point for point in points if point != LOGITS)
    if LOGITS in points:
        if model.head is None or model.final is None:
            raise RepdynError(
                f"model: {model.name} has no head, and the detector reads logits; give one that has"
            )
        names[model.final] = None
    # Metadata name the pooling that "auto" stood for.
    return tuple(names), "auto" if pool == model.pooling else pool
