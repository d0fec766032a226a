"""Forgetting inside real networks: ResNet-20 on CIFAR-10 and MiniLM-L6 on CLINC150.

    REPDYN_DATA=… python benchmarks/koopman_editing_real.py --cache FOLDER [--models resnet20 minilm-l6]

An autoencoder is fitted to five eighths of the paths, edited with a quarter, and everything printed is of the
last eighth, as the network's own head (ResNet-20) or a linear probe on true last points (MiniLM-L6) reads it:

=============  ============================================================================================
network        the true last point
prediction     the autoencoder's, from the first point
replaced       the edited prediction takes the last point's place (``EditedKoopman.run``)
added          the edit's change is added to the true last point (``EditedKoopman.intervene``)
=============  ============================================================================================

Every class of CIFAR-10 is forgotten in turn; of CLINC150 groups of ten intents. The last two are run in the
network itself. Attacks are those of ``koopman_editing.py``. Drift: mean squared change of the last point of
the other classes, in their variance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import parser_of
from koopman_models import SETTINGS, load
from numpy.typing import NDArray
from translation_data import _corpus, read

from repdyn.intervals import Estimate, bootstrap
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.attack import attack
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.readout import LinearProbe
from repdyn.paths import RepresentationPaths
from repdyn.tracing import TracedModel

CORPORA = {"resnet20": "cifar10", "minilm-l6": "clinc150"}
POINTS = {"resnet20": ("layer2.", "layer3."), "minilm-l6": ("embeddings", "encoder.")}
ENDS = (0, 5 / 8, 7 / 8, 1)
INTENTS = 10  # forgotten together: an eighth of one intent's queries is too few
WAYS = ("network", "prediction", "replaced", "added")
Decide = Callable[[NDArray[Any]], NDArray[Any]]


def parts_of(name: str, whole: RepresentationPaths) -> list[RepresentationPaths]:
    """To fit, to edit with, to report on; the stored order is random."""
    points = [p for p in whole.points if p.startswith(POINTS[name])]
    found = []
    for start, stop in itertools.pairwise(ENDS):
        some = whole.subset(slice(round(start * len(whole)), round(stop * len(whole))))
        labels = np.unique(np.asarray(whole.labels), return_inverse=True)[1][
            round(start * len(whole)) : round(stop * len(whole))
        ]
        found.append(RepresentationPaths.from_arrays({p: np.asarray(some[p]) for p in points}, labels=labels))
    return found


def inside(
    model: TracedModel, edited: EditedKoopman, samples: list[Any], read_class: Decide | None
) -> NDArray[Any]:
    """Classes that the running network gives with the edit's change added, or its pooled output's class."""
    found = []
    for start in range(0, len(samples), 64):
        some = samples[start : start + 64]
        out = edited.intervene(model, some).detach()
        if read_class is None:
            found.append(out.argmax(dim=-1).numpy())
            continue
        mask = model.prepare(some)["attention_mask"][..., None]
        found.append(read_class(((out * mask).sum(dim=1) / mask.sum(dim=1)).numpy()))
    return np.concatenate(found)


def share(right: NDArray[Any], rows: NDArray[Any]) -> Estimate:
    """Accuracy on some rows, with its interval over samples."""
    return bootstrap(lambda x: float(x.mean()), right[rows].astype(float), seed=0)


def mean(values: list[float]) -> str:
    return f"{100 * float(np.mean(values)):8.2f}"


def study(name: str, cache: Any, seed: int, limit: int | None, checked: int) -> None:
    """Fit, forget, report."""
    whole = read(name, CORPORA[name], cache)
    fitted, edited_with, test = parts_of(name, whole)
    first, last = test.points[0], test.points[-1]
    model = load(SETTINGS[name])
    kae = KoopmanAutoencoder().fit(fitted, seed=seed)
    labels = np.asarray(test.labels)
    probe = None
    if SETTINGS[name].own_head:
        head = model.head

        @torch.no_grad()
        def decide(x: NDArray[Any]) -> NDArray[Any]:
            return head(torch.as_tensor(np.asarray(x, dtype=np.float32))).argmax(dim=-1).numpy()
    else:
        head, probe = None, LinearProbe().fit(np.asarray(fitted[last]), np.asarray(fitted.labels), seed=seed)
        decide = probe.predict
    classes = np.unique(labels)
    targets = [[int(c)] for c in classes]
    if not SETTINGS[name].own_head:
        order = np.random.default_rng(seed).permutation(classes)
        targets = [[int(c) for c in part] for part in np.split(order, len(order) // INTENTS)]
    targets = targets[:limit]
    source, true = np.asarray(test[first]), np.asarray(test[last], dtype=np.float64)
    inputs = _corpus(CORPORA[name])[0][round(ENDS[2] * len(whole)) :][:checked]
    rows: dict[str, dict[str, list[float]]] = {way: {"target": [], "others": [], "drift": []} for way in WAYS}
    attacks: dict[str, dict[str, list[float]]] = {}
    same, met = [], dict.fromkeys(WAYS, 0)
    for target in targets:
        edited = kae.forget(edited_with, label=target, head=head, seed=seed)
        predicted, replaced = kae.propagate(source, first, last), edited.predict(source)
        added = true + (replaced - predicted)
        aimed = np.isin(labels, target)
        spread = float(np.square(true[~aimed] - true[~aimed].mean(axis=0)).sum())
        ends = {"network": true, "prediction": predicted, "replaced": replaced, "added": added}
        before = {"replaced": predicted, "added": true}
        lost = {}
        for way, x in ends.items():
            right = decide(x) == labels
            rows[way]["target"].append(share(right, aimed).value)
            rows[way]["others"].append(share(right, ~aimed).value)
            rows[way]["drift"].append(
                float(np.square(x - before[way])[~aimed].sum()) / spread if way in before else float("nan")
            )
        for way, base in (("replaced", "prediction"), ("added", "network")):
            lost[way] = rows[base]["others"][-1] - rows[way]["others"][-1]
            met[way] += rows[way]["target"][-1] <= 0.01 and lost[way] <= 0.015
        run = inside(model, edited, list(inputs), None if probe is None else probe.predict)
        same.append(float((run == decide(added[: len(run)])).mean()))
        paths = RepresentationPaths.from_arrays(
            {first: source, last: added.astype(np.float32)}, labels=labels
        )
        others = {"network": (test, head), "network, change added": (paths, head)}
        for who, row in attack(edited, test, target, head=head, baselines=others, seed=seed).figures.items():
            for what, estimate in row.items():
                attacks.setdefault(who, {}).setdefault(what, []).append(estimate.value)
        print(
            f"  {str(target)[:40]:42} left: replaced {rows['replaced']['target'][-1]:.3f}, added "
            f"{rows['added']['target'][-1]:.3f}; lost: {lost['replaced']:.3f}, {lost['added']:.3f}",
            flush=True,
        )
    fvu = float(np.square(predicted - true).sum() / np.square(true - true.mean(axis=0)).sum())
    print(
        f"\n{name}, {len(targets)} edits, {len(test)} test samples, FVU of the prediction {fvu:.3f}; percent"
    )
    print(f"  {'':24}{'target':>10}{'others':>10}{'drift':>10}{'goal met':>10}")
    for way in WAYS:
        own = rows[way]
        goal = f"{met[way]} of {len(targets)}" if way in ("replaced", "added") else ""
        print(
            f"  {way:24}{mean(own['target']):>10}{mean(own['others']):>10}"
            f"{float(np.mean(own['drift'])):10.3f}{goal:>10}"
        )
    print(f"  the running network gives the class of the computed last point for {np.mean(same):.4f}")
    columns = list(next(iter(attacks.values())))
    print("  attack" + " " * 20 + "".join(f"{what:>22}" for what in columns))
    for who, row in attacks.items():
        print(f"  {who:26}" + "".join(f"{float(np.mean(row[what])):22.3f}" for what in columns))


def main() -> None:
    """Print each model's tables."""
    parser = parser_of(__doc__, "cache", "seed")
    parser.add_argument("--models", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--edits", type=int, help="edits of each model; default: all")
    parser.add_argument("--checked", type=int, default=256, help="test samples run through the network")
    given = parser.parse_args()
    for name in given.models:
        study(name, given.cache, given.seed, given.edits, given.checked)


if __name__ == "__main__":
    main()
