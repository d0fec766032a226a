"""Forgetting without retraining: a closed-form edit of the operator that redirects some inputs.

Observables are rows and the edited map is the operator from the first point to the last,
``z_L = z_0 T``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from repdyn.devices import device_of
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.koopman.checks import check_same_model
from repdyn.koopman.edited import EditedKoopman, EditReport, moved
from repdyn.koopman.judging import Judge, judge_of
from repdyn.koopman.redirection import edit_operator, reweighted
from repdyn.koopman.targets import balls, destination, split, targets
from repdyn.paths import RepresentationPaths
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["forget"]

_QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
# A redirected row weighs as much as so many kept ones (published: 10).
_STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
# Then rows near the border are weighed anew, so many times; more rounds follow single rows of the fit.
_ROUNDS, _REWEIGHTED = 4, (10.0, 30.0)
_BORDER = 0.1  # how near the border is near, in mean margins of the unedited predictions
_GONE = 0.01  # accuracy at which a class counts as forgotten


def forget(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    *,
    label: Any = None,
    mask: NDArray[np.bool_] | None = None,
    redirect: Any = "mean",
    quantile: float | None = None,
    head: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> EditedKoopman:
    """Edit the operator so that some inputs no longer arrive where they did.

    The targeted samples whose outputs lie in a ball about their medoid are redirected, everything that is
    not targeted is kept, and the operator that does both best in the sense of least squares is known in
    closed form (:func:`repdyn.koopman.redirection.edit_operator`).

    Three fifths of the paths are edited with, one fifth chooses the ball, one fifth is reported on.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder, left as it was.
    paths
        Labelled paths, targeted samples among them.
    label
        The class to forget, or several in a list.
    mask
        Instead of a label: the samples to forget, boolean, shape ``(N,)``.
    redirect
        Where targeted samples go: ``"mean"`` (the mean output of the others), ``"nearest"`` (of the others,
        the class whose mean output is nearest to each; the nearest single output where the paths have no
        labels, as published, which seldom forgets: such outputs lie next to the border) or a label (its mean
        output).
    quantile
        Part of each targeted class, by distance from its medoid, that is redirected. By default the one
        that forgets at the least loss elsewhere; how much a redirected sample weighs, and how much rows near
        the border weigh (:func:`repdyn.koopman.redirection.reweighted`), is always chosen so.
    head
        Reads classes from last-point representations; a linear probe unless given.
    seed
        Of the parts and the bootstrap.

    Returns
    -------
    EditedKoopman
        With ``.report``: forgotten, retained, drift.

    Raises
    ------
    RepdynError
        On an absent label, where no sample is left that is not targeted, or where every sample, targeted
        or not, lies in the ball.
    """
    check_same_model(kae, paths)
    labels, target = targets(paths, label, mask)
    names = np.where(target, "targeted", "other") if labels is None else labels
    judge = judge_of(head, np.asarray(paths[paths.points[-1]]), names, seed, device_of(kae))
    parts = split(names, target, seed, groups_of_equal_rows(np.asarray(paths[paths.points[0]])))
    z, matrix = _observables(kae, paths)
    to_state = _decoder(kae)
    place = destination(redirect, labels)
    candidates = _QUANTILES if quantile is None else (quantile,)
    if not all(0 < q <= 1 for q in candidates):
        raise RepdynError(f"quantile must lie above 0 and not above 1, got {quantile}")

    fit, check, final = parts
    best: tuple[tuple[bool, bool, float], float, float, Tensor, int] | None = None
    chance = 1.0 / len(np.unique(names))
    outputs, clean = z[fit] @ matrix, ~target[fit]
    unedited = judge.margins(to_state(outputs), names[fit])
    border = _BORDER * float(np.abs(unedited).mean()) or 1.0
    before = judge.margins(to_state(z[check] @ matrix), names[check]) / border

    def consider(edited: Tensor, candidate: float, strength: float, redirected: int) -> None:
        nonlocal best
        after = judge.margins(to_state(z[check] @ edited), names[check]) / border
        order = _order(before, after, target[check], chance)
        if best is None or order < best[0]:
            best = (order, candidate, strength, edited, redirected)

    for candidate in candidates:
        harmful, others = balls(outputs, names[fit], target[fit], candidate)
        if others[clean].all():
            continue
        there = place(outputs, harmful, clean, names[fit])
        for strength in _STRENGTHS:
            edited = edit_operator(z[fit][harmful], z[fit][clean], matrix, there, strength)
            consider(edited, candidate, strength, int(harmful.sum()))
    if best is None:
        raise RepdynError(
            "every sample lies in the ball, those to keep as well: the outputs do not tell them apart; "
            "give a smaller quantile, or fit the autoencoder for longer"
        )
    chosen = best[1]
    harmful, _ = balls(outputs, names[fit], target[fit], chosen)
    there = place(outputs, harmful, clean, names[fit])

    def amiss(observables: Tensor) -> Tensor:
        margins = judge.margins(to_state(observables), names[fit]) / border
        return torch.from_numpy(_amiss(margins, unedited > 0, target[fit]))

    for strength in _REWEIGHTED:
        rounds = reweighted(z[fit], harmful, clean, matrix, there, strength, amiss)
        for edited in islice(rounds, 1, 1 + _ROUNDS):  # the first has no weights yet and was considered
            consider(edited, chosen, strength, int(harmful.sum()))
    _, chosen, strength, edited, redirected = best
    report = _report(
        judge, to_state, z[final], matrix, edited, names[final], target[final], head, chance, seed
    )
    return EditedKoopman(kae, edited.numpy(), chosen, strength, redirected, report)


def _order(
    before: NDArray[np.float64], after: NDArray[np.float64], target: NDArray[np.bool_], chance: float
) -> tuple[bool, bool, float]:
    """What makes one edit better than another on validation samples, by their margins; less is better.

    First that the target is forgotten, then that it is at chance at least, then least left and lost
    together. Few samples are read with Agresti and Coull's margin: none of 100 right is not yet an accuracy
    below 1 %. Between edits that forget, what is left and lost counts by distance from the border: one that
    leaves samples just beyond it leaves other samples on this side.
    """
    right = float((after[target] > 0).mean())
    forgotten = (right * target.sum() + 2) / (target.sum() + 4) <= _GONE
    read = expit if forgotten else lambda margins: margins > 0
    left, kept_before, kept = (
        float(read(m).mean()) for m in (after[target], before[~target], after[~target])
    )
    return not forgotten, right > chance, left + max(kept_before - kept, 0.0)


def _amiss(
    margins: NDArray[np.float64], right: NDArray[np.bool_], target: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How far amiss edited rows are, 0 to 1: targeted ones still told, others that no longer are."""
    found: NDArray[np.float64] = np.where(target, expit(margins + 1), expit(1 - margins) * right)
    return found


