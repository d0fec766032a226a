"""``repdyn doctor``: check the installed versions, devices and adapters, and run a self-test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.options import Json

__all__ = ["doctor"]

_PACKAGES = ("repdyn", "torch", "numpy", "scikit-learn", "timm", "transformers", "nnsight", "plotly", "zarr")


def doctor(json: Json = None) -> None:
    """Print versions, devices, adapters and extras, and run a self-test on a tiny model.

    The self-test traces a small network on scikit-learn's digits, fits an autoencoder and a detector, builds
    a tree and writes a report into a temporary folder. It takes about ten seconds. If a step fails, the exit
    status is 1.

    Example: repdyn doctor

    Example: repdyn doctor --json health.json
    """
    import platform
    import sys

    say(f"python    {platform.python_version()} on {platform.system()} {platform.machine()}")
    versions = {name: _version(name) for name in _PACKAGES}
    _listing("versions", {name: number or "not installed" for name, number in versions.items()}, say)
    devices = _devices()
    _listing("devices", devices, say)
    adapters = _adapters()
    _listing("adapters", adapters, say)
    extras = _extras()
    _listing(
        "extras",
        {k: "complete" if not lacks else f"lacks {', '.join(lacks)}" for k, lacks in extras.items()},
        say,
    )
    say("self-test")
    outcome = _self_test(say)
    failed = [name for name, error in outcome.items() if error]
    say(f"{len(failed)} of {len(outcome)} steps failed" if failed else "everything works")
    write_json(
        json,
        {
            "versions": {**versions, "python": sys.version.split()[0]},
            "devices": devices,
            "adapters": adapters,
            "extras": {name: list(lacks) for name, lacks in extras.items()},
            "self-test": {name: error or "works" for name, error in outcome.items()},
        },
    )
    if failed:
        raise typer.Exit(1)


def _listing(title: str, entries: dict[str, str], say: Callable[[str], None]) -> None:
    say(title)
    width = max((len(name) for name in entries), default=0)
    for name, status in entries.items():
        say(f"  {name.ljust(width)}  {status}")


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for k in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(k)
        devices[f"cuda:{k}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _adapters() -> dict[str, str]:
    from importlib.metadata import entry_points

    adapters = {}
    for entry in entry_points(group="repdyn.adapters"):
        try:
            entry.load()
            status = "loads"
        except Exception as error:  # a third party's module may raise any exception; it is reported
            status = f"does not load: {type(error).__name__}: {error}"
        adapters[entry.name] = f"{status} (from {entry.dist.name if entry.dist else 'an unknown package'})"
    return dict(sorted(adapters.items()))


def _extras() -> dict[str, tuple[str, ...]]:
    """The missing packages of each extra; versions are not compared."""
    import re
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        about = metadata("repdyn")
    except PackageNotFoundError:
        return {}
    needs: dict[str, list[str]] = {name: [] for name in about.get_all("Provides-Extra") or ()}
    for line in about.get_all("Requires-Dist") or ():
        named = re.fullmatch(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"].*", line)
        if named and named[1] != "repdyn":
            needs.setdefault(named[2], []).append(named[1])
    return {extra: tuple(n for n in names if _version(n) is None) for extra, names in needs.items()}


def _self_test(say: Callable[[str], None]) -> dict[str, str]:
    """Run every step; ``{step: error}``, with an empty string if the step succeeded."""
    import time
    from functools import partial

    outcome: dict[str, str] = {}
    kept = _Kept()
    for name, step in {
        "trace": _try_trace,
        "koopman": _try_koopman,
        "field": _try_field,
        "ood": _try_ood,
        "topology": _try_topology,
        "report": _try_report,
    }.items():
        began = time.perf_counter()
        try:
            partial(step, kept)()
            outcome[name] = ""
        except Exception as error:  # any failure is a result of the test
            outcome[name] = f"{type(error).__name__}: {error}"
        line = outcome[name] or f"works ({time.perf_counter() - began:.1f} s)"
        say(f"  {name.ljust(8)}  {line}")
    return outcome


class _Kept(dict[str, Any]):
    """Results of the previous steps by name; a missing one means that its step failed."""

    def __missing__(self, name: str) -> Any:
        raise RuntimeError(f"skipped: needs {name}, whose step failed")


def _try_trace(kept: dict[str, Any]) -> None:
    import numpy as np
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    import repdyn

    pictures, labels = load_digits(return_X_y=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(3)]
        network = nn.Sequential(*blocks)
    kept["paths"] = repdyn.trace(network, (pictures[:400] / 16).astype(np.float32), labels=labels[:400])


def _try_koopman(kept: dict[str, Any]) -> None:
    import math

    import repdyn

    kept["kae"] = repdyn.KoopmanAutoencoder(latent_dim=32).fit(kept["paths"], epochs=5, seed=0)
    fidelity = kept["kae"].fidelity(kept["paths"], seed=0)
    if not all(math.isfinite(estimate.value) for row in fidelity.fvu.values() for estimate in row):
        raise ArithmeticError("the fidelity is not finite")


def _try_field(kept: dict[str, Any]) -> None:
    paths, kae = kept["paths"], kept["kae"]
    last = paths.points[-1]
    kae.field(last).attractors(kae.encode(paths[last][:20], last), max_steps=50, seed=0)


def _try_ood(kept: dict[str, Any]) -> None:
    import repdyn

    paths = kept["paths"]
    flagged = (repdyn.PathDetector().fit(paths).predict(paths) == -1).mean()
    if not 0 < flagged < 0.2:
        raise ArithmeticError(f"{flagged:.0%} of the training data is flagged, expected about 5 %")


def _try_topology(kept: dict[str, Any]) -> None:
    import repdyn

    paths = kept["paths"]
    kept["tree"] = repdyn.LevelSetTree.fit(paths[paths.points[-1]], seed=0)


def _try_report(kept: dict[str, Any]) -> None:
    import tempfile
    from pathlib import Path

    from repdyn.reporting import entry, write_page

    with tempfile.TemporaryDirectory() as folder:
        entries = [entry(kept[name], name) for name in ("paths", "tree")]
        write_page(entries, Path(folder) / "report.html", force=False)
