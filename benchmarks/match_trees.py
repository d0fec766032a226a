"""How often does match_trees say "found", where there is a match and where there is none?

    python benchmarks/match_trees.py --seeds 10 --out match_trees.jsonl
    python benchmarks/match_trees.py --seeds 3 --real --out match_trees.jsonl
    python benchmarks/match_trees.py --matchers
    python benchmarks/match_trees.py --leaves

Planted pairs: clusters in 24 dimensions and the same clusters, sampled anew, rotated and scaled: all of them;
a third of either unknown to the other; and with every cluster of one split in two; and clusters in 64
dimensions, which are all about equally far apart. Planted negatives: unrelated clusters, in groups and
without, and in 64 dimensions, where the geometry of any two sets is nearly or exactly the same. Real pairs
(``--real``): two disjoint halves of one data set, one of them rotated, trees of 24 leaves grown on directions
about the mean (of a kind that ends in ", raw", on the points as they are); real negatives: two different data
sets (pixels of MNIST, Fashion-MNIST, KMNIST and scikit-learn's digits, and word counts of Banking77 and
CLINC150, all in 32 principal components; their folder is REPDYN_DATA).

With ``--modes`` the trees are those of the modes of a mixture (:func:`repdyn.fields.mode_tree`), and the
kinds end in ", modes".

Of each kind: the verdicts, how many leaf pairs are right (the majority label of either leaf is the same one),
and how many of those of confidence .75 or more. A (kind, seed) that is in the output already is not run
again. Settings were chosen on seeds from 100 on.

``--matchers`` matches the leaves of the planted pairs, seeds 100 to 105, by quadratic assignment, as
match_trees does, and by the Gromov-Wasserstein distances of POT: plain, fused with the leaves' traits, and
unbalanced.

``--leaves`` counts which leaves of a half have one in the other half that is more than half the same (points
of the one half stand for their nearest in the other), for trees on points as they are and on directions.
"""

from __future__ import annotations

import itertools
import warnings
from functools import cache, partial
from typing import Any

import numpy as np
from harness import Rows, parser_of, seconds, table
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from stored_pictures import labeled_digits
from stored_texts import rows_of

from repdyn.fields import EnergyField, EnergyWarning, mode_tree
from repdyn.topology import LevelSetTree
from repdyn.translation import match_trees
from repdyn.translation.trees.assignment import quadratic_assignment
from repdyn.translation.trees.leaves import Leaves, cosines, standardized

Array = NDArray[Any]

WIDTH, CLASSES, POINTS = 24, 14, 700
REAL_POINTS, REAL_LEAVES, COMPONENTS = 3000, 24, 32
SURE = 0.75
RAW = ", raw"
MODES = ", modes"
MANY = 64  # dimensions in which random directions are nearly at right angles
PLANTED = ("same", "same, in groups", "a third unshared", "one split in two", "same, equally far")
NEGATIVE = ("unrelated", "unrelated, in groups", "unrelated, equally far", "unrelated, at right angles")
SOURCES = ("benchmarks/match_trees.py", "repdyn/fields", "repdyn/topology", "repdyn/translation")


def world(seed: int, groups: int = 0, classes: int = CLASSES) -> tuple[Array, Array, Array]:
    """Centres, masses and spreads of clusters, in so many groups of clusters or in none."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(classes, WIDTH))
    if groups:
        above = 1.5 * generator.normal(size=(groups, WIDTH))
        centers = above[generator.integers(groups, size=classes)] + 0.8 * centers
    mass = generator.dirichlet(np.full(classes, 6.0))
    return centers * np.linspace(1.6, 0.5, WIDTH), mass, 0.48 * generator.uniform(0.6, 1.6, (classes, WIDTH))


def simplex(seed: int, right_angles: bool) -> tuple[Array, Array, Array]:
    """Clusters in many dimensions, nearly or exactly at right angles and so all equally far apart."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(CLASSES, MANY))
    if right_angles:
        centers = np.sqrt(MANY) * np.linalg.qr(centers.T)[0].T
    mass = generator.dirichlet(np.full(CLASSES, 6.0))
    return centers, mass, 0.3 * generator.uniform(0.6, 1.6, (CLASSES, 1))


