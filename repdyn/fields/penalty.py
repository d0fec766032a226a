"""How much contraction a surrogate needs: trials of its field, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.fields.field import LatentField

__all__ = ["PENALTIES", "Trial", "choose_trial", "try_field"]

PENALTIES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""From none to where a single attractor is usual."""
STARTS, STEPS = 256, 500
"""Held-out codes followed in a trial, and plain steps allowed for each."""
DIVERGED = 1e-3
"""Share of diverging starts that is still tolerable."""
CROWDED = 0.8
"""Attractors for each start from which on they are as many as starts."""


@dataclass(frozen=True)
class Trial:
    """What a penalty does to the field, on held-out samples.

    Attributes
    ----------
    penalty
        Weight of the squared gain.
    unexplained
        Fraction of the features' variance that reconstruction leaves.
    first_step
        Mean length of the first step, relative to the spread of the codes: the signal that is left.
    settled, diverged
        Shares of the starts that reached an attractor, and that left for good.
    attractors, starts
        How many were reached, from how many starts.
    gain
        Root mean square factor by which the map stretches a random direction at the codes.
    """

    penalty: float
    unexplained: float
    first_step: float
    settled: float
    diverged: float
    attractors: int
    starts: int
    gain: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def try_field(
    encoder: nn.Module, decoder: nn.Module, test: Tensor, penalty: float, *, seed: int = 0
) -> Trial:
    """Follow the field of an auto-encoder from held-out samples ``(M, D)``."""
    field = LatentField.from_autoencoder(encoder, decoder)
    with torch.no_grad():
        codes = encoder(test)
        error = (decoder(codes) - test).square().sum() / (test - test.mean(dim=0)).square().sum()
    # Every start to its own end: of near-marginal fields a long way to an attractor may trap the others.
    found = field.attractors(codes[:STARTS], max_steps=STEPS, tol=1e-4, seed=seed)
    direction = torch.randn(codes.shape, generator=torch.Generator().manual_seed(seed)).to(codes)
    direction = direction / direction.norm(dim=1, keepdim=True)
    gain = field.jvp(codes, direction)[1].square().sum(dim=1).mean().sqrt()
    step = field.velocity(codes).norm(dim=1).mean() / found.scale
    return Trial(
        penalty=penalty,
        unexplained=float(error),
        first_step=float(step),
        settled=float((found.basin >= 0).mean()),
        diverged=float((found.status == "diverged").mean()),
        attractors=len(found),
        starts=len(found.basin),
        gain=float(gain),
    )


def choose_trial(trials: Sequence[Trial]) -> tuple[int, tuple[str, ...]]:
    """The trial to take, and what must be warned of.

    Among fields that hardly diverge, have more than one attractor and not one for each start, and settle for
    at least half of the starts, the one that reconstructs best. Where none is such, the fewest failings
    decide, divergence weighing most, then too few or too many attractors, then unsettled starts.

    Parameters
    ----------
    trials
        At least one.

    Returns
    -------
    index, notes
    """

    def failings(trial: Trial) -> tuple[bool, bool, bool, float, float]:
        unsettled = trial.settled < 0.5
        # Where all diverge the least divergence counts, where none settles the most settled.
        graded = trial.diverged if trial.diverged > DIVERGED else -trial.settled if unsettled else 0.0
        return trial.diverged > DIVERGED, _poor(trial), unsettled, graded, trial.unexplained

    best = min(range(len(trials)), key=lambda i: failings(trials[i]))
    taken, notes = trials[best], []
    if taken.diverged > DIVERGED:
        notes.append(f"the map expands: {taken.diverged:.1%} of held-out samples diverge; raise the penalty")
    if taken.attractors == 0:
        notes.append("no attractor was reached within the budget; destinations tell nothing")
    if taken.attractors == 1:
        notes.append("there is one attractor: destinations tell nothing; lower the penalty")
    if taken.attractors >= CROWDED * taken.starts:
        notes.append(f"there are about as many attractors as starts ({taken.attractors}), unshared")
    if taken.attractors > 0 and taken.settled < 0.5:
        notes.append(f"only {taken.settled:.0%} of held-out samples reach an attractor")
    return best, tuple(notes)


def _poor(trial: Trial) -> bool:
    return trial.attractors <= 1 or trial.attractors >= CROWDED * trial.starts
