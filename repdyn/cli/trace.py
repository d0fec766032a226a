"""``repdyn trace``: trace a model's representation paths to a store on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.options import Device, Json, Seed

if TYPE_CHECKING:
    from repdyn.cli.data import Data
    from repdyn.paths import RepresentationPaths
    from repdyn.tracing.engines import Engine

__all__ = ["trace"]


def trace(
    model: Annotated[
        str, typer.Argument(help="timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:…, packaged:…")
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, csv-latin1:…, jsonl:…, parquet:…, "
            "hf:NAME#SPLIT, digits, docstrings"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The store to write; an unfinished one is continued.")],
    points: Annotated[
        list[str] | None,
        typer.Option("--point", help="A point or a glob; repeat for more. Default: the blocks."),
    ] = None,
    pool: Annotated[str, typer.Option(help="auto, cls, mean, last, gap, flatten or none.")] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples per forward pass; raised for short texts.")
    ] = 32,
    dtype: Annotated[
        str, typer.Option(help="How values are stored: float32, float16, bfloat16 or float64.")
    ] = "float32",
    compute_dtype: Annotated[
        str | None,
        typer.Option(
            help="Precision of the forward pass: bfloat16 or float16; default: the type of the weights."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Trace a random subset of this size.")] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out and list the samples that cannot be read or on which the model fails.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue an unfinished store.")] = True,
    engine: Annotated[
        str | None,
        typer.Option(help="ray: trace with the workers of a Ray cluster. Default: in this process."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; default: a local one, for this trace.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Trace a model's representation paths to disk.

    Example: repdyn trace packaged:all-MiniLM-L6-v2 csv:queries.csv#text,intent --out a.paths
    """
    import time

    import repdyn
    from repdyn.cli.data import read_data
    from repdyn.errors import RepdynError
    from repdyn.tracing.trace import is_begun

    samples = read_data(data, skip_bad)
    for name, reason in samples.skipped.items():
        say(f"skipped {name}: {reason}")
    samples = samples if limit is None else samples.part(limit, seed)
    subject: Any = model
    how: dict[str, Any] = {
        "points": points,
        "pool": pool,
        "dtype": dtype,
        "compute_dtype": compute_dtype,
        "device": device,
        "batch_size": batch_size,
    }
    begun = skip_bad and resume and is_begun(out)
    if skip_bad:
        subject = repdyn.load(model)
        samples = _without_bad(subject, samples)
        # The earlier run of this store has left out the samples on which the model fails.
        samples = _without_failing(subject, samples, how) if begun else samples
    started = time.perf_counter()

    def traced(samples: Data, resume: bool) -> RepresentationPaths:
        paths: RepresentationPaths = repdyn.trace(
            subject if engine is None else model,
            samples.inputs,
            labels=samples.labels,
            ids=samples.ids,
            out=out,
            resume=resume,
            engine=_engine(engine, ray_address),
            meta={"skipped": dict(samples.skipped)} if samples.skipped else None,
            **how,
        )
        return paths

    try:
        paths = traced(samples, resume)
    except RepdynError:
        good = _without_failing(subject, samples, how) if skip_bad and not begun else samples
        if good is samples:
            raise
        samples = good
        paths = traced(samples, False)  # not resumed, because the failed run began with other samples
    seconds = time.perf_counter() - started
    say(repr(paths))
    say(f"{out}: {len(paths)} paths in {seconds:.1f} s")
    if left := paths.meta.get("left_out"):
        never = sum(reason == "never called" for reason in left.values())
        say(f"{len(left)} modules left out: {never} are never called, {len(left) - never} cannot be read")
    if samples.skipped:
        say(f"{len(samples.skipped)} left out; the list is above and in the store")
    write_json(json, {"trace": {**paths.to_dict(), "seconds": seconds, "skipped": samples.skipped}})


def _without_bad(model: Any, samples: Data) -> Data:
    """The samples that the model's `prepare` accepts; the others are reported."""
    from repdyn.tracing.stream import unprepared

    return _chosen(model, samples, unprepared(model, samples.inputs))


def _without_failing(model: Any, samples: Data, how: Mapping[str, Any]) -> Data:
    """The samples on which the model's forward pass succeeds; the others are reported."""
    from repdyn.errors import RepdynError
    from repdyn.tracing.stream import unfit
    from repdyn.tracing.trace import checked_compute_dtype, checked_dtype

    own = {key: how[key] for key in ("points", "pool", "device")}
    own.update(dtype=checked_dtype(how["dtype"]), compute=checked_compute_dtype(how["compute_dtype"]))
    try:
        bad = unfit(model, samples.inputs, how["batch_size"], own)
    except RepdynError:  # a wrong argument, or the model fails on all samples: the trace raises the error
        return samples
    return _chosen(model, samples, bad)


def _chosen(model: Any, samples: Data, bad: Mapping[int, str]) -> Data:
    """The data without the samples in ``bad`` (``{index: reason}``), which are printed."""
    import numpy as np

    from repdyn.errors import RepdynError

    named = {str(number) if samples.ids is None else samples.ids[number]: why for number, why in bad.items()}
    for name, reason in named.items():
        say(f"skipped {name}: {reason}")
    if len(bad) == len(samples.inputs):
        raise RepdynError(f"data: {model.name} accepts none of the {len(bad)} samples")
    if not bad:
        return samples
    return samples.chosen(np.setdiff1d(np.arange(len(samples.inputs)), list(bad)), named)


def _engine(name: str | None, ray_address: str | None) -> Engine | None:
    from repdyn.errors import RepdynError
    from repdyn.tracing.engines import engine_class

    if ray_address is not None and name != "ray":
        raise RepdynError("--ray-address: needs --engine ray; give both, or neither")
    if name is None:
        return None
    chosen: Engine = engine_class(name)(**({} if ray_address is None else {"address": ray_address}))
    return chosen
