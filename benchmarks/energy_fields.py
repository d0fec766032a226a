"""Fields of noised banks on real models: do they converge, and are basins classes, and shared by two banks?

    python benchmarks/energy_fields.py --cache FOLDER --out rows.jsonl [--bank 5000] [--starts 10000]

Paths are traced once and kept in FOLDER. Bank, second bank and starts are disjoint rows of a store; a store
with fewer rows has smaller banks and fewer starts. Each bank is used as it is, and through a mixture with a
tenth as many atoms, which was chosen on Banking77. For each model and point: starts that do not settle,
modes by scale, adjusted mutual information (AMI) of the basins of unseen starts with their classes, beside
k-means with as many centers, ToMATo (gudhi) and HDBSCAN (scikit-learn) on the same coordinates, where starts
get the label of the nearest member; the agreement of basins under the two banks, each in its own coordinates
and at the scale of the first; and what is left of noise. Pairs of models are compared by their basins for the
same inputs.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, data, made_once, parser_of, table, timed
from numpy.typing import NDArray
from pretrained_autoencoders import Taef2
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from stored_pictures import labeled_jpegs
from translation_data import read

from repdyn.fields import EnergyField, EnergyWarning

SOURCES = (
    "benchmarks/energy_fields.py", "repdyn/fields/energy.py", "repdyn/fields/mean_shift.py",
    "repdyn/fields/mixture.py",
)  # fmt: skip
CELLS = (
    ("minilm-l6", "clinc150", "last_hidden_state", True),
    ("minilm-l3", "clinc150", "last_hidden_state", True),
    ("minilm-l6", "banking77", "last_hidden_state", True),
    ("minilm-l3", "banking77", "last_hidden_state", True),
    ("smollm2", "clinc150", "last_hidden_state", True),
    ("resnet20", "cifar10", "layer3", True),
    ("resnet20", "cifar10", "layer2.2", True),
    ("efficientnet", "cifar10", "pooled", True),
    ("autoencoder0", "mnist", "5", False),
    ("taef2", "cifar10", "codes", False),
)
"""Model, corpus, point, and whether latents are compared by cosines."""
PAIRS = ("clinc150", "banking77")
ATOMS = 0.1
"""Atoms for each point of the bank."""
NOISES = (0.25, 0.35, 0.5, 0.7)
"""In units of the bank's spacing."""


