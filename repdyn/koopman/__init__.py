"""Koopman: depth as a linear dynamical system in learned observables, beside what else could explain it."""

from __future__ import annotations

from repdyn.koopman.autoencoder import KoopmanAutoencoder
from repdyn.koopman.autonomy import Autonomy, autonomy
from repdyn.koopman.controls import Controls, controls
from repdyn.koopman.edited import EditedKoopman, EditReport
from repdyn.koopman.fidelity import Fidelity

__all__ = [
    "Autonomy",
    "Controls",
    "EditReport",
    "EditedKoopman",
    "Fidelity",
    "KoopmanAutoencoder",
    "autonomy",
    "controls",
]
