"""What can be traced: every timm family and the most used transformers families, with random weights.

For each family a small member is made and four inputs are traced with default points. It is checked that
every default point is read, that batches of 1 and of 3 (with padding) agree, that the library's own
intermediate outputs are among what is read, bit for bit, that the head gives the model's own logits, and that
interventions by nnsight that change nothing reproduce the logits to the bit. The tests run the same checks.

    python benchmarks/breadth.py --rows breadth.jsonl --out docs/breadth.md

A line per family is appended to the file of rows, and families that it holds are not run again. A family that
takes longer than ``--seconds`` is a row with that reason.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from breadth_cases_timm import NO_HEAD, TIMM
from breadth_cases_transformers import KINDS, NO_STATES, SIGNALS
from breadth_heads import TASKS, Found, check, classes, section
from harness import Rows, parser_of, table

import repdyn
from repdyn.tracing import TracedModel
from repdyn.tracing.hooks import left_as_found, unwrap
from repdyn.tracing.pooling import as_tokens
from repdyn_adapters.interleaving import logits
from repdyn_adapters.shared import quietly
from repdyn_adapters.timm import TimmAdapter
from repdyn_adapters.transformers import TransformersAdapter

INPUTS, BATCH = 4, 3

PAGE = """\
Each row is a small member of one family, with random weights, read at its default points for four
inputs. *Own outputs*: how many of the intermediate outputs that the library itself offers equal one
that repdyn reads, bit for bit (for timm, those of `forward_intermediates`; for transformers, how many
of the points are among its hidden states). An output after a norm or a reduction that follows a block
is not the output of a block. *Interventions*: through nnsight, an identity at every point and a run
from the middle point give the same logits, bit for bit. In every row that is not marked as unsupported,
each default point is read, batches of 1 and of 3 agree, and padded and unpadded inputs agree; if there
is a head, it gives the model's own logits.

This page is written by `python benchmarks/breadth.py --rows breadth.jsonl`; the tests run the same checks on
the same families."""


@dataclass(frozen=True)
class Row:
    """What was found for one family."""

    family: str
    member: str
    points: int
    own: str
    """How many of the library's own intermediate outputs are read, or why none is compared."""
    head: str
    interventions: str


def check_timm(family: str) -> Row:
    """Trace one timm family and check all that is claimed of it; AssertionError where something fails."""
    name, changes = TIMM[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: Any = timm.create_model(name, **changes).eval()
    size = module.pretrained_cfg.get("input_size", (3, 224, 224))
    if not module.pretrained_cfg.get("fixed_input_size") and size[1] > 128:
        side = 126 if family == "deepseek_vit" else 128
        size = (3, side, side)
    inputs = np.random.default_rng(0).normal(size=(INPUTS, *size)).astype(np.float32)
    model = TimmAdapter().wrap(module)
    whole = _traced_alike(model, inputs, 2e-5)
    x = torch.from_numpy(inputs[:BATCH])
    with torch.inference_mode():
        own = module(x)
        given = _own_intermediates(module, x)
    if family in NO_HEAD:
        assert whole.logits is None
        expected = unwrap(own)
    else:
        expected = torch.from_numpy(whole.logits[:BATCH])
        scale = max(1.0, float(own.abs().max()))
        np.testing.assert_allclose(expected, own, atol=1e-4 * scale)
    kept, interventions = _intervene(model, whole.points, x, expected)
    equal, where = _count_equal(model, kept, given), ""
    if given and not equal:  # timm offers those of stages, of parts of a block, or after a reduction
        equal, where = _count_equal(model, _everything(model, x), given), ", read at other points"
    assert equal or not given, f"{family}: none of timm's own outputs can be read"
    return Row(
        family,
        name,
        len(whole.points),
        f"{equal} of {len(given)}{where}" if given else "timm offers none",
        f"none: {NO_HEAD[family]}" if family in NO_HEAD else "yes",
        interventions,
    )


def check_transformers(family: str, kind: str) -> list[Row]:
    """Trace one transformers family, each of its towers, and check all that is claimed of it."""
    name, changes = KINDS[kind][family]
    module = build(name, changes)
    towers = ("#text", "#vision") if kind == "two towers" else ("",)
    return [_check_tower(family, kind, module, tower) for tower in towers]


def build(name: str, changes: Mapping[str, Any]) -> Any:
    """A transformers model from its configuration, with random weights."""
    cls = getattr(transformers, name)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        return cls(cls.config_class(**changes)).eval()


def _check_tower(family: str, kind: str, module: Any, tower: str) -> Row:
    model = TransformersAdapter().wrap(module, tower or None)
    inputs = _inputs(family, tower or kind)
    whole = _traced_alike(model, inputs, 1e-5)
    prepared = model.prepare(list(inputs[:BATCH]))
    with left_as_found(model.module):
        expected = logits(model, model.module(**prepared), prepared)
    for number, ids in enumerate(inputs if whole.logits is not None else ()):
        with torch.inference_mode():
            own = module(input_ids=torch.as_tensor(ids)[None]).logits[0, -1].numpy()
        np.testing.assert_allclose(whole.logits[number], own, atol=1e-4)
    head = "none" if whole.logits is None else "yes"
    _, interventions = _intervene(model, whole.points, prepared, expected)
    return Row(
        family + tower,
        type(model.module).__name__,
        len(whole.points),
        _hidden(family, model, inputs),
        head,
        interventions,
    )


def _traced_alike(model: TracedModel, inputs: Any, tolerance: float) -> Any:
    """The paths, by batches of 3; every default point is read and batches of 1 give the same."""
    whole = repdyn.trace(model, inputs, batch_size=BATCH)
    single = repdyn.trace(model, inputs, batch_size=1)
    read = {point.partition("#")[0] for point in whole.points}
    # A final point that repeats the last block to the bit is left out: a MiniLM has six depths, not seven.
    assert set(model.default_points) - read <= ({model.final} if model.head is None else set())
    assert len(whole.points) > 1
    for point in whole.points:
        a, b = np.asarray(whole[point]), np.asarray(single[point])
        assert len(a) == INPUTS
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(a).max()), err_msg=point)
    return whole


