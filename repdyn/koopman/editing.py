"""Forgetting without retraining: a closed-form edit of the operator that redirects some inputs.

Observables are rows and the edited map is the operator from the first point to the last,
``z_L = z_0 T``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.koopman.checks import check_same_model
from repdyn.koopman.edited import EditedKoopman, EditReport, moved
from repdyn.koopman.probes import LinearProbe
from repdyn.koopman.targets import balls, destination, split, targets
from repdyn.paths import RepresentationPaths

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["edit_operator", "forget"]

_QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_PRESERVE = 1e-4  # ridge on what is kept, relative to its mean eigenvalue
_STRENGTHS = (
    3.0,
    10.0,
    30.0,
    100.0,
    300.0,
)  # a redirected row weighs as much as so many kept ones (published: 10)
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
    closed form (:func:`edit_operator`).

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
        that forgets at the least loss elsewhere; how much a redirected sample weighs is always chosen so.
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
    judge = _judge(kae, paths, names, head, seed)
    parts = split(names, target, seed)
    z, matrix = _observables(kae, paths)
    to_state = _decoder(kae)
    place = destination(redirect, labels)
    candidates = _QUANTILES if quantile is None else (quantile,)
    if not all(0 < q <= 1 for q in candidates):
        raise RepdynError(f"quantile must lie above 0 and not above 1, got {quantile}")

    fit, check, final = parts
    best: tuple[tuple[bool, bool, float], float, float, Tensor, int] | None = None
    before = _correct(judge, to_state(z[check] @ matrix), names[check])
    chance = 1.0 / len(np.unique(names))
    outputs, clean = z[fit] @ matrix, ~target[fit]
    for candidate in candidates:
        harmful, others = balls(outputs, names[fit], target[fit], candidate)
        if others[clean].all():
            continue
        there = place(outputs, harmful, clean, names[fit])
        for strength in _STRENGTHS:
            edited = edit_operator(z[fit][harmful], z[fit][clean], matrix, there, strength)
            after = _correct(judge, to_state(z[check] @ edited), names[check])
            order = _order(before, after, target[check], chance)
            if best is None or order < best[0]:
                best = (order, candidate, strength, edited, int(harmful.sum()))
    if best is None:
        raise RepdynError(
            "every sample lies in the ball, those to keep as well: the outputs do not tell them apart; "
            "give a smaller quantile, or fit the autoencoder for longer"
        )
    _, chosen, strength, edited, redirected = best
    report = _report(
        judge, to_state, z[final], matrix, edited, names[final], target[final], head, chance, seed
    )
    return EditedKoopman(kae, edited.numpy(), chosen, strength, redirected, report)


def edit_operator(
    harmful: Tensor, clean: Tensor, matrix: Tensor, destination: Tensor, strength: float = 10.0
) -> Tensor:
    """Least change of a linear map that sends some rows elsewhere and keeps the others.

    ``T' = T + (C'C + r I + w H'H)^-1 w H'(Y - H T)``: it minimises
    ``|C T' - C T|^2 + r |T' - T|^2 + w |H T' - Y|^2``. This is the batched rank-one edit with equality
    relaxed (EMMET), pushed through so that the system solved is ``d x d`` for any number of rows.

    Parameters
    ----------
    harmful, clean
        Observables ``H`` and ``C`` at the first point, shapes ``(h, d)`` and ``(c, d)``.
    matrix
        ``T``, shape ``(d, d)``.
    destination
        ``Y``, where harmful rows shall arrive, shape ``(h, d)`` or ``(d,)``.
    strength
        ``w``: a harmful row weighs as much as so many clean ones.

    Returns
    -------
    Tensor
        ``T'``, shape ``(d, d)``, float64.

    References
    ----------
    Gupta, Sajnani and Anumanchipalli (2024), A unified framework for model editing, arXiv 2403.14236.
    """
    harmful, clean, matrix, destination = (t.double() for t in (harmful, clean, matrix, destination))
    kept = clean.T @ clean
    kept.diagonal().add_(_PRESERVE * kept.diagonal().mean())
    system = kept + strength * harmful.T @ harmful
    change: Tensor = torch.linalg.solve(system, strength * harmful.T @ (destination - harmful @ matrix))
    return matrix + change


Judge = Callable[[NDArray[Any]], NDArray[Any]]


def _order(
    before: NDArray[np.bool_], after: NDArray[np.bool_], target: NDArray[np.bool_], chance: float
) -> tuple[bool, bool, float]:
    """What makes one edit better than another on validation samples; less is better.

    First that it is forgotten, then that it is at chance at least, then least left and lost together. Few
    samples are read with Agresti and Coull's margin: none of 100 right is not yet an accuracy below 1 %.
    """
    right = int(after[target].sum())
    left = right / int(target.sum())
    safe = (right + 2) / (int(target.sum()) + 4)
    lost = float(before[~target].mean() - after[~target].mean())
    return safe > _GONE, left > chance, left + max(lost, 0.0)


@torch.no_grad()
def _observables(kae: KoopmanAutoencoder, paths: RepresentationPaths) -> tuple[Tensor, Tensor]:
    """First-point observables and the operator to the last point, float64."""
    first = np.asarray(paths[paths.points[0]])
    z = torch.from_numpy(kae.encode(first, paths.points[0])).double()
    return z, kae.operator_.matrix(0, len(paths.points) - 1).double().cpu()


def _decoder(kae: KoopmanAutoencoder) -> Callable[[Tensor], NDArray[Any]]:
    last = kae.points_[-1]
    return lambda z: np.asarray(kae.decode(z.float().numpy(), last))


def _judge(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    names: NDArray[Any],
    head: Callable[[Any], Any] | None,
    seed: int,
) -> Judge:
    if head is None:
        return LinearProbe().fit(np.asarray(paths[paths.points[-1]]), names, seed=seed).predict
    if names.dtype.kind not in "iu":
        raise RepdynError("head answers with class numbers, so the labels must be integers")

    @torch.no_grad()
    def decide(x: NDArray[Any]) -> NDArray[Any]:
        logits = torch.as_tensor(head(torch.as_tensor(np.asarray(x, dtype=np.float32))))
        return np.asarray(logits.argmax(dim=-1).cpu())

    return decide


def _correct(judge: Judge, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(judge(x) == names)


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
    before, after = _correct(judge, x, names), _correct(judge, x_edited, names)
    others = np.unique(names[~target])

    def pair(rows: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
        return bootstrap_mean(before[rows], seed=seed), bootstrap_mean(after[rows], seed=seed)

    per_class = {str(name): pair(~target & (names == name)) for name in others}
    # A macro mean is a mean over samples in which each class weighs the same.
    share = np.array([(names[~target] == name).sum() for name in others])
    weight = (len(names[~target]) / (len(others) * share))[np.searchsorted(others, names[~target])]
    retained = (
        bootstrap_mean(before[~target] * weight, seed=seed),
        bootstrap_mean(after[~target] * weight, seed=seed),
    )
    drift = moved(x[~target], x_edited[~target], seed)
    return EditReport(
        pair(target),
        retained,
        per_class,
        drift,
        (int(target.sum()), int((~target).sum())),
        "linear probe" if head is None else "head",
        chance,
    )
