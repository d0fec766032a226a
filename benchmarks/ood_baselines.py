"""Detectors of other libraries and papers, with the same interface, fitted on the same samples.

From pytorch-ood (extra ``bench``): kNN with k = 50, Mahalanobis, Mahalanobis on unit vectors, relative
Mahalanobis, ViM, NNGuide, energy and the maximum softmax probability. Class-based ones need several samples
a class; where there are none, all samples are one class. From the papers: those of ``ood_rivals.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ood_rivals import Rival, rivals
from torch import Tensor

from repdyn.paths import RepresentationPaths

Array = NDArray[Any]
LEAST_PER_CLASS = 4


class Baseline:
    """A function of the last point (or of the logits) as a detector that ``evaluate`` takes."""

    def __init__(self, score: Callable[[Tensor], Tensor], point: str | None) -> None:
        self.score, self.point = score, point

    def score_samples(self, paths: RepresentationPaths) -> Array:
        """Higher is more normal; pytorch-ood's outlier scores are turned round."""
        x = np.asarray(paths.logits if self.point is None else paths[self.point], dtype=np.float32)
        with torch.no_grad():
            return -np.asarray(self.score(torch.from_numpy(x)), dtype=np.float64)


def baselines(fit: RepresentationPaths, head: tuple[Array, Array] | None) -> dict[str, Baseline | Rival]:
    """All of them that the data and the head allow, fitted."""
    from pytorch_ood import detector as peers

    last = fit.points[-1]
    x = torch.from_numpy(np.asarray(fit[last], dtype=np.float32))
    y = _classes(fit)
    found: dict[str, Baseline | Rival] = {}

    def add(name: str, detector: Any, features: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector.fit_features(features, y)
        found[name] = Baseline(lambda z: detector.predict_features(transform(z)), last)

    def unit(z: Tensor) -> Tensor:
        return torch.nn.functional.normalize(z, dim=1)

    add("kNN, k = 50 (pytorch-ood)", peers.KNN(None, k=min(50, len(x) - 1)), x, lambda z: z)
    add("Mahalanobis (pytorch-ood)", peers.Mahalanobis(None), x, lambda z: z)
    add("Mahalanobis++ (pytorch-ood, unit vectors)", peers.Mahalanobis(None), unit(x), unit)
    if int(y.max()) > 0:
        add("relative Mahalanobis (pytorch-ood)", peers.RMD(None), x, lambda z: z)
    if head is not None and head[0].shape[1] == x.shape[1]:
        weight, bias = (torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in head)
        kept = min(256, x.shape[1] // 2)
        add("ViM (pytorch-ood)", peers.ViM(None, kept, weight, bias), x, lambda z: z)
        linear = torch.nn.Linear(x.shape[1], len(bias))
        linear.load_state_dict({"weight": weight, "bias": bias})
        linear.requires_grad_(False)
        add("NNGuide (pytorch-ood)", peers.NNGuide(torch.nn.Identity(), linear, k=10), x, lambda z: z)
    if fit.logits is not None:
        found["energy (pytorch-ood)"] = Baseline(peers.EnergyBased.score, None)
        found["maximum softmax (pytorch-ood)"] = Baseline(peers.MaxSoftmax.score, None)
    return {**found, **rivals(fit, y.numpy(), head)}


def _classes(fit: RepresentationPaths) -> Tensor:
    if fit.labels is None:
        return torch.zeros(len(fit), dtype=torch.long)
    classes, y = np.unique(np.asarray(fit.labels), return_inverse=True)
    if np.bincount(y, minlength=len(classes)).min() < LEAST_PER_CLASS:
        return torch.zeros(len(fit), dtype=torch.long)
    return torch.from_numpy(y.astype(np.int64))
