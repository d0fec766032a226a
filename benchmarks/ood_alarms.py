"""Alarms of the token monitor while SmolLM2 generates, and which token and depth they name.

    python benchmarks/ood_alarms.py --cache FOLDER [--json alarms.json]

**While it generates.** Texts of ``ood_token_texts.py`` are prompts, which the model continues by 16 tokens,
greedily. The monitor is fitted on 400 texts and calibrated on 200 prompts with their answers. Its score is
the lowest window of prompt and answer, or of the answer alone; beside it the mean log-likelihood of the
answer.

**Inside a text.** A foreign text stands between two usual ones. Calibrated on three usual sentences in a row.
Each text has an AUROC of its tokens: foreign ones against usual ones, by the score of a token, by the mean
over the window around it, and by its likelihood. Of the alarms at 5 %: the share whose named token is
foreign, beside the share of foreign tokens in these texts, and which depths are named.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import keep, made_once, parser_of
from ood_generation import WINDOW, split, spread, tables
from ood_token_states import BATCH, padded_left, read
from ood_token_texts import CORE, LONGER, inserted, text_sets
from stored_texts import smollm2

from repdyn.intervals import bootstrap_mean, share_interval
from repdyn.ood import GenerationMonitor
from repdyn.ood.comparison import separation

SIZES = {"fit": 400, "calibration": 260, "test": 200, "foreign": 80}
CALIBRATION, TEST, FOREIGN, NEW_TOKENS = 200, 96, 48, 16
INSIDE = ("German", "source code", "shuffled, full stop last", "injection")
TEXTS = 60


def main() -> None:
    """Generate what is missing and print both tables."""
    parser = parser_of(__doc__, "cache", "json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, texts = smollm2(), text_sets(0, SIZES)
    monitor = GenerationMonitor(model).fit(texts["fit"])
    found = {"inside": inside(monitor, texts, options.cache)}
    keep(options.json, found)
    found["generated"] = generated(monitor, texts, options.cache)
    keep(options.json, found)


def generated(monitor: GenerationMonitor, texts: dict[str, list[str]], cache: Path) -> dict[str, Any]:
    """Shares flagged while the model continues each text."""
    sizes = {"calibration": CALIBRATION, "test": TEST}
    names = (*CORE, LONGER)
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name in ("calibration", "test", *names):
        own = spread(texts[name], sizes.get(name, FOREIGN))
        file = cache / f"generated-{name.replace(' ', '-')}.npz"
        made_once(file, partial(_continue, monitor, own))
        with np.load(file) as row:
            for method in row.files:
                scores.setdefault(method.replace("_", " "), {})[name] = row[method]
        print(f"generated: {name}", flush=True)
    return tables([scores], list(names))


def _continue(monitor: GenerationMonitor, texts: list[str], path: Path) -> None:
    """Scores of texts with their answers."""
    order = np.argsort([len(text) for text in texts])
    rows: dict[str, np.ndarray] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        inputs = padded_left(monitor.model, [texts[k] for k in part])
        found = monitor.generate(
            inputs,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        begun = inputs["input_ids"].shape[1]
        ids = found.output.sequences[:, begun:]
        chance = torch.stack(found.output.logits, dim=1).float().log_softmax(dim=-1)
        own = {
            "monitor,_prompt_and_answer": found.lowest,
            "monitor,_answer": found.windows[:, begun + WINDOW - 1 :].min(axis=1),
            "monitor,_mean_of_both": np.nanmean(found.scores, axis=1),
            "likelihood_of_the_answer": chance.gather(2, ids[..., None]).mean(dim=(1, 2)).numpy(),
        }
        for method, values in own.items():
            rows.setdefault(method, np.empty(len(texts)))[part] = values
    np.savez(path, **rows)  # type: ignore[arg-type]


def inside(monitor: GenerationMonitor, texts: dict[str, list[str]], cache: Path) -> dict[str, Any]:
    """Where alarms are, and how well tokens of a foreign text inside a usual one are told."""
    generator = np.random.default_rng(0)
    rest = texts["calibration"]
    triples = inserted(rest[1::3] + rest[2::3], rest[::3], generator)
    monitor.calibrate([" ".join(triple) for triple in triples])
    print(f"calibrated on {len(triples)} texts: true rates {monitor.intervals_}")
    found: dict[str, Any] = {}
    host = texts["test"]
    kinds = {name: texts[name] for name in INSIDE} | {"a usual sentence": host[:TEXTS]}
    kinds["injection"] = [text[len(_host(text, host)) :].strip() for text in kinds["injection"]]
    for name, foreign in kinds.items():
        triples = inserted(host[TEXTS:], foreign, generator)[:TEXTS]
        whole = [" ".join(triple) for triple in triples]
        states = read(monitor.model, whole, cache / f"inside-{name.replace(' ', '-')}.npz")
        likely = [-x for x in split(states, "nll")]
        apart: dict[str, list[float]] = {"token": [], "window around it": [], "likelihood": []}
        named, share, depths, alarmed = [], [], Counter[str](), 0
        for start in range(0, len(whole), BATCH):
            read_now = monitor.read(whole[start : start + BATCH])
            for row, triple in enumerate(triples[start : start + BATCH]):
                first, last = (_tokens(monitor.model, " ".join(triple[:k])) for k in (1, 2))
                score = read_now.scores[row]
                score = score[~np.isnan(score)]
                mask = np.zeros(len(score), dtype=bool)
                mask[first - 1 : last - 1] = True  # the first token has no score
                around = np.convolve(score, np.ones(WINDOW), "same") / np.convolve(
                    np.ones(len(score)), np.ones(WINDOW), "same"
                )
                own = {"token": score, "window around it": around, "likelihood": likely[start + row]}
                for method, values in own.items():
                    apart[method].append(float(separation(values[~mask], values[mask]).auroc[0]))
                alarms = [a for a in read_now.alarms if a.sequence == row and a.rate == 0.05]
                alarmed += len(alarms)
                for alarm in alarms:
                    named.append(first <= alarm.token < last)
                    share.append(mask.mean())
                    depths[alarm.point] += 1
        cell = {
            "auroc of tokens": {k: bootstrap_mean(np.array(v)).to_dict() for k, v in apart.items()},
            "flagged": share_interval(np.arange(len(whole)) < alarmed).to_dict(),
            "named token is foreign": share_interval(np.array(named)).to_dict() if named else None,
            "share of foreign tokens": float(np.mean(share)) if share else None,
            "depths": dict(depths),
        }
        found[name] = cell
        print(name, cell, flush=True)
    return found


def _host(text: str, hosts: list[str]) -> str:
    """The usual sentence that a text begins with."""
    return max((host for host in hosts if text.startswith(host)), key=len)


def _tokens(model: Any, text: str) -> int:
    return int(model.prepare([text])["input_ids"].shape[1])


if __name__ == "__main__":
    main()
