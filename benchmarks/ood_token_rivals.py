"""Monitors of language models from their papers: TrajGuard, and EigenScore of INSIDE.

TrajGuard (arXiv 2604.07727) is built from a description of the paper; its code is not public. Gaussians of
usual and of malicious tokens at the eight layers whose means differ most; the risk of a token is its
Mahalanobis distance to usual tokens less that to malicious ones; a truncated mean over a window of eight
tokens in each layer, the mean over layers, and exponential smoothing give a risk at each step. An alarm takes
three steps in a row, so the score of a sequence is its largest minimum over three steps. It is the only
method here that is fitted on malicious texts. The judge that reads the text after an alarm is left out. The
share that the truncated mean leaves out, the smoothing and the ridge are not in that description.

EigenScore (Chen et al., ICLR 2024): mean logarithm of the eigenvalues of the covariance between the states of
several sampled answers, at the last token of the middle layer. It measures how much answers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ood_token_states import padded_left
from scipy.stats import trim_mean

__all__ = ["eigen_score", "eigen_scores", "trajguard"]

Array = NDArray[Any]
LAYERS, WINDOW, STEPS = 8, 8, 3
TRIMMED, SMOOTHING, RIDGE = 0.1, 0.5, 0.1
"""Share cut at each end, weight of the present step, and ridge as a share of the mean variance."""
ANSWERS, NEW_TOKENS, ALPHA = 10, 8, 1e-3
TEMPERATURE, TOP_P, TOP_K = 0.5, 0.99, 10
TOGETHER = 4
"""Texts that are continued together."""


def trajguard(usual: Array, malicious: Array) -> Callable[[Sequence[Array]], Array]:
    """TrajGuard from token states ``(T, L, D)``; scores sequences of states, higher is more normal."""
    apart = np.linalg.norm(usual.mean(axis=0) - malicious.mean(axis=0), axis=1)
    layers = np.sort(np.argsort(-apart)[:LAYERS])
    kinds = [[_gaussian(x[:, k]) for k in layers] for x in (usual, malicious)]

    def distances(x: Array, kind: int) -> Array:
        found = []
        for k, (mean, whitener) in zip(layers, kinds[kind]):
            found.append(np.linalg.norm((x[:, k] - mean) @ whitener, axis=1))
        return np.stack(found, axis=1)

    def score(sequences: Sequence[Array]) -> Array:
        return np.array([-_lasting(distances(x, 0) - distances(x, 1)) for x in sequences])

    return score


def _gaussian(x: Array) -> tuple[Array, Array]:
    """Mean and whitener of tokens ``(T, D)``."""
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    return mean, vectors / np.sqrt(values + RIDGE * values.mean())


def _lasting(risk: Array) -> float:
    """The largest risk that lasts for three steps, from the risk of tokens at layers ``(T, L)``."""
    smooth, steps = 0.0, []
    for t in range(len(risk)):
        own = float(trim_mean(risk[max(0, t - WINDOW + 1) : t + 1], TRIMMED, axis=0).mean())
        smooth = own if t == 0 else SMOOTHING * own + (1 - SMOOTHING) * smooth
        steps.append(smooth)
    last = len(steps) - min(STEPS, len(steps))
    return max(min(steps[t : t + STEPS]) for t in range(last + 1))


def eigen_score(states: Array) -> float:
    """EigenScore of the states ``(K, D)`` of K answers; higher is more different answers."""
    centered = states - states.mean(axis=1, keepdims=True)  # the authors center each state over its entries
    covariance = centered @ centered.T / states.shape[1] + ALPHA * np.eye(len(states))
    return float(np.linalg.slogdet(covariance)[1] / len(states))


def eigen_scores(model: Any, texts: Sequence[str], seed: int = 0) -> Array:
    """Minus the EigenScore of each text as a prompt: higher is more normal."""
    whole = model.weights if model.weights is not None else model.module
    torch.manual_seed(seed)
    found: list[float] = []
    for start in range(0, len(texts), TOGETHER):
        part = list(texts[start : start + TOGETHER])
        with torch.no_grad():
            answer = whole.generate(
                **padded_left(model, part),
                do_sample=True,
                num_return_sequences=ANSWERS,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=TOP_K,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
        last = answer.hidden_states[-1]  # of the step that made the last token, by layer
        states = last[len(last) // 2][:, -1].float().numpy().astype(np.float64)
        found += [-eigen_score(own) for own in states.reshape(len(part), ANSWERS, -1)]
    return np.array(found)
