"""Models of sequences of vectors on two sets of the MSD benchmark, beside two that know nothing of dynamics.

Run by ``disentangle.py --data melodies`` or ``--data air --air FOLDER``. Beside SSM-SKD and SKD there are a
recurrent autoencoder of the same size without their losses, and the principal components of frames. These
two are split by time: the static part is the mean over time, the dynamic part is the rest.

For each: the share of variance that is reconstructed; modularity, compactness and explicitness of the codes,
which are the means over time of both parts as in the benchmark; how well a linear classifier reads each
factor from each part, all frames of it; and for melodies the table of static and dynamic swaps, by judges.
All is read on test sequences.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Rows, mean_of, over_seeds, table
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from repdyn.datasets import LabeledSequences, air_quality, melodies
from repdyn.disentangle import SKD, SSMSKD, Factors, Judge, LossWeights, dci, static_dynamic_table

PASSES = 5


@dataclass(frozen=True)
class Plan:
    """Sizes of one set, and training."""

    training: int
    validation: int
    test: int
    latent_dim: int
    hidden: int
    static_dim: int  # of SKD
    threshold: float
    weights: tuple[float, float, float]
    epochs: int
    judge_epochs: int


PLANS = {  # losses as published for air quality; everything else for minutes of a CPU
    "melodies": Plan(3000, 500, 1000, 24, 64, 4, 0.275, (16, 1, 0.25), 40, 40),
    "air": Plan(3000, 500, 1000, 24, 64, 4, 0.275, (16, 1, 0.25), 20, 0),
}


class OverTime:
    """Latents of a model, split into their mean over time and the rest."""

    def __init__(self, model: Any) -> None:
        self.encode, self.decode = model.encode, model.decode

    def factors(self, sequences: NDArray[np.float32]) -> Factors:
        """Static and dynamic part of the latents."""
        z = self.encode(sequences)
        static = np.repeat(z.mean(axis=1, keepdims=True), z.shape[1], axis=1)
        return Factors(static, z - static, np.ones(z.shape[:2], dtype=bool))


class Components:
    """Principal components of frames."""

    def __init__(self, sequences: NDArray[np.float32], count: int) -> None:
        most = min(count, sequences.shape[2])
        self.found = PCA(most, random_state=0).fit(sequences.reshape(-1, sequences.shape[2]))

    def encode(self, sequences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents ``(N, T, k)``."""
        rows = self.found.transform(sequences.reshape(-1, sequences.shape[2]))
        return rows.reshape(*sequences.shape[:2], -1).astype(np.float32)

    def decode(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sequences ``(N, T, width)``."""
        rows = self.found.inverse_transform(z.reshape(-1, z.shape[2]))
        return rows.reshape(*z.shape[:2], -1).astype(np.float32)


def study(arguments: argparse.Namespace) -> None:
    """Run what has not been run, then print the tables."""
    plan = PLANS[arguments.data]
    needed = plan.training + plan.validation + plan.test
    data = melodies(needed) if arguments.data == "melodies" else air_quality(arguments.air)
    shares = tuple(count / len(data) for count in (plan.training, plan.validation, plan.test))
    training, validation, test = data.split(shares, seed=0)
    seen = validation if arguments.on == "validation" else test
    print(
        f"training {training}\nvalidation {len(validation)}, test {len(test)}; read: {arguments.on}",
        flush=True,
    )
    rows = Rows(
        arguments.out,
        ("data", "on", "model", "seed"),
        ("benchmarks/disentangle_vectors.py", "repdyn/disentangle", "repdyn/datasets/sequences.py"),
    )
    models = arguments.model
    cells = [(arguments.data, arguments.on, name, seed) for seed in range(arguments.seeds) for name in models]
    judge = None
    if plan.judge_epochs and any(rows.get(*cell) is None for cell in cells):
        judge = Judge((64,)).fit(
            training.values, training.labels, epochs=plan.judge_epochs, learning_rate=3e-3
        )
        real = {name: str(value) for name, value in judge.accuracy(seen.values, seen.labels).items()}
        print(f"judges on real {arguments.on} sequences:", real, flush=True)

    def make(_: str, on: str, name: str, seed: int) -> dict[str, Any]:
        begun = time.process_time()
        model = fitted(name, plan, training, validation, seed, arguments.device)
        spent = time.process_time() - begun
        row = {"cpu_seconds": spent, **measured(model, training, seen, judge, seed)}
        print(name, seed, f"{spent:.0f} s", row["explained"], row["explicitness"], flush=True)
        return row

    rows.complete(cells, make)
    report([row for cell in cells if (row := rows.get(*cell)) is not None], models)


def fitted(
    name: str, plan: Plan, training: LabeledSequences, validation: LabeledSequences, seed: int, device: Any
) -> Any:
    """One of the models."""
    if name == "components":
        return OverTime(Components(training.values, plan.latent_dim))
    weights = LossWeights(*plan.weights) if name != "autoencoder" else LossWeights(plan.weights[0], 0.0, 0.0)
    sizes = (plan.latent_dim, plan.hidden)
    common: dict[str, Any] = {"weights": weights, "threshold": plan.threshold, "channels": (plan.hidden,)}
    model = SKD(plan.static_dim, *sizes, **common) if name == "skd" else SSMSKD(1, *sizes, **common)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(
            training.values,
            epochs=plan.epochs,
            seed=seed,
            learning_rate=3e-3,
            validation=validation.values,
            device=device,
        )
    return OverTime(model) if name == "autoencoder" else model


def measured(
    model: Any, training: LabeledSequences, seen: LabeledSequences, judge: Judge | None, seed: int
) -> dict[str, Any]:
    """All figures of a fitted model."""
    known, found = model.factors(training.values), model.factors(seen.values)
    shown = model.decode(model.encode(seen.values))
    spread = ((seen.values - training.values.mean(axis=(0, 1))) ** 2).mean()
    scores = dci(codes(known), training.labels, codes(found), seen.labels, seed=seed)
    row: dict[str, Any] = {
        "explained": float(1 - ((shown - seen.values) ** 2).mean() / spread),
        "static_share": found.static_share,
        **{name: getattr(scores, name) for name in ("modularity", "compactness")},
        "explicitness": scores.explicitness.to_dict(),
        "by forests": {name: value.value for name, value in scores.accuracy.items()},
        "majority": dict(scores.majority),
        "probes": {part: probed(known, found, part, training, seen) for part in ("static", "dynamic")},
    }
    if judge is not None:
        swaps = static_dynamic_table(
            found, lambda z: judge.predict(model.decode(z)), seen.static, seen.dynamic, passes=PASSES
        )
        called = judge.predict(shown)
        row |= {
            "recognized": {n: float((called[n] == label).mean()) for n, label in seen.labels.items()},
            "table": swaps.to_dict(),
            "D_sd": swaps.score().to_dict(),
            "strict_sd": swaps.strict().to_dict(),
        }
    return row


def codes(found: Factors) -> NDArray[np.float32]:
    """Means over time of both parts; coordinates that never change are left in and carry nothing."""
    return np.concatenate([found.static.mean(axis=1), found.dynamic.mean(axis=1)], axis=1)


def probed(
    known: Factors, found: Factors, part: str, training: LabeledSequences, seen: LabeledSequences
) -> dict[str, float]:
    """Accuracy of linear classifiers of one part, all frames of it, for each factor."""
    x, new = (of.part(part).reshape(len(of), -1) for of in (known, found))
    accuracy = {}
    for name, label in training.labels.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=60))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged is still a classifier
            accuracy[name] = float(model.fit(x, label).score(new, seen.labels[name]))
    return accuracy


def report(rows: list[dict[str, Any]], models: list[str]) -> None:
    """Means over seeds with intervals by Student's t over seeds; scores with intervals over sequences."""
    of = {name: [row for row in rows if row["model"] == name] for name in models}
    of = {name: part for name, part in of.items() if part}
    plain = ("explained", "static_share", "modularity", "compactness", "cpu_seconds")
    scored = [name for name in ("explicitness", "D_sd", "strict_sd") if name in rows[0]]
    print(
        table(
            ["", "seeds", *plain, *scored],
            [
                [
                    name,
                    len(part),
                    *(str(over_seeds([row[figure] for row in part])) for figure in plain),
                    *(str(mean_of([row[figure] for row in part])) for figure in scored),
                ]
                for name, part in of.items()
            ],
        )
    )
    factors = list(rows[0]["majority"])
    lines: list[list[object]] = []
    for name, part in of.items():
        for kind in ("static", "dynamic"):
            values = [[row["probes"][kind][factor] for row in part] for factor in factors]
            lines.append([f"{name}, {kind} part, linear", *(float(np.mean(v)) for v in values)])
        if "table" in part[0]:
            lines.append(
                [
                    f"{name}, judge: reconstructed",
                    *(float(np.mean([r["recognized"][f] for r in part])) for f in factors),
                ]
            )
            means = np.mean([row["table"]["accuracy"] for row in part], axis=0)
            lines += [
                [f"{name}, judge: {how}", *map(float, values)]
                for how, values in zip(part[0]["table"]["interventions"], means)
            ]
    lines.append(["most frequent class", *(rows[0]["majority"][factor] for factor in factors)])
    print("\n" + table(["", *factors], lines))
