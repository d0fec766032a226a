"""Saved results that were damaged or made to harm: nothing but one line of RepdynError may come of them.

Every kind of result that is saved is made once, small. Then each JSON value is replaced by values of other
types and sizes, each key dropped, each array renamed, reshaped, emptied or filled with NaN, each file
truncated, flipped or swapped with that of another result. What is left is loaded and used (``repr``,
``to_dict``, ``plot``, scoring, applying). Counted are refusals in one line, results that are as before,
results that differ without a word, uncaught exceptions, calls that do not end, and anything unpickled.

::

    python benchmarks/mutations.py [--each 80] [--kinds tree,koopman] [--sealed]

Without ``--sealed`` the digest that a result carries is dropped first, as in results of version 0.1, so that
the readers are tried and not the digest alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

import repdyn
from repdyn import disentangle, fields, koopman, ood, topology, translation
from repdyn.cli.console import _plain
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.paths import RepresentationPaths

SECONDS = 20
BYTES = 12 * 2**30
DEEP = 2000
PAIRED = np.stack([np.arange(90)] * 2, 1)
Use = Callable[[Path], object]


class Reported(RepdynError):
    """Damage that a result reports beside its figures."""


class Hangs(BaseException):
    """A call that did not end."""


def labeled(count: int = 90, seed: int = 0) -> RepresentationPaths:
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((count, 4)) + 1
    return RepresentationPaths.from_arrays(
        {"a": x, "b": 0.9 * x, "c": 0.8 * x}, labels=y, logits=x[:, :3], meta={"model": "m", "digest": "d"}
    )


def step(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0] / 2, torch.tanh(3 * z[:, 1])], 1)


class Encode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x[:, :2])


class Decode(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, torch.zeros_like(z)], 1)


def rounded(values: Any) -> bytes:
    """To compare: products of the same numbers differ in their last bits with where they lie in memory."""
    return np.asarray(np.round(np.asarray(values, dtype=np.float64), 5) + 0.0).tobytes()


def _used(read: Callable[[Path], Any], *applied: Callable[[Any], Any]) -> Use:
    """Load a result, use all that every result has, and what this one computes."""

    def use(path: Path) -> object:
        found = read(path)
        entries = found.to_dict() if hasattr(found, "to_dict") else {}
        text = repr(found)
        if hasattr(found, "plot"):
            found.plot().to_json()
        return json.dumps(_plain(entries), sort_keys=True), text, [rounded(own(found)) for own in applied]

    return use


def kinds() -> dict[str, tuple[Callable[[], Any], Use]]:
    """How each kind of result is made, and how it is loaded and used."""

    @cache
    def kae() -> Any:
        return koopman.KoopmanAutoencoder(5, (8,)).fit(labeled(), epochs=3, batch_size=32)

    @cache
    def edited() -> Any:
        return kae().forget(labeled(), label=1)

    def points(seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(90, 3)) + 6 * np.eye(3)[np.arange(90) % 3]

    def translation_of() -> Any:
        turned = points() @ np.linalg.qr(points(1)[:3])[0]
        one, other = (RepresentationPaths.from_arrays({"x": x}) for x in (points(), turned))
        return translation.translate(one, other, pairs=PAIRED)

    def skd() -> Any:
        x = np.random.default_rng(0).normal(size=(12, 4, 3)).astype(np.float32)
        return disentangle.SSMSKD(latent_dim=3, hidden=4).fit(x, epochs=1)

    def film() -> np.ndarray:
        return np.random.default_rng(1).random((2, 3, 1, 6, 6)).astype(np.float32)

    def depth() -> Any:
        model = disentangle.SSMSKD(latent_dim=3, hidden=4).fit(labeled(), epochs=1)
        return disentangle.depth_factors(model, labeled(60, 1), labeled())

    def field() -> Any:
        return fields.LatentField(step)

    def codes(n: int = 40) -> Tensor:
        return torch.as_tensor(np.random.default_rng(2).normal(size=(n, 2)), dtype=torch.float32)

    def memorized() -> Any:
        autoencoder = fields.LatentField.from_autoencoder(Encode(), Decode())
        return fields.memorization(autoencoder, torch.randn(30, 4), torch.randn(30, 4))

    def probed() -> Any:
        return fields.probe_without_data(field(), lambda z: z, codes(60), atoms=(1, 2), starts=60)

    def surrogate() -> Any:
        made = fields.SurrogateAutoencoder(2, (8,), penalty=0.0, epochs=1)
        return made.fit(labeled(300), "a")

    def tracker() -> Any:
        found = fields.AttractorTracker(codes())
        for k in range(2):
            found.update(k, field())
        return found.history()

    def tree(seed: int = 0) -> Any:
        return topology.LevelSetTree.fit(points(seed))

    def flow() -> Any:
        made = topology.FlowAutoencoder(1, layers=1, hidden=(8,), components=2)
        return made.fit(points(), steps=2, start_steps=2)

    def use_detector(path: Path) -> object:
        found = ood.load_detector(path)
        if isinstance(found, ood.TrajectoryDetector | ood.AttractorDetector):
            found = type(found).load(path)
        text = type(found).__name__
        if hasattr(found, "encode"):
            return text, found.calibration_scores_.tobytes()
        return text, rounded(found.score_samples(labeled(8, 3))), found.predict(labeled(8, 3)).tobytes()

    def detector(kind: Any) -> tuple[Callable[[], Any], Use]:
        return lambda: kind().fit(labeled()), use_detector

    def evaluation() -> Any:
        return ood.evaluate(ood.PathDetector().fit(labeled()), labeled(60, 1), {"far": labeled(60, 2)})

    def drift() -> Any:
        monitor = ood.DriftMonitor(ood.PathDetector().fit(labeled()), window=50)
        monitor.update(labeled(120, 4))
        return monitor.report()

    def stitching() -> Any:
        accuracy = {"translation": Estimate(0.7, 0.6, 0.8), "random map": Estimate(0.1, 0.05, 0.2)}
        return translation.StitchingEvaluation(accuracy, 90, "found")

    def evaluated() -> Any:
        return translation.evaluate_translation(translation_of(), points(), points(), np.arange(90) % 3)

    def spectrum() -> Any:
        return kae().spectrum(labeled(), resamples=5)

    rows, few = np.ones((3, 4)), np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    return {
        "attractors": (lambda: field().attractors(codes()), _used(fields.Attractors.load)),
        "history": (tracker, _used(fields.AttractorHistory.load)),
        "alignment": (
            lambda: fields.align_fields(field(), field(), codes(60), codes(60)),
            _used(fields.FieldAlignment.load),
        ),
        "memorization": (memorized, _used(fields.Memorization.load)),
        "probing": (probed, _used(fields.Probing.load)),
        "surrogate": (
            surrogate,
            _used(fields.SurrogateAutoencoder.from_pretrained, lambda s: s.residual(rows)),
        ),
        "attack": (lambda: koopman.attack(edited(), labeled(90, 1), 1), _used(koopman.AttackReport.load)),
        "autonomy": (lambda: koopman.autonomy(labeled(60, 1), labeled()), _used(koopman.Autonomy.load)),
        "edited": (edited, _used(koopman.EditedKoopman.load, lambda e: e.propagate(rows, "c"))),
        "excitation": (
            lambda: koopman.excitation(spectrum(), kae(), labeled()),
            _used(koopman.Excitation.load),
        ),
        "fidelity": (lambda: kae().fidelity(labeled(60, 1)), _used(koopman.Fidelity.load)),
        "koopman": (
            kae,
            _used(
                koopman.KoopmanAutoencoder.from_pretrained,
                lambda k: k.propagate(rows, "a", "c"),
                lambda k: k.encode(rows, "a"),
            ),
        ),
        "spectrum": (
            spectrum,
            _used(koopman.KoopmanSpectrum.load, lambda s: np.abs(s.eigenfunctions(np.ones((2, 5))))),
        ),
        "disentangle": (skd, _used(disentangle.SSMSKD.from_pretrained, lambda m: m.reconstruct(few))),
        "depth": (depth, _used(disentangle.DepthFactors.load)),
        "swap": (
            lambda: disentangle.Swap(film(), 1 - film(), (film() / 2, film() / 3), "static"),
            _used(disentangle.Swap.load),
        ),
        "swap_grid": (
            lambda: disentangle.SwapGrid(np.stack([film(), 1 - film()]), "static"),
            _used(disentangle.SwapGrid.load),
        ),
        "path detector": detector(ood.PathDetector),
        "relative path detector": detector(ood.RelativePathDetector),
        "mahalanobis": detector(ood.MahalanobisDetector),
        "relative mahalanobis": detector(ood.RelativeMahalanobisDetector),
        "knn": detector(ood.KNNDetector),
        "energy": detector(ood.EnergyDetector),
        "guided energy": detector(ood.GuidedEnergyDetector),
        "union": detector(ood.UnionDetector),
        "ood": (evaluation, _used(ood.OODEvaluation.load)),
        "drift": (drift, _used(ood.DriftReport.load)),
        "persistence": (
            lambda: topology.persistence(labeled(60), landmarks=30, resamples=2),
            _used(topology.PathPersistence.load),
        ),
        "flow": (flow, _used(topology.FlowAutoencoder.from_pretrained, lambda f: f.encode(points()[:5]))),
        "tree": (tree, _used(topology.LevelSetTree.load)),
        "tree_match": (
            lambda: translation.match_trees(tree(), tree(1), points(), points(1)),
            _used(translation.TreeMatch.load),
        ),
        "translation": (
            translation_of,
            _used(translation.LinearTranslation.load, lambda t: t(np.ones((2, 3)))),
        ),
        "translation_evaluation": (evaluated, _used(translation.TranslationEvaluation.load)),
        "path_translation": (
            lambda: translation.translate_path(labeled(), labeled(), pairs=PAIRED),
            _used(translation.PathTranslation.load),
        ),
        "stitching": (stitching, _used(translation.StitchingEvaluation.load)),
        "store": (labeled, use_store),
    }


def use_store(path: Path) -> object:
    verified = repdyn.verify_paths(path)
    paths = repdyn.open_paths(path)
    values = [np.asarray(paths[point]).tobytes() for point in paths.points]
    labels, logits = np.asarray(paths.labels), np.asarray(paths.logits)
    paths.plot().to_json()
    report, shown = (repr(text).replace(str(path), "") for text in (verified, paths))
    if not verified.sound:
        raise Reported("damage is reported")
    return report, shown, values, list(map(str, paths.ids)), labels.tobytes(), logits.tobytes()


VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, math.inf, -math.inf, math.nan, 10**18, 10**400, "", "x", "nan", "../../x",
    [], [1], ["x"], [[1, 2], [3]], {}, {"a": 1}, {"float": "nan"}, {"value": "x", "low": 0, "high": 1},
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document is; of long lists the first and last."""
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for k in sorted({0, len(value) - 1}) if value else []:
            yield from places(value[k], (*at, k))


