"""Time and memory of matching and translating without pairs, at 2 000, 10 000 and 50 000 samples a model.

    python benchmarks/translation_speed.py [--samples 2000 10000 50000] [--width 384]

Two planted models: inputs of 77 classes in 24 dimensions, each model a random expansion to its width with a
saturating nonlinearity and noise of its own, read on different inputs. Every line is a process of its own,
whose peak memory includes Python and its libraries; "before" is where it stood when the points were made.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
from harness import parser_of
from numpy.typing import NDArray

from repdyn.paths import RepresentationPaths
from repdyn.topology import LevelSetTree
from repdyn.translation import evaluate_translation, match_trees, translate

Floats = NDArray[np.float32]

CLASSES, LATENTS, HELD_OUT = 77, 24, 1000
TREE_COMPONENTS = 32
"""Principal components that trees are grown in, as inside the search."""


def main() -> None:
    """A process for every size and task."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, nargs="*", default=[2000, 10_000, 50_000])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--one", choices=("translate", "match"), help="run one task here and print its line")
    arguments = parser.parse_args()
    if arguments.one:
        print(measured(arguments.one, arguments.samples[0], arguments.width))
        return
    print("| task | samples of either | wall s | CPU s | peak MiB | before MiB | outcome |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for task in ("translate", "match"):
        for samples in arguments.samples:
            words = ["--one", task, "--samples", str(samples), "--width", str(arguments.width)]
            done = subprocess.run(
                [sys.executable, __file__, *words], capture_output=True, text=True, check=True
            )
            print(done.stdout.strip(), flush=True)


def measured(task: str, samples: int, width: int) -> str:
    """One task at one size as a line of the table."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, LATENTS))
    mass = generator.dirichlet(np.full(CLASSES, 6.0))
    expansions = generator.normal(size=(2, LATENTS, width)) / np.sqrt(LATENTS)

    def inputs(count: int) -> Floats:
        labels = generator.choice(CLASSES, size=count, p=mass)
        return np.asarray(centres[labels] + 0.35 * generator.normal(size=(count, LATENTS)), dtype=np.float32)

    def read(x: Floats, model: int) -> Floats:
        hidden = np.tanh(x @ expansions[model].astype(np.float32))
        return hidden + 0.05 * generator.standard_normal(hidden.shape, dtype=np.float32)

    a, b, held = read(inputs(samples), 0), read(inputs(samples), 1), inputs(HELD_OUT)
    before, wall, processor = peak(), time.perf_counter(), time.process_time()
    if task == "translate":
        t = translate(*(RepresentationPaths.from_arrays({"last": x}) for x in (a, b)))
        spent = time.perf_counter() - wall, time.process_time() - processor
        top1 = evaluate_translation(t, read(held, 0), read(held, 1)).top1["translation"]
        outcome = f"{t.verdict}, top-1 {top1.value:.3f}"
    else:
        trees = [LevelSetTree.fit(components(x)) for x in (a, b)]
        match = match_trees(*trees, a, b)
        spent = time.perf_counter() - wall, time.process_time() - processor
        outcome = f"{match.verdict}, {len(trees[0].leaves)} and {len(trees[1].leaves)} leaves"
    return (
        f"| {task} | {samples} | {spent[0]:.0f} | {spent[1]:.0f} | {peak():.0f} | {before:.0f} | {outcome} |"
    )


def components(x: Floats) -> Floats:
    """Leading principal components."""
    centred = x - x.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :TREE_COMPONENTS])


def peak() -> float:
    """Highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
