"""States and losses of the tokens of texts that a causal language model reads, kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import made_once

from repdyn.ood import GenerationMonitor

__all__ = ["BATCH", "States", "padded_left", "read"]

BATCH, EVERY = 16, 4
"""Texts of a pass; blocks between the depths of ``every``."""
States = dict[str, np.ndarray]


def read(model: Any, texts: list[str], out: Path) -> States:
    """States of all tokens after the first, in the order of the texts.

    Returns
    -------
    dict
        ``tok`` ``(T, L, D)`` at the monitor's points, ``every`` ``(T, K, D)`` at every fourth block, ``nll``
        ``(T,)``, ``ids`` ``(T,)``; ``last`` and ``mean`` ``(N, B, D)``, the last and the mean token at all
        blocks; ``count`` ``(N,)``, tokens of a text with the first one.
    """

    def make(path: Path) -> None:
        whole = model.weights if model.weights is not None else model.module
        depths = [int(name.rpartition(".")[2]) for name in GenerationMonitor(model).points]
        order, rows = np.argsort([len(text) for text in texts]), {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = model.prepare([texts[k] for k in part])
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            with torch.no_grad():
                answer = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True)
                loss = torch.nn.functional.cross_entropy(
                    answer.logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none"
                )
            states = torch.stack(answer.hidden_states[1:])
            for row, k in enumerate(part):
                count = int(mask[row].sum())
                own = states[:, row, :count]
                rows[k] = {
                    "every": own[EVERY - 1 :: EVERY, 1:].transpose(0, 1).half().numpy(),
                    "tok": own[depths, 1:].transpose(0, 1).half().numpy(),
                    "nll": loss[row, : count - 1].numpy(),
                    "ids": ids[row, 1:count].numpy(),
                    "last": own[:, -1].numpy()[None],
                    "mean": own[:, min(1, count - 1) :].mean(1).numpy()[None],
                    "count": np.array([count]),
                }
        np.savez(path, **{key: np.concatenate([rows[k][key] for k in range(len(texts))]) for key in rows[0]})

    made_once(out, make)
    with np.load(out) as file:
        return dict(file)


def padded_left(model: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """Inputs of ``generate``: ids and mask ``(N, T)``, padded on the left."""
    inputs = model.prepare(texts)
    ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
    for row, count in enumerate(mask.sum(dim=1).tolist()):
        shift = ids.shape[1] - int(count)
        ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
    return {"input_ids": ids, "attention_mask": mask}
