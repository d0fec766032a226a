"""Tuned numbers of this room: training, spectrum, evaluation.

Each field names the study or the publication that set it, or says "not studied".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "EVALUATION",
    "OPERATORS",
    "TRAINING",
    "EvaluationSettings",
    "OperatorSettings",
    "TrainingSettings",
]


@dataclass(frozen=True)
class TrainingSettings:
    """How SKD and SSM-SKD are trained, and details of their losses.

    Attributes
    ----------
    gradient_norm
        Norm to which gradients are clipped. As published.
    plateau_factor, plateau_patience
        Factor of the learning rate where the validation loss stops improving (the fourth root of a tenth),
        and epochs without improvement before that. As published.
    validation_part
        One sequence in this many is held out for validation. Not studied.
    least_spread
        Vectors whose spread is below this share of the norm of their mean are constant: the rest is rounding.
    latent_dropout
        Dropout on the latents that are reconstructed. As published.
    faint_motion
        A change of this size counts half in the motion loss; in pixels of [0, 1] or coordinates of unit
        spread. Not studied.
    least_motion
        Mean motion below which a clip counts as at rest, and by which nothing is divided. Not studied.
    least_static
        Squared norm of the static coordinate below which a clip counts as constant. Not studied.
    checkpoint_seconds
        Least time between two saves of a fit's state.
    batch
        Sequences that pass through the networks at a time when a fitted model is read.
    """

    gradient_norm: float = 5.0
    plateau_factor: float = 0.5623
    plateau_patience: int = 10
    validation_part: int = 10
    least_spread: float = 1e-7
    latent_dropout: float = 0.2
    faint_motion: float = 0.02
    least_motion: float = 1e-2
    least_static: float = 1e-6
    checkpoint_seconds: float = 60.0
    batch: int = 256


@dataclass(frozen=True)
class OperatorSettings:
    """How operators are solved for and their spectra split. Not studied, except where a test is named.

    Attributes
    ----------
    ridge
        Ridge of the operators, absolute because latents are bounded by one. It bounds the gradients of
        sequences that barely move (tests/disentangle/test_survival.py).
    relative_ridge
        Added ridge, relative to the trace of the Gram matrix, so that Cholesky's method works for large
        latents.
    cluster
        Eigenvalues whose squared distances to one differ by less are one cluster, which is never divided.
    worst_condition
        Condition of the eigenvectors of the static block above which its Schur basis replaces them.
    shift
        Imaginary part of the shifts of the inverse iteration, which no real eigenvalue can meet.
    iterations
        Steps of the inverse iteration.
    least_overlap
        Square of the smallest product of unit left and right vectors by which is divided.
    least_norm
        Smallest norm by which the iterated vector is divided.
    tikhonov
        Tikhonov term, relative to the norm: it keeps the system solvable at a complex pair.
    """

    ridge: float = 1e-4
    relative_ridge: float = 1e-12
    cluster: float = 1e-3
    worst_condition: float = 1e6
    shift: float = 1e-2
    iterations: int = 8
    least_overlap: float = 1e-12
    least_norm: float = 1e-6
    tikhonov: float = 1e-12


@dataclass(frozen=True)
class EvaluationSettings:
    """How interventions are evaluated.

    Attributes
    ----------
    max_factors
        Static factors up to which brute force, with its 2^s evaluations, is allowed. Not studied.
    folds
        Folds of the classifier that measures leakage. ``benchmarks/false_found.py``.
    trees, tree_depth
        Number and largest depth of the trees behind :func:`~repdyn.disentangle.dci`. Not studied.
    judge_features, judge_hidden
        Width of the judge's frame features and of its LSTM. As published.
    judge_gradient_norm
        Norm to which the judge's gradients are clipped. As published.
    """

    max_factors: int = 12
    folds: int = 5
    trees: int = 50
    tree_depth: int = 10
    judge_features: int = 40
    judge_hidden: int = 128
    judge_gradient_norm: float = 1.0


TRAINING, OPERATORS, EVALUATION = TrainingSettings(), OperatorSettings(), EvaluationSettings()
