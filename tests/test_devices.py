"""Everything public that takes a model, a tensor or a field, on a device: the same numbers, and there.

Each case of :mod:`tests.device_cases` runs on the CPU and on another device. Tensors of the answer must be on
that device and of the same type as on the CPU, and all numbers equal those of the CPU, which are the oracle.
The device is a stand-in that refuses what a GPU would refuse (:mod:`tests.stand_in`), the same without
float64, as Apple's MPS, and a GPU where there is one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import typer
from torch import Tensor, nn

import repdyn
from repdyn import devices, disentangle, fields, koopman, ood, paths, results, topology, tracing, translation
from repdyn.cli.app import app
from repdyn.errors import RepdynError
from repdyn.ood.detector import Detector
from repdyn.shortening import ShortenedModel
from tests.device_cases import ARRAYS, CASES, fitted_koopman, network, normal
from tests.stand_in import NAME, moves, on_stand_in, refused

ROOMS = (repdyn, paths, tracing, koopman, fields, ood, topology, translation, disentangle)

OF_RESULTS = {
    "save",
    "load",
    "from_pretrained",
    "push_to_hub",
    "to_dict",
    "to_frame",
    "from_dict",
    "plot",
    "record",
    "revive",
    "describe",
    "restore",
}
"""Methods that read or write the fields of a result, which are arrays."""
OF_DETECTORS = {
    "fit",
    "fit_paths",
    "fit_shared",
    "fit_beside",
    "fit_statistics",
    "calibrate_profile",
    "check_fitted",
    "from_record",
    "point_of_matrix",
    "profile_chunk",
    "sampling_notes",
    "score_chunk",
    "to_record",
    "calibrate",
    "score_samples",
    "decision_function",
    "predict",
    "p_values",
    "profile",
    "usual_profile",
    "limits",
    "as_module",
    "bind",
}
"""Methods that read stored paths; those that call a map, and all modules, have cases above."""
OF_PATHS = {
    "RepresentationPaths.batches",
    "RepresentationPaths.iterate",
    "drawn_rows",
    "equal_samples",
    "nearby",
    "RepresentationPaths.column",
    "RepresentationPaths.from_arrow",
    "RepresentationPaths.from_dataset",
    "RepresentationPaths.mask",
    "RepresentationPaths.push_to_hub",
    "RepresentationPaths.split",
    "RepresentationPaths.subset",
    "RepresentationPaths.tokens_as_samples",
    "PathsWriter.content",
    "PathsWriter.finish",
    "PathsWriter.open",
    "PathsWriter.write_chunk",
    "as_paths",
    "autonomy",
    "compare",
    "file_of_vectors",
    "import_paths",
    "migrate",
    "phases",
    "check_finite",
    "controls",
    "evaluate",
    "export_paths",
    "inspect_paths",
    "kinds_of_shift",
    "load_detector",
    "merge_paths",
    "open_paths",
    "push_folder",
    "recommend",
    "report",
    "translate",
    "translate_path",
    "verify_paths",
    "KoopmanAutoencoder.check_paths",
    "DriftMonitor.update",
    "DriftMonitor.report",
    "DriftMonitor.note_broken",
    "PathTranslation.of",
}
"""What reads or writes stores, or paths in memory."""
OF_ARRAYS = {
    "ScaleSpace.basins",
    "AttractorTracker.history",
    "Attractors.basin_volumes",
    "Attractors.status_counts",
    "Factors.part",
    "Factors.some",
    "Factors.take",
    "KoopmanSpectrum.clusters",
    "LevelSetTree.from_merging",
    "KoopmanSpectrum.plot_pseudospectrum",
    "KoopmanSpectrum.projector",
    "KoopmanSpectrum.pseudospectrum",
    "LevelSetTree.cut",
    "LevelSetTree.prune",
    "LevelSetTree.simplify",
    "PathPersistence.betti_curves",
    "Persistence.betti_curves",
    "SwapTable.score",
    "SwapTable.strict",
    "brute_force",
    "coordinate_information",
    "dci",
    "explore",
    "false_positive_interval",
    "leakage",
    "merge_tree_distance",
    "merge_tree_edit_distance",
    "multifactor_table",
    "published_score",
    "static_dynamic_table",
    "strict_score",
}
"""What takes results of repdyn, or numbers, and computes with arrays."""
BY_OTHERS = {
    *(
        f"EnergyField.{name}"
        for name in (
            "as_float64",
            "attractors",
            "divergence",
            "double",
            "from_autoencoder",
            "jvp",
            "linearize",
            "lyapunov",
            "on_device",
            "place",
            "power",
            "trajectory",
            "velocity",
        )
    ),
    "load",
    "load_result",
    "Adapter.load",
    "Adapter.recognizes",
    "Adapter.wrap",
    "TracedModel.find_points",
    "evaluate_stitching",
    "KoopmanAutoencoder.build",
    "SKD.build",
    "SSMSKD.build",
    *(
        f"SSMSKD.{name}"
        for name in (
            "operators",
            "predict",
            "read",
            "reconstruct",
            "restore_scale",
            "sample",
            "standardise",
            "standardize",
            "swap",
        )
    ),
}
"""Reads names only, or is a part of what has a case: both structured models share their methods."""


def public_callables() -> set[str]:
    found = set()
    for room in ROOMS:
        for name in room.__all__:
            thing = getattr(room, name)
            if get_args(thing):  # a union of types: callable on some versions of Python
                continue
            if not inspect.isclass(thing):
                found |= {name} if callable(thing) else set()
            elif not issubclass(thing, Exception):
                found |= {
                    f"{name}.{method}"
                    for method, value in inspect.getmembers(thing, callable)
                    if not method.startswith("_")
                    and str(getattr(value, "__module__", "")).startswith("repdyn")
                }
    return found


def test_every_public_callable_is_tried_on_a_device_or_needs_none() -> None:
    tried = {name for one in CASES.values() for name in one.covers} | set(ARRAYS)
    explained = tried | OF_PATHS | OF_ARRAYS | BY_OTHERS
    left = set()
    for name in public_callables() - explained:
        kind, _, method = name.rpartition(".")
        of_detector = kind.endswith("Detector") and method in OF_DETECTORS
        if of_detector or (kind and method in OF_RESULTS):
            continue
        left.add(name)
    assert not left, "give them a case, or say why they need no device"
    assert not explained - public_callables(), "these are gone"


@pytest.mark.parametrize("name", ARRAYS)
def test_tensors_of_a_device_are_read_as_arrays(name: str, device: str) -> None:
    x = normal(60, 5, seed=3)
    compare(ARRAYS[name](x.to(device)), ARRAYS[name](x.numpy()), "cpu", 1e-5)


ALLOWED_MOVES = {
    "reading.py": 2,  # `.cpu()` and `.numpy()` of the one function that makes arrays from tensors
    "shortening/shorten.py": 1,  # `TracedModel.to`, as below
    "tracing/reader.py": 1,  # `TracedModel.to`, which moves all parts and says which model cannot be moved
    "tracing/registry.py": 1,  # the same
    "tracing/spec.py": 1,  # a module of the user or of transformers may define its own `to`
}
"""How many moves a file has outside repdyn/devices.py, with the reason."""
MOVES = {"cpu", "cuda", "numpy", "double", "half"}
"""Methods that copy to a device or assume one: not all devices have float64, and NumPy needs the CPU."""


def moves_in(source: str) -> Iterator[str]:
    """Expressions that move a tensor or a module by themselves, or read a module's device by themselves.

    A conversion to a dtype that is named (``x.float()``, ``x.to(torch.float32)``, ``x.to(y.dtype)``) stays
    on the device and is none.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("device", "dtype"):
            holder = ast.unparse(node.value)
            if holder.startswith("next(") and ("parameters()" in holder or "buffers()" in holder):
                yield ast.unparse(node)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, words = ast.unparse(node.func.value), [ast.unparse(given) for given in node.args]
        named = {own.arg for own in node.keywords}
        if owner == "devices":
            continue
        to_dtype = len(words) == 1 and named <= {"copy"} and is_dtype(words[0])
        moves = node.func.attr in MOVES or (node.func.attr == "to" and not to_dtype and named != {"dtype"})
        made = (
            owner == "torch" and node.func.attr in ("as_tensor", "tensor", "from_numpy") and "device" in named
        )
        if moves or made:
            yield ast.unparse(node)


