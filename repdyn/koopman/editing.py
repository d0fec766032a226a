"""Forgetting without retraining: a closed-form edit of the operator that redirects some inputs.

Observables are rows, and the edited map is the operator from the first point to the last, ``z_L = z_0 T``.
:func:`forget` chooses among edits; :func:`edit_operator` computes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from repdyn.devices import CPU, device_of, double, to
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.koopman.edited import EditedKoopman, EditReport, relative_change
from repdyn.koopman.interfaces import FittedAutoencoder
from repdyn.koopman.readout import Readout, readout_of
from repdyn.koopman.settings import EditSettings
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["edit_operator", "forget", "reweighted", "split", "targets"]

_DEFAULT = EditSettings()


def forget(
    kae: FittedAutoencoder,
    paths: RepresentationPaths,
    *,
    label: Any = None,
    mask: NDArray[np.bool_] | None = None,
    redirect: Any = "mean",
    quantile: float | None = None,
    head: Callable[[Any], Any] | None = None,
    seed: int = 0,
    settings: EditSettings = _DEFAULT,
) -> EditedKoopman:
    """Edit the operator so that targeted inputs are mapped elsewhere and all others are retained.

    Targeted samples whose outputs lie in a ball around the medoid of their class are redirected. The operator
    that redirects them and retains the other samples best, in the least-squares sense, has a closed form
    (:func:`edit_operator`). Three fifths of the paths fit the edit, one fifth chooses among edits, one fifth
    is reported on.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder. It is not changed.
    paths
        Labelled paths that include targeted samples.
    label
        The class to forget, or a list of classes.
    mask
        Instead of a label: the samples to forget, boolean, shape ``(N,)``.
    redirect
        Destination of targeted samples. ``"mean"``: the mean output of the retained samples. ``"nearest"``:
        the mean output of the retained class that is nearest to each. A label: the mean output of that class.
        Without labels, ``"nearest"`` is the nearest single output, as published; it seldom forgets, because
        such outputs lie next to the decision boundary. Least squares stops short of the destination where
        targets lie next to retained rows; destinations half as far again are therefore tried as well.
    quantile
        Share of each targeted class, by distance from its medoid, that is redirected. Default: the one that
        forgets with the least loss elsewhere. The weight of redirected rows and of rows near the boundary
        (:func:`reweighted`) is always chosen so.
    head
        Logits from last-point representations; default: a linear probe.
    seed
        Seed of the parts and of the bootstrap.
    settings
        Candidates and tuned numbers.

    Returns
    -------
    EditedKoopman
        Its ``.report`` has accuracy on targeted and retained samples, and drift.

    Raises
    ------
    RepdynError
        If a label is absent, no sample is left to retain, or every sample lies in the ball.
    """
    kae.check_paths(paths)
    labels, target = targets(paths, label, mask)
    names = np.where(target, "targeted", "other") if labels is None else labels
    readout = readout_of(head, np.asarray(paths[paths.points[-1]]), names, seed, device_of(kae))
    groups = groups_of_equal_rows(np.asarray(paths[paths.points[0]]))
    fit, validation, test = split(names, target, seed, groups, settings)
    z, matrix = _observables(kae, paths)
    destination = _destination(redirect, labels)
    quantiles = settings.quantiles if quantile is None else (quantile,)
    if not all(0 < q <= 1 for q in quantiles):
        raise RepdynError(f"quantile must lie above 0 and not above 1, got {quantile}")

    chance = 1.0 / len(np.unique(names))
    outputs, retained = z[fit] @ matrix, ~target[fit]

    def margins(observables: Tensor, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return readout.margins(_decoded(kae, observables), names[rows])

    unedited = margins(outputs, fit)
    unit = settings.border * float(np.abs(unedited).mean()) or 1.0
    before = margins(z[validation] @ matrix, validation) / unit
    best: tuple[_Rank, _Edit] | None = None

    def consider(edit: _Edit) -> None:
        """Keep the edit if it ranks before the best one so far."""
        nonlocal best
        after = margins(z[validation] @ edit.matrix, validation) / unit
        rank = _rank(before, after, target[validation], chance, settings.forgotten)
        if best is None or rank < best[0]:
            best = rank, edit

    for share in quantiles:
        inside, others = _balls(outputs, names[fit], target[fit], share, settings.medoid_rows)
        if others[retained].all():
            continue
        where = destination(outputs, inside, retained, names[fit])
        for beyond, strength in product(settings.beyond, settings.strengths):
            edited = edit_operator(
                z[fit][inside],
                z[fit][retained],
                matrix,
                _beyond(where, outputs[inside], beyond),
                strength,
                settings=settings,
            )
            consider(_Edit(edited, share, strength, int(inside.sum()), beyond))
    if best is None:
        raise RepdynError(
            "every sample lies in the ball, including those to retain: their outputs are not separated; "
            "give a smaller quantile, or fit the autoencoder for longer"
        )
    share = best[1].quantile
    inside, _ = _balls(outputs, names[fit], target[fit], share, settings.medoid_rows)
    where = destination(outputs, inside, retained, names[fit])

    def violation(observables: Tensor) -> Tensor:
        return torch.from_numpy(_violation(margins(observables, fit) / unit, unedited > 0, target[fit]))

    for beyond, strength in product(settings.beyond, settings.reweighted):
        end = _beyond(where, outputs[inside], beyond)
        edits = reweighted(z[fit], inside, retained, matrix, end, strength, violation, settings=settings)
        # The first has equal weights and was considered above.
        for edited in islice(edits, 1, 1 + settings.rounds):
            consider(_Edit(edited, share, strength, int(inside.sum()), beyond))
    chosen = best[1]
    x, x_edited = _decoded(kae, z[test] @ matrix), _decoded(kae, z[test] @ chosen.matrix)
    read_by = "linear probe" if head is None else "head"
    groups = groups_of_equal_rows(as_array(z[test]))
    report = _report(readout, x, x_edited, names[test], target[test], groups, read_by, chance, seed)
    return EditedKoopman(
        kae, as_array(chosen.matrix), chosen.quantile, chosen.strength, chosen.redirected, report
    )


@dataclass(frozen=True, eq=False)
class _Edit:
    """One candidate: the edited map ``(d, d)``, its quantile, strength, redirected rows, and overshoot."""

    matrix: Tensor
    quantile: float
    strength: float
    redirected: int
    beyond: float


def _beyond(where: Tensor, outputs: Tensor, share: float) -> Tensor:
    """A destination moved further away from the mean of the redirected outputs, by a share of the way."""
    return where + share * (where - outputs.mean(dim=0))


_Rank = tuple[bool, bool, float]


def _rank(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    target: NDArray[np.bool_],
    chance: float,
    forgotten_at: float,
) -> _Rank:
    """Rank of an edit by its margins on validation samples, each ``(n,)``; smaller is better.

    The order is: forgotten, then at chance or below, then the sum of accuracy left on the target and lost on
    the others. "Forgotten" applies Agresti and Coull's adjustment, because 0 of 100 correct does not show an
    accuracy below 1 %. Between edits that forget, samples count by signed margin instead of 0 or 1, since
    samples near the boundary may be on its other side in new data.
    """
    correct = float((after[target] > 0).mean())
    forgotten = (correct * target.sum() + 2) / (target.sum() + 4) <= forgotten_at
    score = expit if forgotten else lambda margins: margins > 0
    left, kept_before, kept = (
        float(score(m).mean()) for m in (after[target], before[~target], after[~target])
    )
    return not forgotten, correct > chance, left + max(kept_before - kept, 0.0)


def _violation(
    margins: NDArray[np.float64], correct: NDArray[np.bool_], target: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How far each row is on the wrong side of the boundary, 0 to 1, shape ``(n,)``.

    Targeted rows count if they are still predicted, retained ones if they were correct and no longer are.
    """
    violation: NDArray[np.float64] = np.where(target, expit(margins + 1), expit(1 - margins) * correct)
    return violation


