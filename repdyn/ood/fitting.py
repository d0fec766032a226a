"""Densities at several points of paths, cross-fitted in a few passes over data of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.ood.chunks import Repeated
from repdyn.ood.crossfit import CONSTANT, CONSTANT_DOUBLE, FOLDS, CrossFit, CrossFitting, folds
from repdyn.ood.gaussian import lengths, unit

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["cross_fit_points", "directions"]

FEWEST_DIFFERENT = 2 * FOLDS  # samples that must differ at a point: two for each fold
SUMS = (
    2**30
)  # bytes of sums and densities held together: points that take more are fitted one after the other


def cross_fit_points(
    paths: RepresentationPaths, points: tuple[str, ...], labels: NDArray[np.intp] | None, seed: int
) -> dict[str, CrossFit | None]:
    """The distances that paths give at each point, equal samples in one fold.

    Parameters
    ----------
    paths, points
        What is read: twice to find equal samples, once for the sums, once for the held-out distances.
    labels
        Class numbers ``(N,)``, or ``None``.
    seed
        Draws the folds.

    Returns
    -------
    dict
        ``None`` at a point where too few samples differ.
    """
    again = Repeated(paths, points)
    groups = again.equal(directions)
    constant = CONSTANT_DOUBLE if paths.dtype == np.float64 else CONSTANT
    found: dict[str, CrossFit | None] = dict.fromkeys(points)
    ends = dict.fromkeys(points, (np.inf, 0.0))
    varying = [point for point in points if int(groups[point].max()) + 1 >= FEWEST_DIFFERENT]
    classes = 0 if labels is None else int(labels.max(initial=0)) + 1
    for part in _together(varying, {p: _bytes(_width(paths, p), classes) for p in varying}):
        fits = {p: CrossFitting(labels, folds(groups[p], seed), constant=constant) for p in part}
        for start, arrays in again.read("fitting densities", part):
            for point, x in arrays.items():
                own = lengths(x)
                low, high = ends[point]
                ends[point] = min(low, float(own.min())), max(high, float(own.max()))
                fits[point].see(start, unit(x))
        fits = {point: fit for point, fit in fits.items() if fit.settle()}
        if not fits:
            continue
        for start, arrays in again.read("scoring held-out samples", tuple(fits)):
            for point, x in arrays.items():
                fits[point].score(start, unit(x))
        for point, fit in fits.items():
            found[point] = replace(fit.result(), groups=groups[point], lengths=ends[point])
    return found


def directions(x: NDArray[Any]) -> NDArray[Any]:
    """Unit vectors in the type of the samples: what is compared where only directions are read."""
    return unit(x).astype(x.dtype, copy=False)


def _width(paths: RepresentationPaths, point: str) -> int:
    return paths.widths.get(point, paths.logits_width or 0)


def _bytes(width: int, classes: int) -> int:
    """What a cross-fit holds at one point: scatters of the folds, then a pair of densities for each."""
    return 8 * width * (2 * (FOLDS + 1) * width + FOLDS * classes)


def _together(points: list[str], size: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Points in their order, as many at a time as fit."""
    part: list[str] = []
    for point in points:
        if part and sum(size[p] for p in (*part, point)) > SUMS:
            yield tuple(part)
            part = []
        part.append(point)
    if part:
        yield tuple(part)
