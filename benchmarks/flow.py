"""Can a latent's topology be left free and yet be known? Planted sets, three priors, many seeds.

    python benchmarks/flow.py --seeds 10 --steps 1500 --json flow.json

For each planted set and prior: in how many seeds the latent's level-set tree is the planted one, and in how
many the planted number of loops is the number of long bars in the first homology of the latents. Beside
them, both on the raw points: what a latent may not lose.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from repdyn.topology import FlowAutoencoder, LevelSetTree
from repdyn.topology.homology import vietoris_rips
from repdyn.topology.planted import PLANTED

# A planted branch rises e times above its saddle at least.
PERSISTENCE = 1.0
# A loop counts when its bar is so many times the next shorter one.
RATIO = 2.0


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
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        planted = PLANTED[name]
        for prior in ["none (raw points)", *arguments.priors]:
            trees, kept, seconds, noise = 0, 0, 0.0, []
            for seed in range(arguments.seeds):
                x, start = planted.sample(arguments.points, seed), time.process_time()
                if prior in arguments.priors:
                    model = FlowAutoencoder(2, prior=prior).fit(x, steps=arguments.steps, seed=seed)
                    tree, latents = model.tree(persistence=PERSISTENCE), model.encode(x)
                    noise.append(float(model.noise_[0]))
                else:
                    tree, latents = LevelSetTree.fit(x, neighbors=30, persistence=PERSISTENCE), x
                trees += nested(tree) == planted.tree
                kept += loops(latents) == planted.loops
                seconds += time.process_time() - start
            row = {
                "set": name,
                "prior": prior,
                "seeds": arguments.seeds,
                "tree": trees,
                "loops": kept,
                "noise": float(np.mean(noise)) if noise else None,
                "cpu_seconds": seconds / arguments.seeds,
            }
            rows.append(row)
            print(
                "{set:24} {prior:18} tree {tree}/{seeds}  loops {loops}/{seeds}  {cpu_seconds:.0f} s".format(
                    **row
                ),
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
