"""Attractors of latent fields: are planted ones all found and none invented, and what does it cost?

Two settings. ``planted``: 100 random maps whose attractors are known. ``mnist``: a small auto-encoder, which
is trained here, is followed from the codes of unseen digits by plain iteration without and with finished
samples leaving the batch, with trapping regions, by torchdeq where it is installed (extra ``bench``), and by
the loop of fixed-point-finder, which no package registry carries and which is written out here.

    python benchmarks/attractors.py --json attractors.json
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import keep, parser_of, timed
from scipy.spatial import cKDTree
from small_networks import digits, trained
from torch import Tensor

from repdyn.fields import Attractors, LatentField
from repdyn.progress import track


def memory(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    """A modern Hopfield memory of well separated patterns: each is a fixed point."""
    generator = torch.Generator().manual_seed(seed)
    d, k = 8 + seed % 25, 2 + seed % 5
    patterns = torch.linalg.qr(torch.randn((d, d), generator=generator, dtype=torch.float64))[0][:k] * 4
    return lambda z: torch.softmax(z @ patterns.T.to(z), dim=1) @ patterns.to(z), patterns, "fixed point"


def wells(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    """Gradient descent in a product of double wells, rotated: 2**k minima, saddles between them."""
    generator = torch.Generator().manual_seed(seed)
    k = 1 + seed % 3
    d = k + 1 + seed % 4
    frame = torch.linalg.qr(torch.randn((d, d), generator=generator, dtype=torch.float64))[0]
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * k).reshape(-1, k)

    def step(z: Tensor) -> Tensor:
        u = z @ frame.to(z)
        u = torch.cat([u[:, :k] + 0.2 * (u[:, :k] - u[:, :k] ** 3), 0.5 * u[:, k:]], dim=1)
        return u @ frame.T.to(z)

    full = torch.cat([corners, corners.new_zeros((len(corners), d - k))], dim=1)
    return step, full @ frame.T, "fixed point"


def cycle(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    """A memory that recalls the next pattern instead: one cycle through all of them."""
    _, patterns, _ = memory(seed)
    return lambda z: _next(z, patterns), patterns, "cycle"


def _next(z: Tensor, patterns: Tensor) -> Tensor:
    return torch.softmax(z @ patterns.T.to(z), dim=1) @ patterns.roll(-1, 0).to(z)


def circle(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    """An irrational turn of a plane with contraction to the unit circle, and to the plane."""
    angle = 2 * np.pi * ((seed + 1) * (np.sqrt(5) - 1) / 2 % 1)
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def step(z: Tensor) -> Tensor:
        radius = z[:, :2].norm(dim=1, keepdim=True)
        plane = z[:, :2] / radius * (1 + 0.5 * (radius - 1)) @ turn.to(z)
        return torch.cat([plane, 0.3 * z[:, 2:]], dim=1)

    return step, torch.zeros((1, 2 + seed % 3), dtype=torch.float64), "invariant circle"


def planted(instances: int, seed: int) -> dict[str, dict[str, int]]:
    """Attractors planted, found, missed and invented, by family."""
    table = {}
    for family in (memory, wells, cycle, circle):
        row = {"instances": 0, "planted": 0, "found": 0, "missed": 0, "invented": 0}
        for i in track(range(instances // 4), f"planted: {family.__name__}"):
            step, truth, kind = family(i)
            generator = torch.Generator().manual_seed(seed + i)
            starts = 1.5 * truth.norm(dim=1).max().clamp_min(1) / truth.shape[1] ** 0.5
            starts = starts * torch.randn((200, truth.shape[1]), generator=generator, dtype=torch.float64)
            found = LatentField(step).attractors(starts.float(), max_steps=500, seed=seed)
            expected = 1 if kind in ("cycle", "invariant circle") else len(truth)
            right = _right(found, truth, kind)
            row["instances"] += 1
            row["planted"] += expected
            row["found"] += right
            row["missed"] += expected - right
            row["invented"] += len(found) - right
        table[family.__name__] = row
    return table


def _right(found: Attractors, truth: Tensor, kind: str) -> int:
    of_kind = [a for a in range(len(found)) if found.kind[a] == kind]
    if kind == "invariant circle":
        return int(any(abs(found.radius[a] - 1) < 0.05 for a in of_kind))
    if not of_kind:
        return 0
    distance = np.linalg.norm(found.points[of_kind][:, None] - truth.numpy(), axis=2)
    near = 0.05 * float(truth.norm(dim=1).max())
    if kind == "cycle":
        return int(
            any(found.period[a] == len(truth) and distance[i].min() < near for i, a in enumerate(of_kind))
        )
    return int((distance.min(axis=0) < near).sum())


def uncompacted(field: LatentField, z: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, int]:
    """Plain iteration of the whole batch until its last sample has settled."""
    spent, worst = 0, float("inf")
    for _ in track(range(max_steps), "plain iteration of all starts"):
        if worst <= tolerance:
            break
        image = field(z)
        worst, z = float((image - z).norm(dim=1).max()), image
        spent += len(z)
    return z, spent


def agreement(field: LatentField, found: Attractors, ends: Tensor, like: Tensor) -> float:
    """Share of the first starts, as many as there are ends, whose attractor plain iteration ended on.

    An end is on an attractor that it is near: a point or a cycle within a hundredth of the scale, a set
    that an orbit fills within three of the gaps that 512 of the orbit's points leave. A start without an
    attractor agrees where its end is on none.
    """
    reached, basin = ends.double().numpy(), found.basin[: len(ends)]
    nearest = np.full(len(reached), -1)
    best = np.full(len(reached), np.inf)
    for a in range(len(found)):
        turns = int(found.period[a]) or 512
        start = torch.from_numpy(found.points[a : a + 1]).to(like)
        orbit = field.trajectory(start, turns - 1)[:, 0].double().numpy()
        tree = cKDTree(orbit)
        allowed = 1e-2 * found.scale
        if not found.period[a]:
            allowed = max(allowed, 3 * float(np.quantile(tree.query(orbit, k=2)[0][:, 1], 0.9)))
        distance = tree.query(reached)[0]
        nearer = (distance <= allowed) & (distance < best)
        nearest[nearer], best[nearer] = a, distance[nearer]
    return float((nearest == basin).mean())


def mnist(
    starts: int, compared: int, width: int, max_steps: int, seed: int, cache: Path | None
) -> dict[str, dict[str, float]]:
    """Evaluations, seconds and destinations of each way to iterate.

    All starts are searched with trapping regions. Plain iteration, with and without finished samples leaving
    the batch, follows the first ``compared`` of them, and the search follows those once more, so that figures
    of one table are of the same starts.
    """
    file = None if cache is None else cache / f"attractors-{width}-{seed}.safetensors"
    encoder, decoder = trained(digits("train", 20000), width, 8, seed, cache=file)
    field, codes = LatentField.from_autoencoder(encoder, decoder), encoder(digits("test", starts))
    table: dict[str, dict[str, float]] = {}
    found: dict[str, Attractors] = {}
    few, every = codes[:compared], f"trapping, {len(codes)} starts"
    ways = [(every, "trapping", codes), ("trapping", "trapping", few), ("picard", "picard", few)]
    for name, solver, z in ways if compared else ways[:1]:
        with timed() as row:
            found[name] = field.attractors(z, solver=solver, max_steps=max_steps, seed=seed)
        table[name] = {
            **row,
            "evaluations": found[name].evaluations / len(z),
            "attractors": len(found[name]),
            "reached one": float((found[name].basin >= 0).mean()),
        }
        print(name, table[name], found[name], sep="\n", flush=True)
    if not compared:
        return table
    with timed() as row:
        ends, spent = uncompacted(field, few, 1e-5 * found["picard"].scale, max_steps)
    table["uncompacted"] = {**row, "evaluations": spent / len(few)}
    for name in (every, "trapping", "picard"):
        table[name]["same destination"] = agreement(field, found[name], ends, few)
        table[name]["of uncompacted evaluations"] = table[name]["evaluations"] * len(few) / spent
    table[every]["of compacted evaluations"] = table[every]["evaluations"] / table["picard"]["evaluations"]
    table["trapping"]["of compacted evaluations"] = (
        found["trapping"].evaluations / found["picard"].evaluations
    )
    table.update(peers(field, few, ends, 1e-5 * found["picard"].scale, max_steps))
    return table


def peers(
    field: LatentField, z: Tensor, ends: Tensor, tolerance: float, max_steps: int
) -> dict[str, dict[str, float]]:
    """The same map, starts and tolerance through ways to find *a* fixed point, which is not *the* one.

    Of each: seconds, share of starts left with a step within the tolerance, and share left within a hundredth
    of the scale of where plain iteration ends.
    """
    ways: dict[str, Callable[[Tensor], Tensor]] = {"fixed-point-finder's loop": partial(descend, field)}
    if importlib.util.find_spec("torchdeq") is None:
        print("torchdeq is not installed (extra bench), so it stands in no row")
    else:
        from torchdeq import get_deq

        for solver in ("fixed_point_iter", "anderson"):
            deq = get_deq(f_solver=solver, f_max_iter=max_steps, f_tol=tolerance, f_stop_mode="abs").eval()
            ways[f"torchdeq, {solver}"] = lambda starts, deq=deq: deq(field, starts)[0][-1]
    table = {}
    near = 1e-2 * float((z - z.mean(dim=0)).norm(dim=1).square().mean().sqrt())
    for name, way in ways.items():
        with timed() as row, torch.no_grad():
            reached = way(z)
        table[name] = {
            **row,
            "settled": float((field.velocity(reached).norm(dim=1) <= tolerance).float().mean()),
            "same destination": float(((reached - ends).norm(dim=1) <= near).float().mean()),
        }
        print(name, table[name], flush=True)
    return table


def descend(field: LatentField, z: Tensor) -> Tensor:
    """Adam on the mean of half the squared speed, by the rates and as long as fixed-point-finder for PyTorch.

    Golub and Sussillo (2018). FixedPointFinder. J. Open Source Softw. 3(31); its gradient, which needs the
    map's transposed Jacobian, costs about two evaluations.
    """
    z = z.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=500, gamma=0.7)
    for _ in track(range(2000), "descending on the speed"):
        with torch.enable_grad():
            speed = 0.5 * (field.step(z) - z).square().sum(dim=1).mean()
        optimizer.zero_grad()
        speed.backward()
        optimizer.step()
        schedule.step()
    return z.detach()


def main() -> None:
    parser = parser_of(__doc__, "json", "seed")
    parser.add_argument("--starts", type=int, default=10000, help="codes of MNIST; 0 for none")
    parser.add_argument(
        "--compared",
        type=int,
        default=1000,
        help="starts that plain iteration and others follow too; 0 for none",
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps the trained auto-encoder")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--max-steps", type=int, default=3000)
    parser.add_argument("--instances", type=int, default=100)
    options = parser.parse_args()
    results: dict[str, object] = {}
    if options.instances:
        results["planted"] = planted(options.instances, options.seed)
        print(json.dumps(results["planted"], indent=2), flush=True)
        keep(options.json, results)
    if options.starts:
        results["mnist"] = mnist(
            options.starts, options.compared, options.width, options.max_steps, options.seed, options.cache
        )
        print(json.dumps(results["mnist"], indent=2))
    keep(options.json, results)


if __name__ == "__main__":
    main()
