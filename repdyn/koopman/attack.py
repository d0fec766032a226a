"""Attacks that try to recover a forgotten class: is it removed, or only hidden from the head?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repdyn.deprecation import renamed_arguments
from repdyn.devices import device_of, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.editing import targets
from repdyn.koopman.settings import VERDICTS, AttackSettings
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.results import Result
from repdyn.seeding import drawing

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["AttackReport", "attack", "fine_tuned", "recovered_by_probe"]

EDITED, UNEDITED = "edited", "not edited"
PROBE, TUNED, TUNED_OTHERS, UNTOUCHED = "probe", "fine-tuned, target", "fine-tuned, others", "head, target"

_SETTINGS = AttackSettings()

Head = nn.Module | None


@dataclass(frozen=True, eq=False)
class AttackReport(Result, kind="attack"):
    """Figures of attacks on a forgotten class, for each of several models of the same inputs.

    Attributes
    ----------
    figures
        For each model (``"not edited"``, ``"edited"`` and each baseline): ``"probe"``, the balanced accuracy
        with which a linear probe on the last observables separates the class from all others (chance: 0.5);
        ``"head, target"``, the accuracy of the model's head on the class before the attack;
        ``"fine-tuned, target"`` and ``"fine-tuned, others"``, the accuracy of that head on the class and on
        all others after fine-tuning on a few samples.
    fraction
        Share of the samples that the attacker labels for fine-tuning.
    samples
        Number of samples that train the probe, that fine-tune the head, and that evaluate both.
    """

    # A field of this name hides the base class's list of figures; ``field()`` keeps it without a default.
    figures: dict[str, dict[str, Estimate]] = field()  # type: ignore[misc, assignment]
    fraction: float
    samples: tuple[int, int, int]

    @property
    def verdict(self) -> str:
        """Whether a probe recovers the class from the edited model.

        ``"recoverable"`` if the interval of the probe's accuracy lies above chance, ``"inconclusive"`` if
        only the point estimate does, else ``"not recoverable"``.
        """
        probe = self.figures[EDITED][PROBE]
        if probe.low > VERDICTS.probe_chance:
            return "recoverable"
        return "inconclusive" if probe.value > VERDICTS.probe_chance else "not recoverable"

    def __repr__(self) -> str:
        columns = (PROBE, UNTOUCHED, TUNED, TUNED_OTHERS)
        wide = max(len(name) for name in self.figures) + 2
        lines = [
            f"Attack: probe trained on {self.samples[0]} samples, head fine-tuned on {self.samples[1]} "
            f"({self.fraction:.0%}), evaluated on {self.samples[2]}; class after the edit: {self.verdict}",
            "  " + " " * wide + "".join(f"{name:>24}" for name in columns),
        ]
        lines += [
            f"  {name:{wide}}" + "".join(f"{row[column]!r:>24}" for column in columns)
            for name, row in self.figures.items()
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot each figure of each model."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.forgetting import attack as draw

        return draw(
            {name: {k: e.to_dict() for k, e in row.items()} for name, row in self.figures.items()},
            VERDICTS.probe_chance,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "figures": {
                name: {what: estimate.to_dict() for what, estimate in row.items()}
                for name, row in self.figures.items()
            },
            "fraction": self.fraction,
            "samples": list(self.samples),
            "verdict": self.verdict,
        }


@renamed_arguments(beside="baselines")
def attack(
    edited: EditedKoopman,
    paths: RepresentationPaths,
    label: Any,
    *,
    head: Head = None,
    baselines: Mapping[str, tuple[RepresentationPaths, Head]] | None = None,
    fraction: float = _SETTINGS.fraction,
    seed: int = 0,
) -> AttackReport:
    """Try to recover a forgotten class, by a linear probe and by fine-tuning the head on a few samples.

    If an edit removes a class, the attack recovers no more than from a network trained without the class;
    give that network as a baseline. Half of the paths train the attack, the other half evaluates it.

    Parameters
    ----------
    edited
        Result of ``kae.forget``.
    paths
        Labelled paths that the edit was not fitted to.
    label
        The forgotten class, or a list of classes.
    head
        Logits of classes (integers from 0) from last-point representations. None: a linear readout that the
        attacker trains from zero weights.
    baselines
        Other models by name: paths of the *same samples in the same order*, and the model's own head.
    fraction
        Share of all samples that the attacker labels for fine-tuning.
    seed
        Seed of the halves, the labelled samples and the bootstrap.

    Returns
    -------
    AttackReport

    Raises
    ------
    RepdynError
        If a label is absent, the paths have no labels, a baseline has other samples, or the fraction is
        out of range.

    References
    ----------
    Elazar et al. (2021), Amnesic probing; Lynch et al. (2024), Eight methods to evaluate robust unlearning
    in LLMs, arXiv 2402.16835.
    """
    edited.kae.check_paths(paths)
    labels, target = targets(paths, label, None)
    assert labels is not None
    if target.all():
        raise RepdynError("every sample is of the forgotten class; an attack needs other classes")
    _, code = np.unique(labels, return_inverse=True)
    if head is not None and labels.dtype.kind in "iu":
        code = labels.astype(np.int64)
    elif head is not None:
        raise RepdynError("head returns logits of class numbers, so the labels must be integers")
    source, first, last = np.asarray(paths[paths.points[0]]), paths.points[0], paths.points[-1]
    groups = groups_of_equal_rows(source)
    for one in np.unique(code[target]):
        if len(np.unique(groups[code == one])) < 2:
            raise RepdynError(
                f"the forgotten class {one} has a single sample, or copies of one; an attack needs one to "
                "train on and another to evaluate"
            )
    training, few, test = _parts(code, groups, fraction, seed)
    encoded = np.asarray(edited.kae.encode(source, first)).astype(np.float64)
    subjects: dict[str, tuple[NDArray[Any], NDArray[Any], Head]] = {
        UNEDITED: (encoded @ edited.original, edited.kae.propagate(source, first, last), head),
        EDITED: (encoded @ edited.matrix, edited.predict(source), head),
    }
    for name, (other, its_head) in (baselines or {}).items():
        if len(other) != len(paths) or not np.array_equal(np.asarray(other.labels), labels):
            raise RepdynError(f"baseline {name!r}: its paths must be of the same samples, in the same order")
        reached = np.asarray(other[other.points[-1]])
        subjects[name] = (reached, reached, its_head)
    figures = {}
    for name, (observables, states, own) in subjects.items():
        probe = recovered_by_probe(
            observables[training], target[training], observables[test], target[test], seed, groups[test]
        )
        here = device_of(edited.kae)
        start = own if own is not None else to(_blank(states.shape[1], int(code.max()) + 1), here)
        x = to(torch.as_tensor(np.asarray(states, dtype=np.float32)), device_of(start, here))
        before = _right(start, x[test], code[test])
        after = _right(
            fine_tuned(start, x[few], to(torch.from_numpy(code[few]), x.device)), x[test], code[test]
        )
        aimed, others = target[test], ~target[test]
        equal = groups[test]
        figures[name] = {
            PROBE: probe,
            UNTOUCHED: mean_of_groups(before[aimed], equal[aimed], seed=seed),
            TUNED: mean_of_groups(after[aimed], equal[aimed], seed=seed),
            TUNED_OTHERS: mean_of_groups(after[others], equal[others], seed=seed),
        }
    return AttackReport(figures, fraction, (len(training), len(few), len(test)))


def recovered_by_probe(
    x: NDArray[Any],
    target: NDArray[np.bool_],
    x_test: NDArray[Any],
    target_test: NDArray[np.bool_],
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> Estimate:
    """Balanced accuracy of a linear probe that separates targeted rows from the others, with its interval.

    Parameters
    ----------
    x, target
        Training rows ``(n, d)``, and whether each is targeted, ``(n,)``.
    x_test, target_test
        Test rows and targets.
    seed
        Seed of the bootstrap.
    groups
        Group of each test row. Equal rows share a group and count once in the interval.
    """
    # scikit-learn is slow to import and only attacks need it.
    from sklearn.linear_model import LogisticRegression

    x, x_test = (np.asarray(rows, dtype=np.float64) for rows in (x, x_test))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0
    # The attacked class is rare: unbalanced, a probe that never names it would be right most of the time.
    probe = LogisticRegression(class_weight="balanced", max_iter=2000).fit((x - mean) / scale, target)
    right = probe.predict((x_test - mean) / scale) == target_test
    # A balanced accuracy gives each of the two classes half the weight.
    share = np.where(target_test, target_test.mean(), 1 - target_test.mean())
    groups = np.arange(len(right)) if groups is None else groups
    return mean_of_groups(right / (2 * share), groups, seed=seed)


def fine_tuned(head: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A copy of a head, fine-tuned on rows ``(n, D)`` and their classes ``(n,)``."""
    tuned = copy.deepcopy(head).requires_grad_(True)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=_SETTINGS.learning_rate)
    for _ in range(_SETTINGS.steps):
        loss = nn.functional.cross_entropy(tuned(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return tuned.eval()


def _blank(width: int, classes: int) -> nn.Module:
    """A linear readout with zero weights."""
    with drawing(0):  # the layer consumes random numbers before its weights are set to zero
        head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def _right(head: nn.Module, x: torch.Tensor, code: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the head predicts the class of each row ``(n, D)``, shape ``(n,)``."""
    return np.asarray(as_array(head(x).argmax(dim=-1)) == code)


def _parts(
    code: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers of the attacker's half, of its labelled samples, and of the half that evaluates.

    Equal rows stay together, in the class of the first of them.
    """
    if not 0 < fraction <= 0.5:
        raise RepdynError(f"fraction must lie above 0 and not above 0.5, got {fraction}")
    draw = np.random.default_rng(seed)
    training, test, few = [], [], []
    _, first, own = np.unique(groups, return_index=True, return_inverse=True)
    group_code = code[first][own]
    for one in np.unique(group_code):
        rows = np.flatnonzero(group_code == one)
        half = max(1, len(rows) // 2)  # the only sample of a class trains the attack
        alike = np.unique(own[rows], return_inverse=True)[1]
        if int(alike.max()) == 0:
            mine, rest = np.arange(len(rows)), np.arange(0)
            draw.permutation(len(rows))
        else:
            mine, rest = parted_by_group(alike, half, draw)
        training.append(rows[mine])
        test.append(rows[rest])
        few.append(rows[mine][: max(1, round(fraction * len(rows)))])
    return tuple(np.sort(np.concatenate(part)) for part in (training, few, test))  # type: ignore[return-value]
