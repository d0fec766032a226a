"""Out-of-distribution detection on representation paths.

:class:`PathDetector` reads every depth of a path. :class:`MahalanobisDetector`,
:class:`RelativeMahalanobisDetector` and :class:`KNNDetector` read one point and are its controls.
:class:`MixtureDetector` reads one point without labels, and :class:`EnergyTrajectoryDetector` how a point
moves under the energy field of the fitted ones.
:class:`RelativePathDetector` reads relative distances to classes at every depth.
:class:`GuidedEnergyDetector` reads the logits of the model's head. :class:`TrajectoryDetector` reads the
orbit of a code under an auto-encoder. :class:`UnionDetector` combines several detectors. :func:`evaluate`
compares a detector with its controls, and :func:`recommend` chooses one without out-of-distribution data.
:class:`DriftMonitor` scores streams. :class:`MonitoredModel` runs a model and a detector in one pass.
:class:`GenerationMonitor` scores the tokens of a language model while it generates.
:func:`kinds_of_shift` tells corrupted inputs from those of other classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repdyn.ood.calibration import conformal_p_values, conformal_threshold, false_positive_interval
from repdyn.ood.detectors import (
    MahalanobisDetector,
    PathDetector,
    RelativeMahalanobisDetector,
    RelativePathDetector,
)
from repdyn.ood.drift import DriftMonitor, DriftReport
from repdyn.ood.energy_trajectories import EnergyTrajectoryDetector
from repdyn.ood.evaluation import OODEvaluation, evaluate
from repdyn.ood.mixture_detector import MixtureDetector
from repdyn.ood.neighbor_detectors import EnergyDetector, GuidedEnergyDetector, KNNDetector, energy
from repdyn.ood.recommendation import Recommendation, recommend
from repdyn.ood.records import load_detector
from repdyn.ood.shifts import kinds_of_shift
from repdyn.ood.trajectories import (
    AttractorDetector,
    ReconstructionDetector,
    ResidualDetector,
    TrajectoryDetector,
)
from repdyn.ood.union import UnionDetector

if TYPE_CHECKING:
    from repdyn.ood.generation import GenerationMonitor, MonitoredTokens, TokenAlarm
    from repdyn.ood.monitored import Monitored, MonitoredModel

__all__ = [
    "AttractorDetector",
    "DriftMonitor",
    "DriftReport",
    "EnergyDetector",
    "EnergyTrajectoryDetector",
    "GenerationMonitor",
    "GuidedEnergyDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "MixtureDetector",
    "Monitored",
    "MonitoredModel",
    "MonitoredTokens",
    "OODEvaluation",
    "PathDetector",
    "Recommendation",
    "ReconstructionDetector",
    "RelativeMahalanobisDetector",
    "RelativePathDetector",
    "ResidualDetector",
    "TokenAlarm",
    "TrajectoryDetector",
    "UnionDetector",
    "conformal_p_values",
    "conformal_threshold",
    "energy",
    "evaluate",
    "false_positive_interval",
    "kinds_of_shift",
    "load_detector",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name in ("Monitored", "MonitoredModel"):
        from repdyn.ood import monitored  # torch is loaded only for a module

        return getattr(monitored, name)
    if name in ("GenerationMonitor", "MonitoredTokens", "TokenAlarm"):
        from repdyn.ood import generation

        return getattr(generation, name)
    raise AttributeError(f"module 'repdyn.ood' has no attribute {name!r}")
