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
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import repdyn
from repdyn import devices, disentangle, fields, koopman, ood, paths, topology, tracing, translation
from tests.device_cases import ARRAYS, CASES, fitted_koopman, network, normal
from tests.stand_in import NAME, moves, on_stand_in, refused

ROOMS = (repdyn, paths, tracing, koopman, fields, ood, topology, translation, disentangle)

OF_RESULTS = {
    "save",
    "load",
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
    "fit_shared",
    "fit_beside",
    "fit_statistics",
    "calibrate_profile",
    "check_fitted",
    "from_record",
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
    "RepresentationPaths.mask",
    "RepresentationPaths.split",
    "RepresentationPaths.subset",
    "RepresentationPaths.tokens_as_samples",
    "PathsWriter.content",
    "PathsWriter.finish",
    "PathsWriter.open",
    "PathsWriter.write_chunk",
    "PathsLike",
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
    "load_detector",
    "merge_paths",
    "open_paths",
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


OWN_MOVES = ("fields/", "koopman/")
"""Rooms that still move tensors by themselves in places; the cases above run them on a device."""


def public_callables() -> set[str]:
    found = set()
    for room in ROOMS:
        for name in room.__all__:
            thing = getattr(room, name)
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


def moves_in(source: str) -> Iterator[str]:
    """Calls that move a tensor or a module by themselves: ``.cpu()``, ``.cuda()``, ``.to(device)``."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        words = [ast.unparse(given) for given in (*node.args, *(own.value for own in node.keywords))]
        to_device = any("device" in word or word in ("'cpu'", "'cuda'") for word in words)
        named = any(own.arg == "device" for own in node.keywords)
        moves = node.func.attr in ("cpu", "cuda") or (node.func.attr == "to" and (to_device or named))
        if moves and ast.unparse(node.func.value) != "devices":
            yield ast.unparse(node)


def test_one_module_moves_tensors() -> None:
    assert list(moves_in("x.cpu()\nx.to(device)\ny.to(x.device)\nz.to(device='cpu')")) != []
    assert list(moves_in("devices.to(x, device)\nto(x, y.device)\nx.to(torch.float32)")) == []
    root = Path(repdyn.__file__).parent
    known = {
        "devices.py": 2,
        "reading.py": 1,  # from a tensor of any device to an array
        "tracing/reader.py": 1,  # the method of a traced model, which moves all of its parts
    }
    found = {}
    for file in root.rglob("*.py"):
        name = file.relative_to(root).as_posix()
        if not name.startswith(OWN_MOVES) and (calls := list(moves_in(file.read_text(encoding="utf-8")))):
            found[name] = len(calls)
    assert found == known


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
