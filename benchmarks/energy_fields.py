"""Fields of noised banks on real models: do they converge, and are basins classes, and shared by two banks?

    python benchmarks/energy_fields.py --cache FOLDER --out rows.jsonl [--bank 3000] [--starts 1000]

FOLDER holds stores of traced paths, ``CORPUS-MODEL.paths``, as ``verdicts.py --cache FOLDER`` leaves them.
Bank, second bank and starts are disjoint rows of a store. For each model and point: starts that do not
settle, modes by scale, adjusted mutual information (AMI) of the basins of unseen starts with their
classes, beside k-means with as many centers, ToMATo (gudhi) and HDBSCAN (scikit-learn) on the same
coordinates, where starts get the label of the nearest member; and the agreement of basins under the two
banks. Pairs of models are compared by their basins for the same inputs.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, parser_of, table, timed
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import NearestNeighbors

import repdyn
from repdyn.fields import EnergyField, EnergyWarning

SOURCES = ("benchmarks/energy_fields.py", "repdyn/fields/energy.py", "repdyn/fields/mean_shift.py")
CELLS = (
    ("clinc150-minilm-l6", "last_hidden_state", True),
    ("clinc150-minilm-l3", "last_hidden_state", True),
    ("banking77-minilm-l6", "last_hidden_state", True),
    ("cifar10-resnet20", "layer3", True),
    ("cifar10-efficientnet", "pooled", True),
    ("mnist-autoencoder0", "5", False),
    ("cifar10-resnet20", "layer2.2", True),
    ("banking77-minilm-l3", "last_hidden_state", True),
)
"""Store, point, and whether latents are compared by cosines."""
PAIRS = (("clinc150-minilm-l6", "clinc150-minilm-l3"), ("banking77-minilm-l6", "banking77-minilm-l3"))


def read(cache: Path, store: str, point: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    paths = repdyn.open_paths(cache / f"{store}.paths")
    return np.asarray(paths[point], dtype=np.float32), np.asarray(paths.labels)


def fitted(x: NDArray[np.float32], unit_length: bool, sigma: float | None = None) -> EnergyField:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # notes are in the rows
        return EnergyField(sigma, unit_length=unit_length).fit(x)


def peers(
    bank: NDArray[np.float32], z: NDArray[np.float32], y: NDArray[Any], count: int
) -> dict[str, tuple[int, float]]:
    """Clusters of the bank by three peers, and the AMI of the starts' clusters with classes."""
    import gudhi.clustering.tomato as tomato

    nearest = NearestNeighbors(n_neighbors=1).fit(bank)
    beside = nearest.kneighbors(z)[1][:, 0]
    found: dict[str, tuple[int, float]] = {}
    means = KMeans(count, n_init=1, random_state=0).fit(bank)
    found["k-means"] = count, adjusted_mutual_info_score(y, means.predict(z))
    merged = tomato.Tomato(density_type="logDTM", k=10, n_clusters=count).fit(bank)
    found["ToMATo"] = int(merged.n_clusters_), adjusted_mutual_info_score(y, merged.labels_[beside])
    dense = HDBSCAN(min_cluster_size=5).fit(bank)
    label = dense.labels_
    kept = NearestNeighbors(n_neighbors=1).fit(bank[label >= 0]) if (label >= 0).any() else None
    assigned = label if kept is None else label[label >= 0][kept.kneighbors(z)[1][:, 0]]
    found["HDBSCAN"] = (
        int(label.max() + 1),
        (0.0 if kept is None else adjusted_mutual_info_score(y, assigned)),
    )
    return found