@torch.no_grad()
def _observables(kae: KoopmanAutoencoder, paths: RepresentationPaths) -> tuple[Tensor, Tensor]:
    """First-point observables and the operator to the last point, float64."""
    first = np.asarray(paths[paths.points[0]])
    z = torch.from_numpy(kae.encode(first, paths.points[0])).double()
    return z, kae.operator_.matrix(0, len(paths.points) - 1).cpu().double()


def _decoder(kae: KoopmanAutoencoder) -> Callable[[Tensor], NDArray[Any]]:
    last = kae.points_[-1]
    return lambda z: np.asarray(kae.decode(z.float().numpy(), last))


def _report(
    judge: Judge,
    to_state: Callable[[Tensor], NDArray[Any]],
    z: Tensor,
    matrix: Tensor,
    edited: Tensor,
    names: NDArray[Any],
    target: NDArray[np.bool_],
    head: Callable[[Any], Any] | None,
    chance: float,
    seed: int,
) -> EditReport:
    x, x_edited = to_state(z @ matrix), to_state(z @ edited)
    before, after = judge.correct(x, names), judge.correct(x_edited, names)
    others = np.unique(names[~target])
    groups = groups_of_equal_rows(z.numpy())

    def pair(rows: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
        first, last = (mean_of_groups(right[rows], groups[rows], seed=seed) for right in (before, after))
        return first, last

    per_class = {str(name): pair(~target & (names == name)) for name in others}
    # A macro mean is a mean over samples in which each class weighs the same.
    share = np.array([(names[~target] == name).sum() for name in others])
    weight = (len(names[~target]) / (len(others) * share))[np.searchsorted(others, names[~target])]
    retained = (
        mean_of_groups(before[~target] * weight, groups[~target], seed=seed),
        mean_of_groups(after[~target] * weight, groups[~target], seed=seed),
    )
    drift = moved(x[~target], x_edited[~target], seed, groups[~target])
    return EditReport(
        pair(target),
        retained,
        per_class,
        drift,
        (int(target.sum()), int((~target).sum())),
        "linear probe" if head is None else "head",
        chance,
    )
