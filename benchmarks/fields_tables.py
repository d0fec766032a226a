"""Tables of the studies of ``fields.py``: mean over seeds, lowest and highest end of their intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from repdyn.intervals import Estimate

__all__ = ["TABLES"]


def memories(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'':24}{'attractors':>12}  {'cosine to training':22}{'null':22}{'nearer by':24}{'unexplained':22}"
        "verdicts"
    ]
    for name in results[0]:
        own = [result[name] for result in results]
        counts = ", ".join(str(one["attractors"]["attractors"]) for one in own)
        cells = [over_seeds([one[key] for one in own]) for key in ("coefficient", "null", "preference")]
        error = over_seeds([one["test_error"] for one in own])
        verdicts = ", ".join(one["verdict"] for one in own)
        lines.append(f"{name:24}{counts:>12}  {cells[0]:22}{cells[1]:22}{cells[2]:24}{error:22}{verdicts}")
    return lines


def scales(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'':26}{'prior':6}{'noise':>6} {'attractors':>16}  {'cosine to training':22}{'nearer by':24}"
        "verdicts"
    ]
    for name, rows in results[0].items():
        for k, row in enumerate(rows):
            own = [result[name][k] for result in results]
            counts = ", ".join(str(one["attractors"]["attractors"]) for one in own)
            cosine, nearer = (over_seeds([one[key] for one in own]) for key in ("coefficient", "preference"))
            verdicts = ", ".join(one["verdict"] for one in own)
            prior = "atoms" if row["atoms"] else "bank"
            lines.append(
                f"{name:26}{prior:6}{row['scale']:6g} {counts:>16}  {cosine:22}{nearer:24}{verdicts}"
            )
    return lines


def history(results: list[dict[str, Any]]) -> list[str]:
    lines = ["epoch  attractors, births, deaths, mergers of each seed"]
    for t, step in enumerate(results[0]["steps"]):
        rows = [result["counts"][t].values() for result in results]
        lines.append(f"{step:5d}  " + "   ".join("".join(f"{x:4d}" for x in row) for row in rows))
    return lines


def dictionaries(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name in results[0]:
        own = [result[name] for result in results]
        counts = ", ".join(str(one["attractors"]["attractors"]) for one in own)
        atoms = [k for k in own[0]["atoms"] if all(k in one["atoms"] for one in own)]
        verdicts = ", ".join(one["verdict"] for one in own)
        lines.append(f"{name}: {counts} attractors; {verdicts}")
        lines.append(f"  {'atoms':30}" + "".join(f"{k:<22}" for k in atoms))
        for kind in own[0]["error"]:
            errors = [over_seeds([one["error"][kind][one["atoms"].index(k)] for one in own]) for k in atoms]
            lines.append(f"  {kind:30}" + "".join(f"{error:22}" for error in errors))
    return lines


def along(results: list[dict[str, Any]]) -> list[str]:
    curves = ("states", "first_map", "velocities", "shuffled")
    lines = [f"{'iteration':11}" + "".join(f"{name.replace('_', ' '):25}" for name in curves)]
    for t, step in enumerate(results[0]["steps"]):
        shares = [over_seeds([result[name][t] for result in results]) for name in curves]
        lines.append(f"{step:<11d}" + "".join(f"{share:25}" for share in shares))
    lines.append(f"decay {over_seeds([result['decay'] for result in results])}: ")
    lines[-1] += ", ".join(result["decays"] for result in results)
    shared = (f"{r['verdict']} ({r['agreement']:.2f}, p = {r['p_value']:.3f})" for r in results)
    lines.append("shared basins: " + ", ".join(shared))
    return lines


def sweeps(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    for point in results[0]:
        own = [result[point] for result in results]
        unexplained = over_seeds([one["unexplained"] for one in own])
        lines.append(f"{point}: unexplained, held out {unexplained}; * is taken")
        lines.append("penalty  unexplained, first step, settled, diverged, attractors, gain of each seed")
        swept = [{trial["penalty"]: trial for trial in one["sweep"]} for one in own]
        for penalty in sorted(set().union(*swept)):  # each seed halves a gap of its own
            cells = []
            for one, trials in zip(own, swept):
                t, taken = trials.get(penalty), "*" if penalty == one["taken"] else " "
                cells.append(
                    f"{taken}{t['unexplained']:.3f} {t['first_step']:.3f} {t['settled']:5.0%} "
                    f"{t['diverged']:6.1%} {t['attractors']:4d} {t['gain']:.2f}"
                    if t
                    else " " * 35
                )
            lines.append(f"{penalty:7.3g}  " + "   ".join(cells).rstrip())
        lines += [f"note: {note}" for one in own for note in one["notes"]]
        lines += [f"unseen samples: {one['unseen']}" for one in own if "unseen" in one]
    return lines


def over_seeds(estimates: list[dict[str, float]]) -> str:
    """Mean, lowest and highest end."""
    low, high = min(one["low"] for one in estimates), max(one["high"] for one in estimates)
    return repr(Estimate(float(np.mean([one["value"] for one in estimates])), low, high))


TABLES: dict[str, Callable[[list[dict[str, Any]]], list[str]]] = {
    "memorization": memories,
    "memorization-scales": scales,
    "tracking": history,
    "tracking-scales": history,
    "probing": dictionaries,
    "alignment": along,
    "surrogate": sweeps,
    "surrogate-pictures": sweeps,
    "models": along,
}