def cell(cache: Path, store: str, point: str, unit: bool, bank: int, starts: int) -> dict[str, Any]:
    x, y = read(cache, store, point)
    order = np.random.default_rng(0).permutation(len(x))
    bank = min(bank, (len(x) - starts) // 2)
    a, b, s = order[:bank], order[bank : 2 * bank], order[2 * bank : 2 * bank + starts]
    field = fitted(x[a], unit)
    z = field.encode(torch.from_numpy(x[s]))
    # The second bank is compared in the coordinates of the first.
    second = field.at(field.sigma_)
    rows = field.encode(torch.from_numpy(x[b]))
    second.step = type(field.step)(rows, torch.full((bank,), 1 / bank), field.sigma_)
    by_scale = []
    assert field.scales_ is not None
    used = int(np.argmin(np.abs(field.scales_.sigmas - field.sigma_)))
    for sigma in field.scales_.sigmas[max(0, used - 2) : used + 2]:
        basin, modes = field.at(float(sigma)).basins(z)
        second.sigma_, second.step = float(sigma), second.step.at(float(sigma))
        replicated = second.basins(z)[0]
        ends = field.at(float(sigma)).settle(z)
        moving = field.at(float(sigma)).displacement(ends).norm(dim=1) > 1e-3 * sigma
        purity = sum(np.unique(y[s][basin == m], return_counts=True)[1].max() for m in range(len(modes)))
        by_scale.append(
            {
                "sigma": float(sigma),
                "chosen": bool(sigma == field.sigma_),
                "modes": len(modes),
                "not settled": int(moving.sum()),
                "diverged": int((~torch.isfinite(ends).all(dim=1)).sum()),
                "ami": adjusted_mutual_info_score(y[s], basin),
                "purity": float(purity / len(s)),
                "two banks": adjusted_mutual_info_score(basin, replicated),
            }
        )
    count = next(row["modes"] for row in by_scale if row["chosen"])
    return {
        "bank": bank,
        "starts": len(s),
        "classes": len(np.unique(y)),
        "by scale": by_scale,
        "peers": peers(field.bank_.numpy(), z.numpy(), y[s], max(2, count)),
        "notes": list(field.notes_),
    }


def pair(cache: Path, one: str, other: str, bank: int, starts: int) -> dict[str, Any]:
    """Agreement of two models' basins for the same inputs, each at its own scale."""
    labels, modes = [], []
    for store in (one, other):
        x, _ = read(cache, store, "last_hidden_state")
        order = np.random.default_rng(0).permutation(len(x))
        field = fitted(x[order[:bank]], True)
        basin, found = field.basins(field.encode(torch.from_numpy(x[order[-starts:]])))
        labels.append(basin)
        modes.append(len(found))
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, starts, starts) for _ in range(200)]
    boot = [adjusted_mutual_info_score(labels[0][i], labels[1][i]) for i in drawn]
    value = adjusted_mutual_info_score(*labels)
    # Repeated inputs raise the agreement of a resample: its spread is used, not its place.
    margin = 1.96 * float(np.std(boot))
    return {
        "modes": modes,
        "agreement": value,
        "interval": [value - margin, value + margin],
        "shuffled": adjusted_mutual_info_score(generator.permutation(labels[0]), labels[1]),
    }


def main() -> None:
    parser = parser_of(__doc__, "cache", "out")
    parser.add_argument("--bank", type=int, default=3000)
    parser.add_argument("--starts", type=int, default=1000)
    options = parser.parse_args()
    rows = Rows(options.out, ("store", "point", "bank size"), SOURCES)
    torch.set_num_threads(1)
    for one, other in PAIRS:
        if all((options.cache / f"{store}.paths").exists() for store in (one, other)):
            make = partial(pair, options.cache, one, other, options.bank, options.starts)
            row = rows.once(f"{one} | {other}", "pair", options.bank, make=make)
            print(row, flush=True)
    lines = []
    for store, point, unit in CELLS:
        if not (options.cache / f"{store}.paths").exists():
            print(f"{store}: is not in {options.cache}, left out", flush=True)
            continue

        def make(store: str = store, point: str = point, unit: bool = unit) -> dict[str, Any]:
            with timed() as spent:
                found = cell(options.cache, store, point, unit, options.bank, options.starts)
            return found | spent

        row = rows.once(store, point, options.bank, make=make)
        print(row, flush=True)
        for scale in row["by scale"]:
            against = [f"{row['peers'][name][1]:.2f} ({row['peers'][name][0]})" for name in row["peers"]]
            lines.append(
                [
                    f"{store} {point}", f"{scale['sigma']:.3f}{'*' if scale['chosen'] else ''}",
                    str(scale["modes"]), str(scale["diverged"]), str(scale["not settled"]),
                    f"{scale['purity']:.2f}", f"{scale['ami']:.2f}", f"{scale['two banks']:.2f}",
                    *(against if scale["chosen"] else [""] * len(against)),
                ]
            )  # fmt: skip
    heads = ["point", "sigma", "modes", "diverged", "not settled", "purity", "AMI", "two banks"]
    print(table([*heads, "k-means", "ToMATo", "HDBSCAN"], lines))


if __name__ == "__main__":
    main()
