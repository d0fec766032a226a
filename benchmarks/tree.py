"""Time and memory of level-set trees by the number of points, beside the hdbscan package.

    python benchmarks/tree.py --points 10000 30000 100000 --dimensions 64 --json tree.json

Points lie in 50 clusters of 8 intrinsic dimensions each with thin noise in all 64, unevenly filled. Every
measurement runs in a process of its own, so that peak memory is its own. The growth is the slope of log
time against log points: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from harness import in_a_process, keep, parser_of, peak_resident, timed

CLUSTERS = 50
INTRINSIC = 8


def clusters(points: int, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(N, D)`` and the cluster of each."""
    generator = np.random.default_rng(seed)
    share = generator.dirichlet(np.full(CLUSTERS, 5.0))
    label = generator.choice(CLUSTERS, size=points, p=share)
    center = 2.0 * generator.normal(size=(CLUSTERS, dimensions))
    x = center[label] + 0.1 * generator.normal(size=(points, dimensions))
    for cluster in range(CLUSTERS):
        own = np.flatnonzero(label == cluster)
        axes = generator.normal(size=(INTRINSIC, dimensions)) / np.sqrt(INTRINSIC)
        x[own] += generator.normal(size=(len(own), INTRINSIC)) @ axes
    return x, label


def measured(method: str, points: int, dimensions: int, threads: int) -> dict[str, Any]:
    """Fit once, in this process."""
    import torch
    from sklearn.metrics import adjusted_rand_score

    torch.set_num_threads(threads)
    x, truth = clusters(points, dimensions, seed=0)
    if method == "repdyn":
        from repdyn.topology import LevelSetTree

        LevelSetTree.fit(x[:500])  # imports and first calls are not what is measured
    else:
        import hdbscan

        hdbscan.HDBSCAN(min_cluster_size=50).fit(x[:500])
    before = peak_resident() / 2**10
    with timed() as spent:
        if method == "repdyn":
            label = LevelSetTree.fit(x).assignment
        else:
            label = hdbscan.HDBSCAN(min_cluster_size=50, core_dist_n_jobs=threads).fit_predict(x)
    return {
        "method": method,
        "points": points,
        **spent,
        "peak_gb": peak_resident() / 2**10,
        "peak_before_gb": before,
        "clusters": len(set(label.tolist()) - {-1}),
        "rand": float(adjusted_rand_score(truth, label)),
    }


def main() -> None:
    parser = parser_of(__doc__, "json")
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["repdyn", "hdbscan"], choices=["repdyn", "hdbscan"])
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one measurement")
    parser.add_argument("--one", action="store_true", help="one measurement, in the process that this is")
    arguments = parser.parse_args()
    shared = arguments.dimensions, arguments.threads
    if arguments.one:
        print(json.dumps(measured(arguments.methods[0], arguments.points[0], *shared)))
        return
    rows: list[dict[str, Any]] = []
    for method in arguments.methods:
        for points in arguments.points:
            words = ["--one", "--methods", method, "--points", points, "--dimensions", shared[0]]
            row = in_a_process(__file__, *words, "--threads", shared[1], limit=arguments.timeout)
            if "error" in row:
                print(f"{method:8} {points:8} points: {row['error']}", flush=True)
                break
            rows.append(row)
            print(
                "{method:8} {points:8} points: {seconds:7.1f} s, cpu {processor seconds:7.1f} s, "
                "peak {peak_gb:.2f} GB, {clusters} clusters, adjusted Rand index {rand:.3f}".format(**row),
                flush=True,
            )
        own = [row for row in rows if row["method"] == method]
        if len(own) > 1:
            logs = [np.log([row[key] for row in own]) for key in ("points", "seconds", "processor seconds")]
            slopes = [np.polyfit(logs[0], times, 1)[0] for times in logs[1:]]
            print(f"{method:8} growth: points^{slopes[0]:.2f} in seconds, ^{slopes[1]:.2f} in cpu seconds")
    keep(arguments.json, rows)


if __name__ == "__main__":
    main()