@torch.no_grad()
def _observables(kae: FittedAutoencoder, paths: RepresentationPaths) -> tuple[Tensor, Tensor]:
    """First-point observables ``(N, d)`` and the operator to the last point ``(d, d)``, float64."""
    first = np.asarray(paths[paths.points[0]])
    z = double(torch.from_numpy(kae.encode(first, paths.points[0])))
    return z, to(kae.operator_.matrix(0, len(paths.points) - 1), CPU, torch.float64)


@torch.no_grad()
def _decoded(kae: FittedAutoencoder, z: Tensor) -> NDArray[Any]:
    """Last-point representations ``(n, width)`` of observables ``(n, d)``, without the operator's offset."""
    offset = to(kae.operator_.offset(0, len(kae.points_) - 1), CPU)
    return np.asarray(kae.decode(as_array((z + offset).float()), kae.points_[-1]))


def _report(
    readout: Readout,
    x: NDArray[Any],
    x_edited: NDArray[Any],
    names: NDArray[Any],
    target: NDArray[np.bool_],
    groups: NDArray[np.int64],
    read_by: str,
    chance: float,
    seed: int,
) -> EditReport:
    """Accuracy and drift of predictions ``(n, width)`` before and after an edit."""
    before, after = readout.correct(x, names), readout.correct(x_edited, names)
    others = np.unique(names[~target])

    def pair(rows: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
        first, last = (mean_of_groups(right[rows], groups[rows], seed=seed) for right in (before, after))
        return first, last

    per_class = {str(name): pair(~target & (names == name)) for name in others}
    # A macro mean is a weighted mean over samples in which each class has the same total weight.
    share = np.array([(names[~target] == name).sum() for name in others])
    weight = (len(names[~target]) / (len(others) * share))[np.searchsorted(others, names[~target])]
    retained = (
        mean_of_groups(before[~target] * weight, groups[~target], seed=seed),
        mean_of_groups(after[~target] * weight, groups[~target], seed=seed),
    )
    drift = relative_change(x[~target], x_edited[~target], seed, groups[~target])
    return EditReport(
        pair(target),
        retained,
        per_class,
        drift,
        (int(target.sum()), int((~target).sum())),
        read_by,
        chance,
    )


def edit_operator(
    targeted: Tensor,
    retained: Tensor,
    matrix: Tensor,
    destination: Tensor,
    strength: float | Tensor = 10.0,
    keep: float | Tensor = 1.0,
    *,
    settings: EditSettings = _DEFAULT,
) -> Tensor:
    """The smallest change of a linear map that redirects some rows and retains the others.

    ``T' = T + (C'KC + r I + H'WH)^-1 H'W(Y - H T)`` with the weights ``K`` and ``W`` on the diagonal. It
    minimizes ``|K^(1/2) (C T' - C T)|^2 + r |T' - T|^2 + |W^(1/2) (H T' - Y)|^2``. This is the batched
    rank-one edit with relaxed equality (EMMET), rewritten so that the system is ``d x d`` for any number of
    rows.

    ``r`` is one number. A coordinate thousands of times as wide as the others would raise it so far that the
    others could not change. Coordinates over 30 times as wide as the median (root mean square) are therefore
    rescaled for the computation.

    Parameters
    ----------
    targeted, retained
        Observables ``H`` and ``C`` at the first point, shapes ``(h, d)`` and ``(c, d)``.
    matrix
        ``T``, shape ``(d, d)``.
    destination
        ``Y``, outputs of the targeted rows after the edit, shape ``(h, d)`` or ``(d,)``.
    strength
        ``W``, weight of a targeted row in retained rows: one number, or one for each, ``(h,)``.
    keep
        ``K``, weight of a retained row: one number, or one for each, ``(c,)``.
    settings
        Ridge and limit of the coordinates.

    Returns
    -------
    Tensor
        ``T'``, shape ``(d, d)``, float64.

    References
    ----------
    Gupta, Sajnani and Anumanchipalli (2024), A unified framework for model editing, arXiv 2403.14236.
    """
    targeted, retained, matrix, destination = (double(t) for t in (targeted, retained, matrix, destination))
    size = (keep * retained.T**2).mean(dim=1).sqrt()
    middle = size[size > 0].median() if (size > 0).any() else size.new_ones(())
    scale = torch.where(size > settings.wide * middle, size / middle, 1.0)
    targeted, retained, matrix = targeted / scale, retained / scale, matrix * scale[:, None]
    kept = (retained.T * keep) @ retained
    kept.diagonal().add_(settings.retain_ridge * kept.diagonal().mean())
    weighted = targeted.T * strength
    change: Tensor = torch.linalg.solve(
        kept + weighted @ targeted, weighted @ (destination - targeted @ matrix)
    )
    return (matrix + change) / scale[:, None]


def reweighted(
    z: Tensor,
    targeted: NDArray[np.bool_],
    retained: NDArray[np.bool_],
    matrix: Tensor,
    destination: Tensor,
    strength: float,
    violation: Callable[[Tensor], Tensor],
    *,
    settings: EditSettings = _DEFAULT,
) -> Iterator[Tensor]:
    """Edits with increasing weights of the rows that the previous edit left on the wrong side.

    Least squares is dominated by the many rows far from any boundary. Reweighting by the violation shifts it
    to rows near the boundary, as in boosting and support vector machines.

    Parameters
    ----------
    z
        Observables, shape ``(n, d)``.
    targeted, retained
        Rows to redirect and to retain, shape ``(n,)``.
    matrix, destination, strength
        As in :func:`edit_operator`.
    violation
        Function from edited observables ``(n, d)`` to the violation of each row, 0 to 1, shape ``(n,)``.
    settings
        Largest weight, and the numbers of :func:`edit_operator`.

    Yields
    ------
    Tensor
        ``T'``, shape ``(d, d)``. The first has equal weights.
    """
    weight = torch.ones(len(z), dtype=torch.float64)
    while True:
        edited = edit_operator(
            z[targeted],
            z[retained],
            matrix,
            destination,
            strength * weight[targeted],
            weight[retained],
            settings=settings,
        )
        yield edited
        weight = (weight * (1 + 2 * violation(z @ edited))).clamp(max=settings.max_weight)


def targets(
    paths: RepresentationPaths, label: Any, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Labels of the paths, or ``None``, and whether each sample is targeted, ``(N,)``.

    Parameters
    ----------
    paths
        Paths with the labels.
    label
        A label, or a list of labels.
    mask
        Instead of a label: boolean, shape ``(N,)``.

    Raises
    ------
    RepdynError
        If a label is absent, the mask has another shape, or both or neither are given.
    """
    labels = None if paths.labels is None else np.asarray(paths.labels)
    if (label is None) == (mask is None):
        raise RepdynError("forget: give either label= (one or several) or mask=, not both and not neither")
    if mask is not None:
        mask = as_array(mask)
        if mask.shape != (len(paths),) or mask.dtype != bool:
            raise RepdynError(
                f"mask must be boolean of shape ({len(paths)},), got {mask.dtype} of shape {mask.shape}"
            )
        if not mask.any():
            raise RepdynError("mask selects no sample, so no sample would be forgotten; set some entries")
        return labels, mask
    if labels is None:
        raise RepdynError("the paths have no labels; give mask= instead of label=")
    wanted = list(label) if isinstance(label, list | tuple | set | np.ndarray) else [label]
    for one in wanted:
        if not np.any(labels == one):
            known = [str(name) for name in np.unique(labels)]
            raise RepdynError(f"there is no sample with label {one!r}; {nearest_names(str(one), known)}")
    return labels, np.isin(labels, wanted)


def split(
    names: NDArray[Any],
    target: NDArray[np.bool_],
    seed: int,
    groups: NDArray[np.int64] | None = None,
    settings: EditSettings = _DEFAULT,
) -> list[NDArray[np.intp]]:
    """Row numbers of three parts: to fit an edit, to choose one, to report on it. Each has every class.

    Parameters
    ----------
    names
        Class of each sample, shape ``(N,)``.
    target
        Whether each sample is targeted, shape ``(N,)``.
    seed
        Seed of the draw.
    groups
        Group of equal samples of each sample, shape ``(N,)``; those of one class stay together.
    settings
        Shares of the parts.

    Raises
    ------
    RepdynError
        If a targeted class has fewer samples than there are parts, or no sample is left to retain.
    """
    draw = np.random.default_rng(seed)
    parts: list[list[NDArray[np.intp]]] = [[] for _ in settings.parts]
    for name in np.unique(names):
        for side in (True, False):
            rows = np.flatnonzero((names == name) & (target == side))
            group = np.arange(len(rows))
            if groups is not None:
                group = np.unique(groups[rows], return_inverse=True)[1]
            order = draw.permutation(int(group.max(initial=-1)) + 1)
            if side and 0 < len(order) < len(parts):
                raise RepdynError(
                    f"{name!r} has {len(order)} different targeted samples; an edit needs at least "
                    f"{len(parts)}: to fit it, to choose it and to evaluate it"
                )
            ends = np.round(np.cumsum(settings.parts) * len(order)).astype(int)
            for part, piece in zip(parts, np.split(order, ends[:-1])):
                part.append(rows[np.isin(group, piece)])
    rows_of = [np.sort(np.concatenate(part)) for part in parts]
    if target.all():
        raise RepdynError("every sample is targeted; at least one must be left to retain and to redirect to")
    if any(not target[rows].any() or target[rows].all() for rows in rows_of):
        raise RepdynError("there are too few samples to fit an edit on some and to evaluate it on others")
    return rows_of


def _destination(
    redirect: Any, labels: NDArray[Any] | None
) -> Callable[[Tensor, NDArray[np.bool_], NDArray[np.bool_], NDArray[Any]], Tensor]:
    """The function that computes where redirected rows are sent.

    Parameters
    ----------
    redirect
        As in :func:`forget`.
    labels
        Labels of the paths, shape ``(N,)``, or ``None``.

    Returns
    -------
    callable
        From outputs ``(n, d)``, masks of redirected and retained rows ``(n,)`` and the classes ``(n,)``, to
        one destination ``(d,)`` or one for each redirected row.

    Raises
    ------
    RepdynError
        If ``redirect`` has another value.
    """
    if redirect not in ("mean", "nearest") and (labels is None or not np.any(labels == redirect)):
        raise RepdynError(f"redirect must be 'mean', 'nearest' or a label of the paths, got {redirect!r}")

    def destination(
        outputs: Tensor, redirected: NDArray[np.bool_], retained: NDArray[np.bool_], names: NDArray[Any]
    ) -> Tensor:
        if redirect == "mean":
            return outputs[retained].mean(dim=0)
        if redirect == "nearest":
            # Single outputs lie next to the boundary, and no linear map separates neighboring rows. Class
            # means lie far enough away.
            candidates = (
                outputs[retained]
                if labels is None
                else torch.stack(
                    [outputs[retained & (names == one)].mean(dim=0) for one in np.unique(names[retained])]
                )
            )
            return torch.cat(
                [
                    candidates[torch.cdist(rows, candidates).argmin(dim=1)]
                    # The distances of 1 000 rows at a time bound the memory.
                    for rows in torch.split(outputs[redirected], 1000)
                ]
            )
        chosen = retained & (names == redirect)
        if not chosen.any():
            raise RepdynError(f"redirect={redirect!r}: all samples of this class are targeted; give another")
        return outputs[chosen].mean(dim=0)

    return destination


def _balls(
    outputs: Tensor, names: NDArray[Any], target: NDArray[np.bool_], quantile: float, medoid_rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows whose outputs lie in a ball around the medoid of a targeted class.

    Parameters
    ----------
    outputs
        Shape ``(n, d)``.
    names, target
        Class of each row, and whether it is targeted, shapes ``(n,)``.
    quantile
        Share of each targeted class that its ball holds.
    medoid_rows
        Number of rows whose pairwise distances give the medoid.

    Returns
    -------
    tuple
        Masks ``(n,)``: targeted rows in the ball of their class, and other rows in any ball.
    """
    inside = np.zeros(len(target), dtype=bool)
    others = np.zeros(len(target), dtype=bool)
    for name in np.unique(names[target]):
        rows = np.flatnonzero(target & (names == name))
        own = outputs[rows]
        few = own[:: max(1, len(rows) // medoid_rows)]
        medoid = few[torch.cdist(few, few).sum(dim=1).argmin()]
        distance = as_array((outputs - medoid).norm(dim=1))
        radius = np.quantile(distance[rows], quantile)
        inside[rows[distance[rows] <= radius]] = True
        others |= ~target & (distance <= radius)
    return inside, others
