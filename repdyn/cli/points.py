"""``repdyn points``: list the points of a model at which it can be traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.options import Device, Json

if TYPE_CHECKING:
    from repdyn.tracing import TracedModel

__all__ = ["points"]

EXAMPLE_POSITIONS = 8
"""Tokens of the blank text that gives the printed shapes."""


def points(
    model: Annotated[
        str, typer.Argument(help="timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:…, packaged:…")
    ],
    device: Device = None,
    json: Json = None,
) -> None:
    """Print a model's points as a tree with shapes, and the points of each named choice.

    Example: repdyn points timm:resnet18
    """
    import repdyn

    traced = repdyn.load(model, device=device)
    chosen = set(traced.default_points)
    shapes = _shapes(traced)
    modules = dict(traced.module.named_modules(remove_duplicate=False))
    rows = []
    for name, point in traced.points.items():
        indent = "  " * name.count(".")
        kind = type(modules[point.module]).__name__
        rows.append((f"{'*' if name in chosen else ' '} {indent}{name}", kind, _described(shapes.get(name))))
    wide, kinds = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    for name, kind, shape in rows:
        say(f"{name.ljust(wide)}  {kind.ljust(kinds)}  {shape}".rstrip())
    choices = {"blocks": traced.default_points, **traced.choices, "all": tuple(traced.points)}
    say(f"{len(traced.points)} points; * marks the defaults")
    for choice, names in choices.items():
        shown = ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])
        say(f"--point {choice}: {len(names)} ({shown})")
    if traced.head is None and traced.final == traced.default_points[-1] and len(traced.default_points) > 1:
        say(f"a trace omits {traced.final} if it equals {traced.default_points[-2]} bit for bit")
    if not shapes:
        say("shapes are unknown, because the shape of this model's inputs is unknown")
    write_json(
        json,
        {
            "points": list(traced.points),
            "default": list(traced.default_points),
            "choices": {choice: list(names) for choice, names in choices.items()},
            "shapes": {name: [list(shape) for shape in calls] for name, calls in shapes.items()},
        },
    )


def _shapes(traced: TracedModel) -> dict[str, list[tuple[int, ...]]]:
    """For each point the shapes of its calls, in a forward pass of one blank sample."""
    from collections.abc import Mapping
    from contextlib import suppress

    from repdyn.errors import RepdynError
    from repdyn.tracing.hooks import left_as_found, unwrap

    if traced.blank is None:
        return {}
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str, value: Any) -> None:
        with suppress(RepdynError):  # a module that returns no tensor has no shape
            shapes.setdefault(name, []).append(tuple(unwrap(value).shape))

    inputs = traced.prepare([traced.blank(EXAMPLE_POSITIONS)])
    modules = dict(traced.module.named_modules(remove_duplicate=False))
    handles = []
    try:
        for name, point in traced.points.items():
            place = modules[point.module]
            if point.reads == "input":
                handles.append(
                    place.register_forward_pre_hook(
                        lambda _, args, kwargs, name=name: note(name, [*args, *kwargs.values()]),
                        with_kwargs=True,
                    )
                )
            else:
                handles.append(place.register_forward_hook(lambda _, __, out, name=name: note(name, out)))
        with left_as_found(traced.module):
            traced.module(**inputs) if isinstance(inputs, Mapping) else traced.module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _described(shapes: list[tuple[int, ...]] | None) -> str:
    if not shapes:
        return "not called" if shapes is None else ""
    text = " x ".join(map(str, shapes[0]))
    return text if len(shapes) == 1 else f"{text}, called {len(shapes)} times: #0 … #{len(shapes) - 1}"
