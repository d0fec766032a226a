"""Does an edit remove a class, or only hide it: attacks that try to get it back."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.devices import device_of
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.koopman.checks import check_same_model
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.targets import targets
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.seeding import drawing

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["AttackReport", "attack", "fine_tuned", "recovered_by_probe"]

EDITED, UNEDITED = "edited", "not edited"
PROBE, TUNED, TUNED_OTHERS, UNTOUCHED = "probe", "fine-tuned, target", "fine-tuned, others", "head, target"

_FRACTION = 0.01  # of the samples: what the attacker labels
_STEPS = 300  # of fine-tuning, on all of the few samples at once
_RATE = 1e-2
_CHANCE = 0.5  # of the probe: its figure is a balanced accuracy of two classes

Head = nn.Module | None


@dataclass(frozen=True, eq=False)
class AttackReport:
    """What attacks recover of a forgotten class, from each of several models of the same inputs.

    Attributes
    ----------
    figures
        For each model (``"not edited"``, ``"edited"`` and whatever was given beside them): ``"probe"``,
        balanced accuracy with which a linear probe on the last observables tells the class from all
        others (a guess reaches 0.5); ``"head, target"``, accuracy of the model's head on the class before
        the attack; ``"fine-tuned, target"`` and ``"fine-tuned, others"``, accuracy on the class and on all
        others of that head after fine-tuning on a few samples.
    fraction
        Of the samples, labelled for fine-tuning.
    samples
        That the attacker trains the probe on, fine-tunes on, and is judged on.
    """

    figures: dict[str, dict[str, Estimate]]
    fraction: float
    samples: tuple[int, int, int]

    @property
    def verdict(self) -> str:
        """Whether the class can be had back from the edited model: ``"found"`` or ``"not found"``.

        ``"found"`` where the probe's whole interval lies above a guess, ``"inconclusive"`` where only its
        middle does.
        """
        own = self.figures[EDITED][PROBE]
        if own.low > _CHANCE:
            return "found"
        return "inconclusive" if own.value > _CHANCE else "not found"

    def __repr__(self) -> str:
        columns = (PROBE, UNTOUCHED, TUNED, TUNED_OTHERS)
        wide = max(len(name) for name in self.figures) + 2
        lines = [
            f"Attack: probe trained on {self.samples[0]} samples, head fine-tuned on {self.samples[1]} "
            f"({self.fraction:.0%}), judged on {self.samples[2]}; recovered from the edit: {self.verdict}",
            "  " + " " * wide + "".join(f"{name:>24}" for name in columns),
        ]
        lines += [
            f"  {name:{wide}}" + "".join(f"{found[column]!r:>24}" for column in columns)
            for name, found in self.figures.items()
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Each figure of each model."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.forgetting import attack as draw

        return draw(
            {name: {k: e.to_dict() for k, e in found.items()} for name, found in self.figures.items()},
            _CHANCE,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "figures": {
                name: {what: estimate.to_dict() for what, estimate in found.items()}
                for name, found in self.figures.items()
            },
            "fraction": self.fraction,
            "samples": list(self.samples),
            "verdict": self.verdict,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the figures to a folder."""
        values = np.array([[e.value for e in found.values()] for found in self.figures.values()])
        save_artifact(path, "attack", self.to_dict(), {"figures": values})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> AttackReport:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        found = load_artifact(path, "attack").config
        try:
            return cls(
                {n: {what: Estimate(**e) for what, e in row.items()} for n, row in found["figures"].items()},
                float(found["fraction"]),
                (int(found["samples"][0]), int(found["samples"][1]), int(found["samples"][2])),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise RepdynError(f"{path}: is not a readable attack ({error})") from None


def attack(
    edited: EditedKoopman,
    paths: RepresentationPaths,
    label: Any,
    *,
    head: Head = None,
    beside: Mapping[str, tuple[RepresentationPaths, Head]] | None = None,
    fraction: float = _FRACTION,
    seed: int = 0,
) -> AttackReport:
    """Try to recover a forgotten class, by a linear probe and by fine-tuning the head on a few samples.

    An edit that removes a class leaves the attacker no more than a network that never saw it; that network's
    figures are what ``beside`` is for. Half of the paths are the attacker's, the other half judges.

    Parameters
    ----------
    edited
        What ``kae.forget`` gave.
    paths
        Labelled paths that the edit was not fitted to.
    label
        What was forgotten: one label or several.
    head
        Reads classes (integers from 0) from last-point representations; None for a readout that the
        attacker starts from nothing.
    beside
        More models by their name: paths of the *same samples in the same order*, and the model's own head.
    fraction
        Of all samples, that the attacker labels for fine-tuning.
    seed
        Of the halves, the few samples and the bootstrap.

    Returns
    -------
    AttackReport

    Raises
    ------
    RepdynError
        On an absent label, paths without labels, models beside with other samples, or too small a fraction.

    References
    ----------
    Elazar et al. (2021), Amnesic probing; Lynch et al. (2024), Eight methods to evaluate robust unlearning
    in LLMs, arXiv 2402.16835.
    """
    check_same_model(edited.kae, paths)
    labels, target = targets(paths, label, None)
    assert labels is not None
    if target.all():
        raise RepdynError("every sample is of the forgotten class: there is nothing to tell it from")
    _, code = np.unique(labels, return_inverse=True)
    if head is not None and labels.dtype.kind in "iu":
        code = labels.astype(np.int64)
    elif head is not None:
        raise RepdynError("head answers with class numbers, so the labels must be integers")
    source, first, last = np.asarray(paths[paths.points[0]]), paths.points[0], paths.points[-1]
    groups = groups_of_equal_rows(source)
    for one in np.unique(code[target]):
        if len(np.unique(groups[code == one])) < 2:
            raise RepdynError(
                f"class {one}, which is to be had back, has a single sample, or copies of one; an attack "
                "needs one to train on and another to judge"
            )
    theirs, few, ours = _parts(code, groups, fraction, seed)
    encoded = np.asarray(edited.kae.encode(source, first)).astype(np.float64)
    subjects: dict[str, tuple[NDArray[Any], NDArray[Any], Head]] = {
        UNEDITED: (encoded @ edited.original, edited.kae.propagate(source, first, last), head),
        EDITED: (encoded @ edited.matrix, edited.predict(source), head),
    }
    for name, (other, its_head) in (beside or {}).items():
        if len(other) != len(paths) or not np.array_equal(np.asarray(other.labels), labels):
            raise RepdynError(f"{name!r}: its paths must be of the same samples, in the same order")
        reached = np.asarray(other[other.points[-1]])
        subjects[name] = (reached, reached, its_head)
    figures = {}
    for name, (observables, states, own) in subjects.items():
        found = recovered_by_probe(
            observables[theirs], target[theirs], observables[ours], target[ours], seed, groups[ours]
        )
        here = device_of(edited.kae)
        start = own if own is not None else _blank(states.shape[1], int(code.max()) + 1).to(here)
        x = torch.as_tensor(np.asarray(states, dtype=np.float32), device=device_of(start, here))
        before = _right(start, x[ours], code[ours])
        after = _right(
            fine_tuned(start, x[few], torch.from_numpy(code[few]).to(x.device)), x[ours], code[ours]
        )
        aimed, others = target[ours], ~target[ours]
        alike = groups[ours]
        figures[name] = {
            PROBE: found,
            UNTOUCHED: mean_of_groups(before[aimed], alike[aimed], seed=seed),
            TUNED: mean_of_groups(after[aimed], alike[aimed], seed=seed),
            TUNED_OTHERS: mean_of_groups(after[others], alike[others], seed=seed),
        }
    return AttackReport(figures, fraction, (len(theirs), len(few), len(ours)))


def recovered_by_probe(
    x: NDArray[Any],
    target: NDArray[np.bool_],
    x_test: NDArray[Any],
    target_test: NDArray[np.bool_],
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> Estimate:
    """Balanced accuracy of a linear probe that tells targeted rows ``(n, d)`` from the others.

    Test rows of one of ``groups`` are equal and count once in the interval.
    """
    # scikit-learn is slow to import and only attacks need it.
    from sklearn.linear_model import LogisticRegression

    x, x_test = (np.asarray(rows, dtype=np.float64) for rows in (x, x_test))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0
    probe = LogisticRegression(class_weight="balanced", max_iter=2000).fit((x - mean) / scale, target)
    right = probe.predict((x_test - mean) / scale) == target_test
    # Each of the two classes weighs half, as in a balanced accuracy.
    share = np.where(target_test, target_test.mean(), 1 - target_test.mean())
    groups = np.arange(len(right)) if groups is None else groups
    return mean_of_groups(right / (2 * share), groups, seed=seed)


def fine_tuned(head: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A copy of a head, trained further on few rows ``(n, D)`` and their classes ``(n,)``."""
    tuned = copy.deepcopy(head).requires_grad_(True)
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        loss = nn.functional.cross_entropy(tuned(x), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return tuned.eval()


def _blank(width: int, classes: int) -> nn.Module:
    """A linear readout that answers nothing yet."""
    with drawing(0):  # the layer draws before it is set to zero
        head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def _right(head: nn.Module, x: torch.Tensor, code: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(as_array(head(x).argmax(dim=-1)) == code)


def _parts(
    code: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The attacker's half, the few of it that are fine-tuned on, and the half that judges.

    Equal rows stay together, with the class of the first of them.
    """
    if not 0 < fraction <= 0.5:
        raise RepdynError(f"fraction must lie above 0 and not above 0.5, got {fraction}")
    draw = np.random.default_rng(seed)
    theirs, ours, few = [], [], []
    _, first, own = np.unique(groups, return_index=True, return_inverse=True)
    led = code[first][own]
    for one in np.unique(led):
        rows = np.flatnonzero(led == one)
        half = max(1, len(rows) // 2)  # the one of a class of one is trained on
        alike = np.unique(own[rows], return_inverse=True)[1]
        if int(alike.max()) == 0:
            mine, rest = np.arange(len(rows)), np.arange(0)
            draw.permutation(len(rows))
        else:
            mine, rest = parted_by_group(alike, half, draw)
        theirs.append(rows[mine])
        ours.append(rows[rest])
        few.append(rows[mine][: max(1, round(fraction * len(rows)))])
    return tuple(np.sort(np.concatenate(part)) for part in (theirs, few, ours))  # type: ignore[return-value]
