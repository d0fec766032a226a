"""Koopman: depth as a linear dynamical system in learned observables, compared with simpler models."""

from __future__ import annotations

from repdyn.koopman.attack import AttackReport, attack
from repdyn.koopman.autoencoder import KoopmanAutoencoder
from repdyn.koopman.controls import Controls, controls
from repdyn.koopman.edited import EditedKoopman, EditReport
from repdyn.koopman.gain import Gain, gain
from repdyn.koopman.modes import Excitation, excitation
from repdyn.koopman.phases import Phases, phases
from repdyn.koopman.readout import Autonomy, Fidelity, autonomy
from repdyn.koopman.spectrum import KoopmanSpectrum

__all__ = [
    "AttackReport",
    "Autonomy",
    "Controls",
    "EditReport",
    "EditedKoopman",
    "Excitation",
    "Fidelity",
    "Gain",
    "KoopmanAutoencoder",
    "KoopmanSpectrum",
    "Phases",
    "attack",
    "autonomy",
    "controls",
    "excitation",
    "gain",
    "phases",
]
