"""Phases of depth: planted ones, and those of the traced models of koopman_models.py.

    python benchmarks/koopman_phases.py --cache FOLDER [--models minilm-l6 …] [--planted 20]

Planted: how often number and places of the phases are those that were planted, for each layout, noise and
number of samples. Real models: the paths that koopman_models.py traced into the same cache. Change points are
found on training paths, errors are of test paths. Below: the autonomy gap of each step, and the spectrum of
one generator on 64 linear observables, certified on test paths.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from harness import parser_of
from koopman_models import SETTINGS, parts_of
from numpy.typing import NDArray
from scipy.linalg import expm

from repdyn.koopman import KoopmanAutoencoder, autonomy, phases
from repdyn.koopman.phases import change_points
from repdyn.paths import RepresentationPaths, open_paths

WIDTH = 6
OBSERVABLES = 64


def step(kind: str, draw: np.random.Generator) -> NDArray[np.float64]:
    """A random map of six dimensions that rotates, is symmetric, or is near the identity."""
    a = draw.standard_normal((WIDTH, WIDTH))
    if kind == "rotation":
        turned: NDArray[np.float64] = 0.97 * expm(0.2 * (a - a.T))
        return turned
    if kind == "symmetric":
        _, vectors = np.linalg.eigh(a + a.T)
        stretched: NDArray[np.float64] = vectors @ np.diag(np.linspace(0.75, 1.1, WIDTH)) @ vectors.T
        return stretched
    return np.eye(WIDTH) + 0.2 * a / WIDTH**0.5


def planted(
    layout: tuple[tuple[str, int], ...], noise: float, samples: int, seed: int
) -> RepresentationPaths:
    """Paths with one random map for each phase and one random offset for each step."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((samples, WIDTH))
    states = [x]
    for kind, count in layout:
        own = step(kind, draw)
        for _ in range(count):
            x = x @ own + noise * draw.standard_normal(x.shape) + 0.3 * draw.standard_normal(WIDTH)
            states.append(x)
    return RepresentationPaths.from_arrays({f"p{n}": own.astype(np.float32) for n, own in enumerate(states)})


LAYOUTS = (
    (("rotation", 4), ("symmetric", 4)),
    (("rotation", 3), ("symmetric", 3), ("near identity", 3)),
    (("rotation", 1), ("near identity", 7)),
    (("near identity", 5), ("near identity", 2), ("near identity", 5)),
    (("rotation", 8),),
    (("near identity", 8),),
)


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__, "cache")
    parser.add_argument("--models", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--planted", type=int, default=20, help="draws of each planted layout")
    arguments = parser.parse_args()
    for layout in LAYOUTS if arguments.planted else ():
        lengths = [count for _, count in layout]
        expected = tuple(int(k) for k in np.cumsum([0, *lengths[:-1]]))
        for noise, samples in product((0.0, 0.02, 0.2), (60, 300)):
            hits = sum(
                change_points(planted(layout, noise, samples, seed), seed=seed) == expected
                for seed in range(arguments.planted)
            )
            kinds = ", ".join(f"{count} x {kind}" for kind, count in layout)
            print(
                f"{kinds:60} noise {noise:4} {samples:4} samples: {hits} of {arguments.planted}", flush=True
            )
    for name in arguments.models:
        if SETTINGS[name].stored[0]:
            parts = parts_of(SETTINGS[name], arguments.cache)
        else:
            parts = {p: open_paths(arguments.cache / f"{name}-{p}.paths") for p in ("train", "test")}
        train, test = parts["train"], parts["test"]
        print(f"\n{name}: {len(train)} training and {len(test)} test paths")
        print(phases(test, train))
        print(autonomy(test, train))
        linear = KoopmanAutoencoder(OBSERVABLES, (), operator="generator").fit(train, epochs=1)
        print(linear.spectrum(test, resamples=50), flush=True)


if __name__ == "__main__":
    main()