def put(document: Any, at: tuple[Any, ...], value: Any, drop: bool = False) -> Any:
    changed = copy.deepcopy(document)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    if drop:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return changed


def nested() -> str:
    return "[" * DEEP + "]" * DEEP


Mutation = tuple[str, Callable[[Path], object]]


def json_mutations(file: Path) -> Iterator[Mutation]:
    """Each value changed to each other, dropped, or nested; relative to the folder that the file is in."""
    document = json.loads(file.read_text())

    def write(changed: Any) -> Callable[[Path], object]:
        return lambda path: path.write_text(json.dumps(changed), encoding="utf-8")

    for at in places(document):
        for value in VALUES:
            yield f"{at} = {str(value)[:20]!r}", write(put(document, at, value))
        yield f"{at} dropped", write(put(document, at, None, drop=True))
        deep = json.dumps(put(document, at, "@deep@")).replace('"@deep@"', nested())
        yield f"{at} nested", lambda path, text=deep: path.write_text(text)
        if isinstance(at[-1], str):
            inner = document
            for key in at[:-1]:
                inner = inner[key]
            renamed = put(document, at, None, drop=True)
            holder = renamed
            for key in at[:-1]:
                holder = holder[key]
            holder["other"] = inner[at[-1]]
            yield f"{at} renamed", write(renamed)