def _intervene(
    model: TracedModel, points: Sequence[str], prepared: Any, expected: Tensor
) -> tuple[dict[str, Tensor], str]:
    """Identity at every point and a run from the one in the middle: both give the logits to the bit."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: kept.setdefault(name, x)

    with torch.inference_mode():
        found = model.patched({name: keep(name) for name in points})(prepared)
        assert torch.equal(found, expected), "an identity patch changed the logits"
        middle = points[len(points) // 2]
        assert torch.equal(model.run_from(middle, kept[middle], prepared), expected), f"run_from {middle!r}"
    return kept, f"exact at {len(points)} points"


def _own_intermediates(module: Any, x: Tensor) -> list[Tensor]:
    """timm's own intermediate outputs as tokens, class tokens first."""
    if not hasattr(module, "forward_intermediates"):
        return []
    try:
        found = module.forward_intermediates(
            x, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    except (TypeError, AssertionError, UnboundLocalError):  # families of maps know no such format or tokens
        try:
            found = module.forward_intermediates(x, intermediates_only=True)
        except (AssertionError, NotImplementedError):
            return []
    result = []
    for entry in found:
        if isinstance(entry, tuple):
            entry = entry[0] if entry[1] is None else torch.cat([entry[1], entry[0]], 1)
        result.append(entry.flatten(2).transpose(1, 2) if entry.ndim == 4 else entry)
    return result


def _count_equal(model: TracedModel, kept: Mapping[str, Tensor], given: Sequence[Tensor]) -> int:
    read = []
    for name, value in kept.items():
        try:
            tokens = as_tokens(value, model.points[name.partition("#")[0]].layout).values
        except repdyn.RepdynError:  # a part of a block whose layout is not that of blocks
            continue
        read += [tokens, tokens[:, 1:], value.flatten(2).transpose(1, 2) if value.ndim == 4 else value]
    return sum(any(a.shape == b.shape and torch.equal(a, b) for b in read) for a in given)


def _everything(model: TracedModel, x: Tensor) -> dict[str, Tensor]:
    """What every module gives that is a tensor."""
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(
            lambda _, __, value, path=path: found.update({path: value}) if isinstance(value, Tensor) else None
        )
        for path, part in model.module.named_modules()
        if path in model.points
    ]
    try:
        with left_as_found(model.module):
            model.module(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _hidden(family: str, model: TracedModel, inputs: Any) -> str:
    """How many of the library's hidden states are read; a norm after the last block makes two differ."""
    if family in NO_STATES:
        return NO_STATES[family]
    paths = repdyn.trace(model, inputs[:1], pool="none")
    with left_as_found(model.module):
        found = model.module(**model.prepare(list(inputs[:1])), output_hidden_states=True)
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    states = [state for name in names for state in getattr(found, name, None) or ()]
    assert states, f"{family}: the library offers hidden states for every family here"
    flat = [state.flatten(2).transpose(1, 2) if state.ndim == 4 else state for state in states]
    offered = [state[0].numpy() for state in flat]
    read = [np.asarray(paths[point])[0] for point in paths.points]
    equal = [any(x.shape == y.shape and np.array_equal(x, y) for y in offered) for x in read if x.ndim == 2]
    assert sum(equal) >= max(1, len(equal) - 2), list(zip(paths.points, equal, strict=False))
    return f"{sum(equal)} of {len(equal)} points"


def _inputs(family: str, kind: str) -> Any:
    rng = np.random.default_rng(0)
    if kind in ("vision", "#vision"):
        return rng.normal(size=(INPUTS, 3, 32, 32)).astype(np.float32)
    if kind == "audio":
        return rng.normal(size=SIGNALS[family]).astype(np.float32)
    return [rng.integers(5, 58, length) for length in (4, 9, 13, 6)]


def main() -> None:
    """Run the checks that are missing and write the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/breadth.md"))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args()
    kept = Kept(arguments.rows, arguments.seconds)
    sections = [("timm", [row for family in TIMM for row in kept.rows("timm", check_timm, family)])]
    for kind, cases in KINDS.items():
        rows = [row for family in cases for row in kept.rows(kind, check_transformers, family, kind)]
        sections.append((f"transformers: {kind}", rows))
    heads = [kept.head(task, name) for task in TASKS for name in classes(task)]
    arguments.out.write_text(page(sections) + "\n".join(section(heads)) + "\n")


class Kept:
    """Rows in a file of JSON lines; those that it lacks are computed and appended."""

    def __init__(self, file: Path, seconds: int) -> None:
        self.seconds = seconds
        self.known = Rows(file, ("library", "name"), ("benchmarks", "repdyn/tracing", "adapters"))

    def rows(self, library: str, check: Callable[..., Any], *arguments: str) -> list[Row]:
        """What was found for one family, a row for each of its towers."""

        def compute() -> list[dict[str, Any]]:
            try:
                with at_most(self.seconds):
                    found = check(*arguments)
            except Exception as error:  # the table lists what does not work, and why
                reason = " ".join(str(error).split())[:90] or type(error).__name__
                found = Row(arguments[0], "", 0, "", "", f"not supported: {reason}")
            return [asdict(row) for row in (found if isinstance(found, list) else [found])]

        return [Row(**row) for row in self._kept((library, arguments[0]), compute)]

    def head(self, task: str, name: str) -> Found:
        """What was found for the head of one class."""

        def compute() -> list[dict[str, Any]]:
            try:
                with at_most(self.seconds):
                    return [asdict(check(task, name))]
            except TimeoutError as error:
                return [asdict(Found(task, name, "not built", str(error)))]

        return Found(**self._kept((task, name), compute)[0])

    def _kept(self, key: tuple[str, str], compute: Callable[[], list[dict[str, Any]]]) -> list[Any]:
        return list(self.known.once(*key, make=lambda: {"rows": compute()})["rows"])


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Within this context, TimeoutError is raised after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def page(sections: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """The page: counts, then a table for each kind."""
    counts = []
    for library in ("timm", "transformers"):
        rows = [row for title, part in sections if title.startswith(library) for row in part]
        names = {row.family.partition("#")[0] for row in rows}
        bad = {row.family.partition("#")[0] for row in rows if not row.points}
        exact = {row.family.partition("#")[0] for row in rows if row.interventions.startswith("exact")}
        counts.append([library, len(names), len(names - bad), len(exact - bad)])
    parts = ["# What can be traced", PAGE]
    parts.append(table(["library", "families", "traced", "with interventions"], counts))
    for title, rows in sections:
        cells = [
            [row.family, f"`{row.member}`", str(row.points), row.own, row.head, row.interventions]
            for row in rows
        ]
        cells = [[cell.replace("|", "/") for cell in line] for line in cells]
        head = ["family", "member", "points", "own outputs", "head", "interventions"]
        parts += [f"## {title}", table(head, cells)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
