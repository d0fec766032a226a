"""Time and memory of matching and translating without pairs, at 2 000, 10 000 and 50 000 samples a model.

    python benchmarks/translation_speed.py [--samples 2000 10000 50000] [--width 384]

Two planted models: inputs of 77 classes in 24 dimensions, each model a random expansion to its width with a
saturating nonlinearity and noise of its own, read on different inputs. Every line is a process of its own,
whose peak memory includes Python and its libraries; "before" is where it stood when the points were made.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from harness import in_a_process, parser_of, peak_resident, table, timed
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
        print(json.dumps(measured(arguments.one, arguments.samples[0], arguments.width)))
        return
    rows = []
    for task in ("translate", "match"):
        for samples in arguments.samples:
            words = ("--one", task, "--samples", samples, "--width", arguments.width)
            rows.append({"task": task, "samples of either": samples, **in_a_process(__file__, *words)})
            print(rows[-1], flush=True)
    head = ("task", "samples of either", "wall s", "CPU s", "peak MiB", "before MiB", "outcome")
    print(table(head, [[row.get(name, row.get("error", "")) for name in head] for row in rows]))


def measured(task: str, samples: int, width: int) -> dict[str, Any]:
    """One task at one size."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(CLASSES, LATENTS))
    mass = generator.dirichlet(np.full(CLASSES, 6.0))
    expansions = generator.normal(size=(2, LATENTS, width)) / np.sqrt(LATENTS)

    def inputs(count: int) -> Floats:
        labels = generator.choice(CLASSES, size=count, p=mass)
        return np.asarray(centers[labels] + 0.35 * generator.normal(size=(count, LATENTS)), dtype=np.float32)

    def read(x: Floats, model: int) -> Floats:
        hidden = np.tanh(x @ expansions[model].astype(np.float32))
        return hidden + 0.05 * generator.standard_normal(hidden.shape, dtype=np.float32)

    a, b, held = read(inputs(samples), 0), read(inputs(samples), 1), inputs(HELD_OUT)
    before = peak_resident()
    if task == "translate":
        with timed() as spent:
            t = translate(*(RepresentationPaths.from_arrays({"last": x}) for x in (a, b)))
        top1 = evaluate_translation(t, read(held, 0), read(held, 1)).top1["translation"]
        outcome = f"{t.verdict}, top-1 {top1.value:.3f}"
    else:
        with timed() as spent:
            trees = [LevelSetTree.fit(components(x)) for x in (a, b)]
            match = match_trees(*trees, a, b)
        outcome = f"{match.verdict}, {len(trees[0].leaves)} and {len(trees[1].leaves)} leaves"
    times = {"wall s": round(spent["seconds"]), "CPU s": round(spent["processor seconds"])}
    return times | {"peak MiB": round(peak_resident()), "before MiB": round(before), "outcome": outcome}


def components(x: Floats) -> Floats:
    """Leading principal components."""
    centered = x - x.mean(0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    return np.asarray(centered @ axes[:, ::-1][:, :TREE_COMPONENTS])


if __name__ == "__main__":
    main()