def byte_mutations(file: Path, others: list[Path]) -> Iterator[Mutation]:
    """Truncated, flipped, empty, foreign, missing, a folder, and another result's file."""
    data = file.read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        part = data[: round(share * len(data))]
        yield f"cut to {share}", lambda path, part=part: path.write_bytes(part)
    for seed in range(6):
        draw = random.Random(seed)
        flipped = bytearray(data)
        for _ in range(1 + seed * 3):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        yield f"flipped {seed}", lambda path, new=bytes(flipped): path.write_bytes(new)
    # A pickle: the audit hook reports whoever opens it.
    yield "pickled", lambda path: path.write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00cos\nsystem\n.")
    yield "missing", lambda path: path.unlink()
    yield "folder", lambda path: (path.unlink(), path.mkdir())
    yield "latin", lambda path: path.write_bytes(b"\xff\xfe{")
    for other in others:
        if other.name == file.name:
            yield f"of {other.parent.name}", lambda path, o=other: shutil.copy(o, path)


def array_mutations(file: Path) -> Iterator[Mutation]:
    """Each array of other shape, type or name, or with values that are not finite."""
    arrays = load_file(file)

    def write(changed: dict[str, Any]) -> Callable[[Path], object]:
        return lambda path: save_file({n: np.ascontiguousarray(a) for n, a in changed.items()}, path)

    for name, array in arrays.items():
        wrong: dict[str, Any] = {
            "flat": array.reshape(-1),
            "longer": np.concatenate([array, array]) if array.ndim else np.stack([array] * 2),
            "shorter": array[:-1] if array.ndim else np.zeros(0, array.dtype),
            "empty": array[:0] if array.ndim else np.zeros(0, array.dtype),
            "deeper": array[None],
            "scalar": np.zeros((), array.dtype),
            "nan": np.full(array.shape, np.nan),
            "huge": np.full(array.shape, 1e300),
            "int": np.full(array.shape, 10**12, dtype=np.int64),
            "negative": np.full(array.shape, -7, dtype=np.int64),
            "bool": np.ones(array.shape, dtype=bool),
        }
        for what, changed in wrong.items():
            yield f"{name} {what}", write({**arrays, name: changed})
        rest = {n: a for n, a in arrays.items() if n != name}
        yield f"{name} dropped", write(rest)
        yield f"{name} renamed", write({**rest, "other": array})
    yield "added", write({**arrays, "added": np.zeros(3)})


