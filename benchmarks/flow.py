"""Can a latent's topology be left free and yet be known? Planted sets, three priors, many seeds.

    python benchmarks/flow.py --seeds 10 --steps 1500 --out flow.jsonl [--minutes 9]

For each planted set and prior: in how many seeds the latent's level-set tree is the planted one, and in how
many the planted number of loops is the number of long bars in the first homology of the latents. Beside
them, both on the raw points: what a latent may not lose. Every (set, prior, seed) is a line of the output;
one that is there already is not run again, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from repdyn.topology import FlowAutoencoder, LevelSetTree
from repdyn.topology.homology import vietoris_rips
from repdyn.topology.planted import PLANTED

# A planted branch rises e times above its saddle at least.
PERSISTENCE = 1.0
# A loop counts when its bar is so many times the next shorter one.
RATIO = 2.0
RAW = "none (raw points)"


def nested(tree: LevelSetTree) -> tuple[object, ...]:
    """The tree as nested pairs, the larger subtree first."""

    def below(node: int) -> tuple[object, ...]:
        children = [below(int(child)) for child in np.flatnonzero(tree.parent == node)]
        return tuple(sorted(children, key=lambda child: (-len(repr(child)), repr(child))))

    return below(len(tree.parent) - 1)


def loops(points: np.ndarray) -> int:
    """Long bars in the first homology: those before the widest relative gap, 0 if no gap is wide."""
    bars = np.sort(np.diff(vietoris_rips(points, landmarks=150)[0][1]).ravel())[::-1][:6]
    ratios = bars[:-1] / np.maximum(bars[1:], 1e-12)
    return int(ratios.argmax() + 1) if len(ratios) and ratios.max() >= RATIO else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(PLANTED), choices=list(PLANTED))
    parser.add_argument("--priors", nargs="+", default=["free", "mixture", "gaussian"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--out", type=Path, default=Path("flow.jsonl"))
    arguments = parser.parse_args()
    began = time.monotonic()
    # One seed of everything first: a benchmark that is cut short has something to say of all.
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for prior in [RAW, *arguments.priors]:
                key = {"set": name, "prior": prior, "seed": seed, "points": arguments.points}
                key["steps"] = 0 if prior == RAW else arguments.steps
                if any(key.items() <= row.items() for row in rows_of(arguments.out)):
                    continue
                if time.monotonic() - began > 60 * arguments.minutes:
                    print(table(rows_of(arguments.out)))
                    return
                row = key | run(name, prior, seed, arguments.points, arguments.steps)
                with arguments.out.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    print(table(rows_of(arguments.out)))


def run(name: str, prior: str, seed: int, points: int, steps: int) -> dict[str, Any]:
    """One fit: is the tree the planted one, are there as many loops?"""
    planted = PLANTED[name]
    x, start = planted.sample(points, seed), time.process_time()
    noise = None
    if prior == RAW:
        tree, latents = LevelSetTree.fit(x, neighbors=30, persistence=PERSISTENCE), x
    else:
        model = FlowAutoencoder(2, prior=prior).fit(x, steps=steps, seed=seed)
        tree, latents = model.tree(persistence=PERSISTENCE), model.encode(x)
        noise = float(model.noise_[0])
    return {
        "tree": nested(tree) == planted.tree,
        "loops": loops(latents) == planted.loops,
        "noise": noise,
        "cpu_seconds": time.process_time() - start,
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Finished runs; an interrupted last line is left out and run again."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """In how many seeds each prior keeps the tree and the loops."""
    lines = ["| set | prior | points | tree | loops | CPU s per fit |", "|" + " --- |" * 6]
    for key in dict.fromkeys((row["set"], row["prior"], row["points"]) for row in rows):
        own = [row for row in rows if (row["set"], row["prior"], row["points"]) == key]
        tree, kept, seconds = (sum(row[name] for row in own) for name in ("tree", "loops", "cpu_seconds"))
        cells = [*map(str, key), f"{tree}/{len(own)}", f"{kept}/{len(own)}", f"{seconds / len(own):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