def paths_of(cache: Path, model: str, corpus: str, point: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Representations and classes, traced now or before."""
    if model == "taef2":
        file = made_once(cache / f"{corpus}-{model}.npz", _codes)
        with np.load(file) as held:
            return held["codes"], held["labels"]
    paths = read(model, corpus, cache)
    return np.asarray(paths[point], dtype=np.float32), np.asarray(paths.labels)


def _codes(out: Path) -> None:
    """Codes of CIFAR-10 under TAEF2."""
    pictures, labels = labeled_jpegs("cifar10_jpeg", "_test")
    x = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    model = Taef2(data("models"), x.shape[-1])
    with torch.no_grad():
        codes = torch.cat([model.encode(part) for part in x.split(500)])
    np.savez(out, codes=codes.numpy(), labels=labels)


def fitted(x: NDArray[np.float32], unit_length: bool, atoms: bool) -> EnergyField:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # notes are in the rows
        return EnergyField(unit_length=unit_length, atoms=round(ATOMS * len(x)) if atoms else None).fit(x)


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


def cell(
    cache: Path, which: tuple[str, str, str, bool], bank: int, starts: int, atoms: bool
) -> dict[str, Any]:
    model, corpus, point, unit = which
    x, y = paths_of(cache, model, corpus, point)
    order = np.random.default_rng(0).permutation(len(x))
    bank = min(bank, len(x) // 4)
    a, b, s = order[:bank], order[bank : 2 * bank], order[2 * bank : 2 * bank + starts]
    with timed() as spent:
        field = fitted(x[a], unit, atoms)
    second = fitted(x[b], unit, atoms)
    z, again = (one.encode(torch.from_numpy(x[s])) for one in (field, second))
    by_scale = []
    assert field.scales_ is not None
    used = int(np.argmin(np.abs(field.scales_.sigmas - field.sigma_)))
    for sigma in map(float, field.scales_.sigmas[max(0, used - 2) : used + 2]):
        here = field.at(sigma)
        with timed() as settling:
            basin, modes = here.basins(z)
        ends = modes[torch.from_numpy(basin)]
        purity = sum(np.unique(y[s][basin == m], return_counts=True)[1].max() for m in range(len(modes)))
        by_scale.append(
            {
                "sigma": sigma,
                "chosen": bool(sigma == field.sigma_),
                "modes": len(modes),
                "not settled": int((here.displacement(ends).norm(dim=1) > 1e-3 * sigma).sum()),
                "diverged": int((~torch.isfinite(ends).all(dim=1)).sum()),
                "ami": adjusted_mutual_info_score(y[s], basin),
                "purity": float(purity / len(s)),
                "two banks": adjusted_mutual_info_score(basin, second.at(sigma).basins(again)[0]),
                "settling": settling["processor seconds"],
            }
        )
    count = next(row["modes"] for row in by_scale if row["chosen"])
    own = field.encode(torch.from_numpy(x[a])).numpy()
    return {
        "starts": len(s),
        "classes": len(np.unique(y)),
        "by scale": by_scale,
        "peers": peers(own, z.numpy(), y[s], max(2, count)),
        "left of noise": [left_of_noise(field, z, scale * field.spacing_) for scale in NOISES],
        "notes": list(field.notes_),
        "fit": spent["processor seconds"],
    }


def left_of_noise(field: EnergyField, z: torch.Tensor, sigma: float) -> float:
    """Squared error of denoised unseen points as a share of the noise's variance."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    error = field.at(sigma).step(z + sigma * noise) - z
    return float((error / sigma).square().mean())


def pair(cache: Path, corpus: str, bank: int, starts: int, atoms: bool) -> dict[str, Any]:
    """Agreement of two models' basins for the same inputs, each at its own scale."""
    labels, modes = [], []
    for model in ("minilm-l6", "minilm-l3"):
        x, _ = paths_of(cache, model, corpus, "last_hidden_state")
        order = np.random.default_rng(0).permutation(len(x))
        field = fitted(x[order[: min(bank, len(x) // 4)]], True, atoms)
        basin, found = field.basins(field.encode(torch.from_numpy(x[order[-min(starts, len(x) // 2) :]])))
        labels.append(basin)
        modes.append(len(found))
    generator = np.random.default_rng(0)
    count = len(labels[0])
    drawn = [generator.integers(0, count, count) for _ in range(200)]
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
    parser.add_argument("--bank", type=int, default=5000)
    parser.add_argument("--starts", type=int, default=10_000)
    parser.add_argument("--models", help="Some of the models, with commas between them.")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out, ("what", "atoms", "bank"), SOURCES)
    torch.set_num_threads(1)
    lines = []
    for which in CELLS:
        if options.models and which[0] not in options.models.split(","):
            continue
        for atoms in (False, True):
            make = partial(cell, options.cache, which, options.bank, options.starts, atoms)
            row = rows.once("-".join(which[:3]), atoms, options.bank, make=make)
            print(row, flush=True)
            for scale in row["by scale"]:
                against = [f"{row['peers'][name][1]:.2f} ({row['peers'][name][0]})" for name in row["peers"]]
                lines.append(
                    [
                        f"{' '.join(which[:3])}{', atoms' if atoms else ''}",
                        f"{scale['sigma']:.3f}{'*' if scale['chosen'] else ''}", str(scale["modes"]),
                        str(scale["diverged"]), str(scale["not settled"]), f"{scale['purity']:.2f}",
                        f"{scale['ami']:.2f}", f"{scale['two banks']:.2f}",
                        *(against if scale["chosen"] else [""] * len(against)),
                    ]
                )  # fmt: skip
    for corpus in PAIRS:
        for atoms in (False, True):
            make = partial(pair, options.cache, corpus, options.bank, options.starts, atoms)
            print(
                corpus,
                rows.once(f"minilm-l6 | minilm-l3, {corpus}", atoms, options.bank, make=make),
                flush=True,
            )
    heads = ["point", "sigma", "modes", "diverged", "not settled", "purity", "AMI", "two banks"]
    print(table([*heads, "k-means", "ToMATo", "HDBSCAN"], lines))


if __name__ == "__main__":
    main()