def sampled(of: tuple[Array, Array, Array], seed: int, classes: Array | None = None) -> tuple[Array, Array]:
    """Points of some of a world's clusters, and the cluster of each."""
    centers, mass, spread = of
    kept = np.arange(len(mass)) if classes is None else classes
    generator = np.random.default_rng(seed)
    label = generator.choice(kept, size=POINTS, p=mass[kept] / mass[kept].sum())
    return centers[label] + spread[label] * generator.normal(size=(POINTS, centers.shape[1])), label


def turned(x: Array, seed: int) -> Array:
    """In another basis, another unit and another place."""
    q, _ = np.linalg.qr(np.random.default_rng(seed + 77).normal(size=(x.shape[1], x.shape[1])))
    return np.asarray(3 * x @ q + 2)


def planted(kind: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """Points and labels of two models."""
    if kind.endswith(("equally far", "at right angles")):
        make = partial(simplex, right_angles=kind.endswith("at right angles"))
    else:
        make = partial(world, groups=4 if kind.endswith("in groups") else 0)
    own = make(seed)
    if kind in NEGATIVE:
        other = make(1000 + seed)
        return *sampled(own, 2 * seed), *sampled(other, 2 * seed + 1)
    if kind == "a third unshared":
        own = world(seed, classes=18)
        x, labels = sampled(own, 2 * seed, np.arange(14))
        y, others = sampled(own, 2 * seed + 1, np.arange(4, 18))
        return x, labels, y, others
    x, labels = sampled(own, 2 * seed)
    y, others = sampled(own, 2 * seed + 1)
    if kind == "one split in two":
        generator = np.random.default_rng(seed)
        apart = generator.normal(size=(CLASSES, WIDTH)) * 0.9
        y = y + apart[others] * generator.choice([-1, 1], size=(len(y), 1))
    return x, labels, y, others


@cache
def real(name: str) -> tuple[Array, Array]:
    """Points in principal components, and labels."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if name == "digits":
        x, labels = load_digits(return_X_y=True)
    elif name in ("banking77", "clinc150"):
        rows = rows_of(name)
        x = TfidfVectorizer(min_df=3, sublinear_tf=True).fit_transform([row["text"] for row in rows])
        x = TruncatedSVD(COMPONENTS, random_state=0).fit_transform(x)
        _, labels = np.unique([row["label"] for row in rows], return_inverse=True)
    else:
        x, labels = labeled_digits(name, "test")
        x = x.reshape(-1, 28 * 28) / 255.0
    x = np.asarray(x, dtype=np.float64)
    chosen = np.random.default_rng(0).permutation(len(x))[: 2 * REAL_POINTS]
    x, labels = x[chosen] - x[chosen].mean(0), np.asarray(labels)[chosen]
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    return x @ axes[:COMPONENTS].T, labels


def directions(x: Array) -> Array:
    """Points on the unit sphere about their mean."""
    centered = x - x.mean(0)
    return np.asarray(centered / np.linalg.norm(centered, axis=1, keepdims=True))


SETS = ("mnist", "fashion_mnist", "kmnist_test", "digits", "banking77", "clinc150")


def real_pair(one: str, other: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """Halves of one data set, or of two, drawn anew for each seed."""
    (x, labels), (y, others) = real(one), real(other)
    left, right = (np.random.default_rng(seed).permutation(len(z)) for z in (x, y))
    left, right = left[: len(x) // 2], right[len(y) // 2 :]
    return x[left], labels[left], y[right], others[right]


def modes_of(points: Array, seed: int) -> LevelSetTree:
    """The modes of a mixture with a tenth as many atoms, through the scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # a tree has all scales
        return mode_tree(EnergyField(components=None, atoms=len(points) // 10, seed=seed).fit(points), points)


def run(kind: str, seed: int) -> dict[str, Any]:
    """One pair of trees: the verdict, and how many pairs are right."""
    modes, kind = kind.endswith(MODES), kind.removesuffix(MODES)
    names = kind.removesuffix(RAW).split(" / ")
    is_real = len(names) == 2
    x, labels, y, others = real_pair(*names, seed) if is_real else planted(kind, seed)
    y = turned(y, seed)
    grown_on = [directions(z) for z in (x, y)] if is_real and not kind.endswith(RAW) else [x, y]
    trees = [modes_of(points, seed) if modes else LevelSetTree.fit(points) for points in grown_on]
    if is_real:
        trees = [tree.prune(min(REAL_LEAVES, tree.n_peaks)) for tree in trees]
    with seconds() as spent:
        match = match_trees(trees[0], trees[1], x, y, seed=seed)
    leaves = [len(tree.leaves) for tree in trees]
    # Where a coarser granularity matched, branches stand for leaves; the other inner nodes lie below these.
    chosen = ~np.isin(match.pairs[:, 0], [u for i in match.pairs[:, 0] for u in above(trees[0], i)])
    named = [majority(tree, own) for tree, own in zip(trees, (labels, others))]
    pairs, confidence = match.pairs[chosen], match.confidence[chosen]
    right = named[0][pairs[:, 0]] == named[1][pairs[:, 1]]
    sure = confidence >= SURE
    return {
        "verdict": match.verdict,
        "leaves": leaves,
        "pairs": len(pairs),
        "inner_pairs": int((~chosen).sum()),
        "right": int(right.sum()),
        "sure": int(sure.sum()),
        "sure_right": int((right & sure).sum()),
        "p_value": match.p_value,
        "reason": match.reason,
        "cpu_seconds": round(spent(), 2),
    }


def recurring() -> str:
    """Of the leaves of one half, which the other half has too, by what trees grow on and how many leaves."""
    sizes = (8, 12, 16, 24)
    lines = []
    for name in SETS:
        for title, grown_on in (("points", np.asarray), ("directions", directions)):
            shares = np.zeros((len(sizes), 2))
            for seed in range(3):
                x, _, y, _ = real_pair(name, name, seed)
                _, nearest = cKDTree(x).query(y)
                trees = [LevelSetTree.fit(grown_on(z)) for z in (x, y)]
                for k, n in enumerate(sizes):
                    one, other = (tree.cut(min(n, tree.n_peaks)) for tree in trees)
                    both = np.zeros((one.max() + 1, other.max() + 1))
                    np.add.at(both, (one[nearest], other), 1)
                    union = both.sum(1, keepdims=True) + both.sum(0) - both
                    shares[k] += ((both / union).max(1) > 0.5).sum(), len(both)
            lines.append([name, title, *(f"{100 * recur / count:.0f} %" for recur, count in shares)])
    return table(["data", "trees grown on", *(f"of {n}" for n in sizes)], lines)


def matchers() -> str:
    """Right pairs, the objective they reach, and the time of one matching, of each matcher and kind."""
    warnings.simplefilter("ignore")  # that a solver has not converged shows in what it finds
    lines = []
    for kind in PLANTED:
        rows: dict[str, list[tuple[int, int, float, float]]] = {name: [] for name in MATCHERS}
        for seed in range(100, 106):
            x, labels, y, others = planted(kind, seed)
            y = turned(y, seed)
            trees = LevelSetTree.fit(x), LevelSetTree.fit(y)
            a, b = Leaves.of(trees[0], x, "x"), Leaves.of(trees[1], y, "y")
            one, other = majority(trees[0], labels), majority(trees[1], others)
            near, far = (cosines(side.mass, side.form, 0.75) for side in (a, b))
            marks = [(np.log(s.traits) - np.log(s.traits).mean(0)) / np.log(s.traits).std(0) for s in (a, b)]
            apart = ((marks[0][:, None] - marks[1]) ** 2).sum(2)
            for name, matcher in MATCHERS.items():
                with seconds() as spent:
                    plan = matcher(near, far, a.mass, b.mass, apart)
                left, right = linear_sum_assignment(plan, maximize=True)
                least = 0.3 * np.minimum(plan.sum(1)[left], plan.sum(0)[right])
                kept = plan[left, right] > least  # what a plan spreads out is no pair
                left, right = left[kept], right[kept]
                upper = np.triu_indices(len(left), 1)
                reached = np.corrcoef(near[np.ix_(left, left)][upper], far[np.ix_(right, right)][upper])[0, 1]
                rows[name].append(
                    (int((one[left] == other[right]).sum()), len(left), float(reached), spent())
                )
        for name, own in rows.items():
            right, count, reached, spent = np.sum(own, axis=0)
            means = f"{reached / len(own):.2f}", f"{1000 * spent / len(own):.0f}"
            lines.append([kind, name, f"{right:.0f}/{count:.0f}", *means])
    return table(["pair of trees", "matcher", "pairs right", "objective", "ms"], lines)


def assigned(near: Array, far: Array, mass: Array, other: Array, apart: Array) -> Array:
    """Quadratic assignment, as a plan."""
    size = max(len(near), len(far))
    found, _ = quadratic_assignment(standardized(near, size), standardized(far, size), polished=2)
    return np.eye(size)[found[0]][: len(near), : len(far)]


def fused(alpha: float, near: Array, far: Array, mass: Array, other: Array, apart: Array) -> Array:
    """Fused Gromov-Wasserstein; plain where alpha is 1."""
    from ot.gromov import fused_gromov_wasserstein as solve

    return np.asarray(solve(apart / 10, 1 - near, 1 - far, mass, other, alpha=alpha))


def unbalanced(marginals: float, near: Array, far: Array, mass: Array, other: Array, apart: Array) -> Array:
    """Fused unbalanced Gromov-Wasserstein."""
    from ot.gromov import fused_unbalanced_gromov_wasserstein as solve

    settings = {"epsilon": 0.01, "alpha": 0.05, "max_iter": 20, "max_iter_ot": 100}
    plan, _ = solve(1 - near, 1 - far, mass, other, reg_marginals=marginals, M=apart, **settings)
    return np.asarray(plan)


MATCHERS = {
    "quadratic assignment": assigned,
    "Gromov-Wasserstein": partial(fused, 1.0),
    "fused": partial(fused, 0.9),
    "fused, half": partial(fused, 0.5),
    "fused unbalanced, loose": partial(unbalanced, 0.1),
    "fused unbalanced": partial(unbalanced, 1.0),
}


def above(tree: LevelSetTree, node: int) -> list[int]:
    """The nodes that a node joins, to the root."""
    chain = []
    while tree.parent[node] >= 0:
        node = int(tree.parent[node])
        chain.append(node)
    return chain


def majority(tree: LevelSetTree, labels: Array) -> Array:
    """The most frequent label of each node's points."""
    counts = np.zeros((len(tree.parent), labels.max() + 1))
    np.add.at(counts, (tree.assignment, labels), 1)
    for leaf in tree.leaves:
        counts[above(tree, leaf)] += counts[leaf]
    return np.asarray(counts.argmax(1))


def verdict_table(rows: list[dict[str, Any]]) -> str:
    """Verdicts and right pairs of each kind."""
    lines, given = [], ("found", "inconclusive", "not found")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        verdicts = [row["verdict"] for row in own]
        plain = kind.removesuffix(MODES)
        related = plain not in NEGATIVE and len(set(plain.removesuffix(RAW).split(" / "))) == 1
        sums = {key: sum(row[key] for row in own) for key in ("pairs", "right", "sure", "sure_right")}
        right = f"{sums['right']}/{sums['pairs']}" if related else ""
        sure = f"{sums['sure_right']}/{sums['sure']}" if related else f"(of {sums['sure']})"
        leaves = " and ".join(f"{np.mean([row['leaves'][side] for row in own]):.0f}" for side in (0, 1))
        spent = f"{np.mean([row['cpu_seconds'] for row in own]):.1f}"
        lines.append([kind, len(own), *map(verdicts.count, given), leaves, right, sure, spent])
    return table(["pair of trees", "n", *given, "leaves", "pairs right", "sure ones right", "CPU s"], lines)


def main() -> None:
    parser = parser_of(__doc__, seeds=10, out="match_trees.jsonl")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--real", action="store_true", help="the real sets in place of the planted ones")
    parser.add_argument("--modes", action="store_true", help="trees of modes, not of density level sets")
    parser.add_argument("--matchers", action="store_true", help="quadratic assignment beside POT's matchers")
    parser.add_argument("--leaves", action="store_true", help="which leaves recur in the other half")
    parser.add_argument("--kinds", nargs="+", default=None)
    arguments = parser.parse_args()
    same = [f"{name} / {name}" for name in SETS]
    different = [" / ".join(pair) for pair in itertools.combinations(SETS, 2)]
    kinds = arguments.kinds or ([*same, *different] if arguments.real else [*PLANTED, *NEGATIVE])
    kinds = [f"{kind}{MODES}" for kind in kinds] if arguments.modes else kinds

    if arguments.matchers or arguments.leaves:
        print(matchers() if arguments.matchers else recurring())
        return

    rows = Rows(arguments.out, ("kind", "seed"), SOURCES)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    rows.complete([(kind, seed) for seed in seeds for kind in kinds], run)
    print(verdict_table(list(rows)))


if __name__ == "__main__":
    main()
