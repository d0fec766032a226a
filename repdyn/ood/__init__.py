"""Out-of-distribution detection: how unlike the training data an input looks, at every depth.

:class:`PathDetector` watches the whole representation path; :class:`MahalanobisDetector`,
:class:`RelativeMahalanobisDetector` and :class:`KNNDetector` watch one point and are what it must beat;
:class:`RelativePathDetector` watches classes at every depth;
:class:`GuidedEnergyDetector` asks the model's own head; :class:`TrajectoryDetector` watches how an
auto-encoder moves a code; :class:`UnionDetector` calibrates several together; :func:`evaluate` puts a
detector beside its controls. :class:`MonitoredModel` is a model and a detector as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repdyn.ood.attractor import AttractorDetector
from repdyn.ood.calibration import conformal_p_values, conformal_threshold, false_positive_interval
from repdyn.ood.controls import energy
from repdyn.ood.detector import load_detector
from repdyn.ood.detectors import (
    MahalanobisDetector,
    PathDetector,
    RelativeMahalanobisDetector,
)
from repdyn.ood.drift import DriftMonitor, DriftReport
from repdyn.ood.evaluation import OODEvaluation, evaluate
from repdyn.ood.guidance import EnergyDetector, GuidedEnergyDetector
from repdyn.ood.neighbours import KNNDetector
from repdyn.ood.recommendation import Recommendation, recommend
from repdyn.ood.relative_path import RelativePathDetector
from repdyn.ood.residuals import ReconstructionDetector, ResidualDetector
from repdyn.ood.trajectories import TrajectoryDetector
from repdyn.ood.union import UnionDetector

if TYPE_CHECKING:
    from repdyn.ood.monitored import Monitored, MonitoredModel

__all__ = [
    "AttractorDetector",
    "DriftMonitor",
    "DriftReport",
    "EnergyDetector",
    "GuidedEnergyDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "Monitored",
    "MonitoredModel",
    "OODEvaluation",
    "PathDetector",
    "Recommendation",
    "ReconstructionDetector",
    "RelativeMahalanobisDetector",
    "RelativePathDetector",
    "ResidualDetector",
    "TrajectoryDetector",
    "UnionDetector",
    "conformal_p_values",
    "conformal_threshold",
    "energy",
    "evaluate",
    "false_positive_interval",
    "load_detector",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name in ("Monitored", "MonitoredModel"):
        from repdyn.ood import monitored  # torch is loaded only for a module

        return getattr(monitored, name)
    raise AttributeError(f"module 'repdyn.ood' has no attribute {name!r}")