def mutations(folder: Path, others: list[Path], each: int, seed: int) -> Iterator[tuple[str, str, Mutation]]:
    """At most ``each`` of every family for every file."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        name = str(file.relative_to(folder))
        families: dict[str, Iterator[Mutation]] = {"bytes": byte_mutations(file, others)}
        if file.suffix == ".json":
            families["json"] = json_mutations(file)
        if file.suffix == ".safetensors":
            families["arrays"] = array_mutations(file)
        for family, found in families.items():
            listed = list(found)
            if len(listed) > each:
                listed = random.Random(f"{seed}{name}{family}").sample(listed, each)
            yield from ((name, family, one) for one in listed)


def unseal(folder: Path) -> None:
    """Drop the digests, as in results of version 0.1."""
    for file in folder.rglob("config.json"):
        document = json.loads(file.read_text())
        document.get("repdyn", {}).pop("sha256", None)
        file.write_text(json.dumps(document))
    for file in folder.glob("zarr.json"):
        document = json.loads(file.read_text())
        document["attributes"]["repdyn"].pop("sha256", None)
        file.write_text(json.dumps(document))


_UNPICKLED: list[str] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        _UNPICKLED.append(str(args))


def try_one(use: Use, path: Path, before: object) -> tuple[str, str]:
    """What becomes of loading and using: its class, and the error."""

    def late(*_: object) -> None:
        raise Hangs

    _UNPICKLED.clear()
    # Time of this process, so that a busy machine is no fault; three times as long by the clock.
    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(3 * SECONDS)
    try:
        found = use(path)
    except RepdynError as error:
        text = str(error)
        return ("refused", text) if "\n" not in text else ("two lines", text)
    except Hangs:
        return "hangs", ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/repdyn/" in f.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"
        return "crash", f"{type(error).__name__}: {str(error)[:110]} @ {place}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    if _UNPICKLED:
        return "unpickled", str(_UNPICKLED)
    return ("same" if found == before else "differs"), ""


def make(kind: str, recipe: Callable[[], Any], root: Path) -> Path:
    """Make and save one result."""
    path = root / kind.replace(" ", "_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        found = recipe()
        (found.save_pretrained if hasattr(found, "save_pretrained") else found.save)(path)
    return path


def trial(
    kind: str, use: Use, made: Path, others: list[Path], each: int, seed: int = 0, sealed: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Mutate a saved result, and yield each mutation with what became of it."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Path(scratch) / "whole"
        shutil.copytree(made, whole)
        if not sealed:
            unseal(whole)
        before = use(whole)
        for file, family, (what, change) in mutations(whole, others, each, seed):
            path = Path(scratch) / "x"
            shutil.copytree(whole, path)
            change(path / file)
            outcome, error = try_one(use, path, before)
            yield f"{kind}/{file} [{family}] {what}", outcome, error
            shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--sealed", action="store_true")
    parser.add_argument("--show", default="crash,hangs,unpickled,two lines")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.addaudithook(_watch)
    wanted = given.kinds.split(",") if given.kinds else list(kinds())
    total: Counter[str] = Counter()
    shown = given.show.split(",")
    with tempfile.TemporaryDirectory() as folder:
        known = kinds()
        made = {kind: make(kind, known[kind][0], Path(folder)) for kind in dict.fromkeys([*wanted, "tree"])}
        others = [made["tree"] / "config.json", made["tree"] / "model.safetensors"]
        print(f"{'kind':24s} {'all':>6s}  outcome")
        for kind in wanted:
            count: Counter[str] = Counter()
            for what, outcome, error in trial(
                kind, known[kind][1], made[kind], others, given.each, given.seed, given.sealed
            ):
                count[outcome] += 1
                if outcome in shown:
                    print(f"    {outcome}: {what}: {error}", flush=True)
            total += count
            print(f"{kind:24s} {sum(count.values()):6d}  {dict(count)}", flush=True)
    print(f"{'total':24s} {sum(total.values()):6d}  {dict(total)}")


if __name__ == "__main__":
    main()
