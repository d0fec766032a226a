"""Full spectrum: queries in scope with typos or another case, which are corrupted and not foreign.

    python benchmarks/ood_spectrum.py --cache FOLDER [--model paraphrase-MiniLM-L3-v2] [--json spectrum.json]

4 800 of CLINC150's training queries are fitted on, 1 000 of its validation queries calibrate at 5 %, and 500
of its test queries are corrupted at five strengths: each letter is replaced, dropped, doubled or swapped with
probability .02 to .3, or its case is changed with probability .1 to 1. Beside the share flagged stands the
accuracy that a linear probe of the last point loses, and the share of out-of-scope queries that is flagged.
"""

from __future__ import annotations

import numpy as np
from harness import keep, parser_of
from ood_texts import queries
from sklearn.linear_model import LogisticRegression

import repdyn
from repdyn.intervals import share_interval
from repdyn.ood import PathDetector, UnionDetector

FITTED, CALIBRATED, TESTED = 4800, 1000, 500
TYPOS = (0.02, 0.05, 0.1, 0.2, 0.3)
CASE = (0.1, 0.25, 0.5, 0.75, 1.0)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typos(text: str, rate: float, generator: np.random.Generator) -> str:
    """A text whose letters are replaced, dropped, doubled or swapped with the next, each at ``rate``."""
    letters = list(text)
    for k, letter in enumerate(text):
        if not letter.isalpha() or generator.random() >= rate:
            continue
        kind = generator.integers(4)
        if kind == 3 and k + 1 < len(letters):
            letters[k], letters[k + 1] = letters[k + 1], letters[k]
        else:
            letters[k] = (LETTERS[generator.integers(26)], "", 2 * letters[k], letters[k])[kind]
    return "".join(letters) or text


def other_case(text: str, rate: float, generator: np.random.Generator) -> str:
    """A text whose letters change case, each at ``rate``."""
    return "".join(c.swapcase() if generator.random() < rate else c for c in text)


def main() -> None:
    """Trace, fit, and print the table."""
    parser = parser_of(__doc__, "cache", "json", "seed")
    parser.add_argument("--model", default="paraphrase-MiniLM-L3-v2")
    options = parser.parse_args()
    generator, rows = np.random.default_rng(options.seed), queries()
    model = repdyn.load(f"packaged:{options.model}")
    points = ["embeddings", *(point for point in model.default_points if point != model.final)]

    def some(part: str, count: int) -> list[dict[str, str]]:
        return [rows[part][k] for k in generator.permutation(len(rows[part]))[:count]]

    def traced(name: str, given: list[dict[str, str]]) -> repdyn.RepresentationPaths:
        texts, labels = [row["text"] for row in given], [row["label"] for row in given]
        out = options.cache / f"{options.model}-{options.seed}-{name}.paths"
        return repdyn.trace(model, texts, points=points, labels=labels, out=out, batch_size=64)

    fit = traced("fit", some("train", FITTED))
    calibration = traced("calibration", some("val", CALIBRATED))
    test = some("test", TESTED)
    sets = {"clean": traced("clean", test), "out of scope": traced("scope", some("oos_test", TESTED))}
    for kind, change, rates in (("typos", typos, TYPOS), ("case", other_case, CASE)):
        for rate in rates:
            own = [{**row, "text": change(row["text"], rate, generator)} for row in test]
            sets[f"{kind} {rate:g}"] = traced(f"{kind}-{rate:g}", own)
    last = points[-1]
    probe = LogisticRegression(max_iter=300).fit(np.asarray(fit[last]), np.asarray(fit.labels))
    found: dict[str, dict[str, float]] = {}
    detectors = {"path": PathDetector(), "union": UnionDetector()}
    fitted = {name: detector.fit(fit).calibrate(calibration) for name, detector in detectors.items()}
    for name, paths in sets.items():
        found[name] = {own: float((detector.predict(paths) < 0).mean()) for own, detector in fitted.items()}
        if name != "out of scope":
            found[name]["accuracy"] = float(probe.score(np.asarray(paths[last]), np.asarray(paths.labels)))
        print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
    flags = fitted["union"].predict(sets["clean"]) < 0
    print("clean, union:", share_interval(flags))
    keep(options.json, found)


if __name__ == "__main__":
    main()