def is_dtype(word: str) -> bool:
    return word.endswith(("dtype", "precise")) or word.startswith(("torch.float", "torch.complex", "torch.b"))


@pytest.mark.parametrize(
    "move",
    [
        "x.cpu()",
        "x.detach().cpu().numpy()",
        "x.cuda(0)",
        "x.to(device)",
        "x.to(where)",
        "x.to(like)",
        "x.to(y.device, torch.float32)",
        "x.to(device='cpu')",
        "x.to('cpu')",
        "x.double()",
        "torch.as_tensor(x, device=y.device)",
        "torch.tensor([1.0], device=where)",
        "next(model.parameters()).device",
        "next(iter(model.buffers())).dtype",
    ],
)
def test_a_move_is_found(move: str) -> None:
    assert list(moves_in(f"def f(x, y):\n    return {move}"))


@pytest.mark.parametrize(
    "other",
    [
        "devices.to(x, device)",
        "to(x, y.device)",
        "as_given(x, like)",
        "double(x)",
        "x.to(torch.float32)",
        "x.to(y.dtype)",
        "x.to(dtype=torch.float32)",
        "x.float()",
        "torch.zeros(3, device=x.device)",
        "torch.as_tensor(x)",
    ],
)
def test_what_stays_on_its_device_is_no_move(other: str) -> None:
    assert not list(moves_in(other))


