"""``repdyn trace``: how a model moves its inputs through depth, kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repdyn.cli.options import Device, Json, Seed

if TYPE_CHECKING:
    from repdyn.tracing.engines import Engine

__all__ = ["trace"]


def trace(
    model: Annotated[
        str, typer.Argument(help="timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:…, packaged:…")
    ],
    data: Annotated[
        str, typer.Argument(help="images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, hf:…, digits, …")
    ],
    out: Annotated[Path, typer.Option(help="The store to write; an unfinished one is continued.")],
    points: Annotated[
        list[str] | None,
        typer.Option("--point", help="A point or a glob; repeat for more. Default: the blocks."),
    ] = None,
    pool: Annotated[str, typer.Option(help="auto, cls, mean, last, gap, flatten or none.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    dtype: Annotated[str, typer.Option(help="How values are stored: float32 or float16.")] = "float32",
    limit: Annotated[int | None, typer.Option(min=1, help="Take a random part of the data.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue an unfinished store.")] = True,
    engine: Annotated[
        str | None, typer.Option(help="ray: workers of a Ray cluster trace and write. Default: here.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Of the cluster; default one on this machine, for this trace.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Trace a model's representation paths to disk.

    Example: repdyn trace packaged:all-MiniLM-L6-v2 csv:queries.csv#text,intent --out a.paths
    """
    import time

    import numpy as np

    import repdyn
    from repdyn.cli.console import say, write_json
    from repdyn.cli.data import read_data

    found = read_data(data)
    inputs, labels, ids = found.inputs, found.labels, found.ids
    if limit is not None and limit < len(inputs):
        part = np.sort(np.random.default_rng(seed).choice(len(inputs), limit, replace=False))
        inputs = inputs[part] if isinstance(inputs, np.ndarray) else [inputs[int(k)] for k in part]
        labels = None if labels is None else labels[part]
        ids = tuple(str(k) for k in part) if ids is None else tuple(ids[int(k)] for k in part)
    started = time.perf_counter()
    paths = repdyn.trace(
        model,
        inputs,
        points=points,
        pool=pool,
        labels=labels,
        ids=ids,
        out=out,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        resume=resume,
        engine=_engine(engine, ray_address),
    )
    seconds = time.perf_counter() - started
    say(repr(paths))
    say(f"{out}: {len(paths)} paths in {seconds:.1f} s")
    write_json(json, {"trace": {**paths.to_dict(), "seconds": seconds}})


def _engine(name: str | None, ray_address: str | None) -> Engine | None:
    from repdyn.errors import RepdynError
    from repdyn.tracing.engines import engine_class

    if ray_address is not None and name != "ray":
        raise RepdynError("--ray-address: is for --engine ray; give both, or neither")
    if name is None:
        return None
    found: Engine = engine_class(name)(**({} if ray_address is None else {"address": ray_address}))
    return found
