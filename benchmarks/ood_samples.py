"""What a setting of the out-of-distribution benchmark is made of: traced samples, and what a seed draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from repdyn.paths import RepresentationPaths

__all__ = ["Array", "Drawn", "Setting", "Traced", "drawn", "in_memory"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One seed's samples of a setting: disjoint parts of the in-distribution set, and the foreign sets."""

    fit: RepresentationPaths
    calibration: RepresentationPaths
    test: RepresentationPaths
    foreign: dict[str, RepresentationPaths]
    statistics: dict[str, Array]
    maps: dict[str, dict[str, Array]]
    head: tuple[Array, Array] | None = None
    autoencoder: tuple[nn.Module, nn.Module] | None = None


@dataclass(frozen=True, eq=False)
class Setting:
    """A model and its data; ``draw(seed)`` gives what one seed fits, calibrates on and scores."""

    name: str
    draw: Callable[[int], Drawn]


@dataclass(frozen=True, eq=False)
class Traced:
    """A set of samples: paths, low-level statistics and what ``ood_maps.py`` reads, row by row."""

    paths: RepresentationPaths
    statistics: Array
    maps: dict[str, Array] = field(default_factory=dict)

    def take(self, index: Array) -> Traced:
        """Some of the samples."""
        maps = {name: rows[index] for name, rows in self.maps.items()}
        return Traced(self.paths.subset(index), self.statistics[index], maps)


def drawn(
    fit: Traced,
    calibration: Traced,
    test: Traced,
    foreign: Mapping[str, Traced],
    head: tuple[Array, Array] | None = None,
    autoencoder: tuple[nn.Module, nn.Module] | None = None,
) -> Drawn:
    """Parts that one seed drew, as the detectors take them."""
    statistics = {"in-distribution": test.statistics, **{k: v.statistics for k, v in foreign.items()}}
    sets = {name: traced.paths for name, traced in foreign.items()}
    own = {"fit": fit, "calibration": calibration, "in-distribution": test, **foreign}
    maps = {name: traced.maps for name, traced in own.items()} if fit.maps else {}
    return Drawn(fit.paths, calibration.paths, test.paths, sets, statistics, maps, head, autoencoder)


def in_memory(paths: RepresentationPaths, labels: Any) -> RepresentationPaths:
    """Paths of a store, read once and kept."""
    arrays = {point: np.asarray(paths[point]) for point in paths.points}
    return RepresentationPaths.from_arrays(arrays, labels=labels, logits=paths.logits, meta=paths.meta)