def test_one_module_moves_tensors() -> None:
    root, found = Path(repdyn.__file__).parent, {}
    for file in root.rglob("*.py"):
        name = file.relative_to(root).as_posix()
        if name != "devices.py" and (calls := list(moves_in(file.read_text(encoding="utf-8")))):
            found[name] = calls
    added = {name: calls for name, calls in found.items() if len(calls) != ALLOWED_MOVES.get(name, 0)}
    assert not added, "use repdyn.devices.to, as_given, double or repdyn.reading.as_array"
    assert found.keys() == ALLOWED_MOVES.keys(), "these have no move any more"


def test_a_device_without_double_gets_the_narrower_type(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.ones(2, dtype=torch.complex128)
    assert devices.to(wide, "cpu").dtype == torch.complex128
    monkeypatch.setattr(devices, "WITHOUT_DOUBLE", {"cpu"})
    assert devices.to(wide, "cpu").dtype == torch.complex64
    assert devices.to(torch.ones(2), None, torch.float64).dtype == torch.float32
    assert devices.to(nn.Linear(2, 2), None, torch.float64).weight.dtype == torch.float32
    assert devices.to(torch.arange(2), "cpu", torch.float64).dtype == torch.int64


LOADED_WITHOUT_DEVICE = {
    "Adapter.load": "repdyn.load moves the model",
    "FlowAutoencoder.load": "the old name, which passes on what from_pretrained takes",
    "SurrogateAutoencoder.load": "the same",
    "GenerationMonitor.load": "its module is on the device of the model that is given",
    "load_result": "arrays, and estimators on the CPU; their own from_pretrained takes a device",
}
"""What reads saved things and takes no device, with the reason; results and detectors hold arrays."""
VERBS_ON_THE_HOST = {
    "compare": "arrays",
    "demo": "shows known numbers of a small model",
    "doctor": "lists the devices",
    "migrate": "arrays",
    "ood evaluate": "arrays",
    "ood fit": "arrays",
    "paths export": "copies a store",
    "paths import": "copies a store",
    "paths info": "reads metadata",
    "paths merge": "copies a store",
    "paths verify": "reads a store",
    "report": "arrays",
    "topology": "arrays",
    "translate": "arrays",
}
"""Verbs of the command line without ``--device``, with the reason: functions of arrays run on the host."""


def test_what_loads_weights_takes_a_device() -> None:
    without = set()
    for name in public_callables():
        room = next(room for room in ROOMS if name.partition(".")[0] in room.__all__)
        holder: Any = room
        for part in name.split("."):
            holder = getattr(holder, part)
        own = name.endswith((".load", ".from_pretrained"))
        of_arrays = own and holds_arrays(getattr(room, name.partition(".")[0]))
        loads = name.rpartition(".")[2] in ("load", "load_result", "from_pretrained")
        if loads and not of_arrays and "device" not in inspect.signature(holder).parameters:
            without.add(name)
    assert without == LOADED_WITHOUT_DEVICE.keys()


def holds_arrays(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, (results.Result, Detector))


def test_every_verb_that_computes_on_a_device_takes_one() -> None:
    def verbs(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
        for name, own in getattr(group, "commands", {}).items():
            yield from verbs(own, (*names, name))
        if not hasattr(group, "commands"):
            yield " ".join(names), any("--device" in given.opts for given in group.params)

    found = dict(verbs(typer.main.get_command(app)))
    assert {verb for verb, takes in found.items() if not takes} == VERBS_ON_THE_HOST.keys()
    assert {"trace", "koopman fit", "stitch"} <= found.keys()


def test_a_shortened_model_is_read_onto_a_device(tmp_path: Path) -> None:
    module = nn.Sequential(*(nn.Sequential(network(4, 4, seed=seed)) for seed in range(4)))
    model = repdyn.wrap(module)
    shorter = repdyn.shorten(model, normal(200, 4), remove=2)
    shorter.save_pretrained(tmp_path / "short")
    with on_stand_in() as name:
        again = ShortenedModel.from_pretrained(tmp_path / "short", model=model, device=name)
        assert {part.device.type for part in again.module.parameters()} == {name}
        assert devices.device_of(model.module).type == name
    with pytest.raises(RepdynError, match="device 'nowhere'"):
        ShortenedModel.from_pretrained(tmp_path / "short", model=model, device="nowhere")


# --- the test


@pytest.fixture(params=["standin", "standin without float64", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
        yield "cuda"
        return
    if request.param.endswith("float64"):
        monkeypatch.setattr(devices, "WITHOUT_DOUBLE", {NAME})
        refused.update((torch.float64, torch.complex128))
    with on_stand_in() as name:
        yield name
    refused.clear()


@pytest.mark.parametrize("name", CASES)
def test_on_a_device_numbers_are_those_of_the_cpu_and_tensors_are_there(name: str, device: str) -> None:
    expected, found = CASES[name].run("cpu"), CASES[name].run(device)
    if name == "a_field_in_double" and device in devices.WITHOUT_DOUBLE:
        return  # there is none, which the case has looked at
    compare(found, expected, device, CASES[name].tolerance)


def test_fields_iterate_and_models_read_without_a_copy_to_the_host() -> None:
    with on_stand_in() as name:
        koopman_field, z = fitted_koopman(name).field("p1"), normal(9, 8).to(name)
        model, x = repdyn.wrap(network(4, 5, 6, 3)).to(name), normal(9, 4).to(name)
        with model.reader() as read:
            read.prepared(x, 9)
            before = moves[0]
            koopman_field.trajectory(z, 5)
            read.prepared(x, 9)
            assert moves[0] == before
            z.cpu()
            assert moves[0] == before + 1  # what is asked for is counted


def compare(found: Any, expected: Any, device: str, tolerance: float) -> None:
    assert type(found) is type(expected) or isinstance(found, Tensor)
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        assert found.device.type == device
        close(found.detach().cpu().double().numpy(), expected.detach().double().numpy(), tolerance)
    elif isinstance(expected, np.ndarray | float):
        close(np.asarray(found), np.asarray(expected), tolerance)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            compare(found[key], expected[key], device, tolerance)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            compare(one, other, device, tolerance)
    else:
        assert found == expected


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    scale = float(np.nanmax(np.abs(expected), initial=1e-12)) if expected.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)
