"""Tuned numbers of the Koopman room, each with the study that set it, and the limits that decide verdicts.

"Not studied" marks a value that was chosen once and never varied.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "VERDICTS",
    "AttackSettings",
    "ControlSettings",
    "EditSettings",
    "FitSettings",
    "FrameSettings",
    "GainSettings",
    "PhaseSettings",
    "SpectrumSettings",
    "Verdicts",
]


@dataclass(frozen=True)
class Verdicts:
    """Limits that decide the verdicts and warnings of every result in this room."""

    probe_chance: float = 0.5
    """Balanced accuracy of a guess between two classes: an attack's probe above it recovers the class."""

    label_quantile: float = 0.95
    """An eigenfunction separates classes if labels explain more than this quantile of shuffled labels."""

    constant_variation: float = 0.01
    """Share of variance below which an eigenfunction is called constant. Not studied."""

    ill_condition: float = 1e12
    """Condition number of the Gram matrix above which trailing eigenvalues are rounding: float64 products of
    float32 data keep fewer than four digits there."""

    sensitive: float = 1e3
    """Condition number of an eigenvalue above which the summary warns of single eigenpairs. Not studied."""


VERDICTS = Verdicts()
"""The limits in use."""


@dataclass(frozen=True)
class FrameSettings:
    """Frames of points (:class:`repdyn.koopman.frames.PointFrames`)."""

    max_width: int = 1024
    """A point wider than this and than the last keeps its leading principal components. Not studied."""

    fit_rows: int = 20_000
    """Rows that a rotation is fitted on; mean and scale use all rows. Not studied."""

    wide: float = 4.0
    """A coordinate's spread is limited to this many times the median spread. Not studied; what it is for is
    tested in tests/koopman/test_wide_coordinates.py."""

    constant: float = 1e-7
    """Spread relative to the mean's norm below which a float32 point is constant (rounding)."""

    constant_double: float = 1e-14
    """The same for float64."""


@dataclass(frozen=True)
class FitSettings:
    """A fit of a Koopman autoencoder, beyond the arguments of ``KoopmanAutoencoder.fit``.

    All values together: benchmarks/koopman_paper.py and koopman_speed.py, tables in docs/studies/koopman.md.
    """

    max_nonlinear: int = 192
    """Largest default number of nonlinear observables.

    benchmarks/koopman_models.py; 128 of 384 leave 1 % more unexplained than all, 192 leave .3 % more."""

    max_linear: int = 576
    """Largest default number of linear observables: the width of SmolLM2. Not varied."""

    hidden: tuple[int, ...] = (256, 1024, 2048)
    """Widths of the encoder's hidden layer that are compared by default."""

    narrower: float = 0.005
    """A narrower layer is preferred unless its validation error is larger by this share. Not varied."""

    simpler: float = 0.05
    """One generator is preferred unless its validation error exceeds that of direct maps by this share. Not
    varied."""

    trained: int = 256
    """Largest number of observables with which direct maps are improved by gradient and several generators
    are tried at the start. With more, gradients took ten times as long as the closed form and explained at
    most 1 % more (MiniLM-L6 on Banking77, 20 epochs)."""

    exact: float = 1e-4
    """The same, absolute, in shares of variance: differences below are rounding."""

    added: float = 0.1
    """Variance of the nonlinear observables at the start, in variances of the states. Not varied."""

    slopes: tuple[tuple[float, float], ...] = ((0.7, 1.5), (1.5, 3.0))
    """Smallest and largest slope of a hidden unit, in standard deviations of the data; the pair is chosen on
    the validation part (on Banking77, 1 to 4 leaves 1.7 % more unexplained than 1.5 to 3)."""

    penalties: tuple[float, float] = (-6.0, 1.0)
    """Exponents of the smallest and largest ridge penalty of the start, relative to the mean eigenvalue."""

    start_penalties: tuple[float, ...] = (1e-10, 1e-4, 1e-2)
    """Ridge penalties of the first generator, relative to the mean eigenvalue."""

    pairs_per_observable: int = 4
    """Pairs of states for each observable at least, where their number is chosen: a spectrum needs two."""

    min_samples: int = 10
    """Fewest samples: nine to fit and one to validate."""

    min_batch: int = 32
    """Smallest default batch. Not studied."""

    max_batch: int = 512
    """Largest default batch. Not studied."""

    validation: float = 0.1
    """Share of the distinct samples that is held out for early stopping."""

    validate_every: int = 2
    """Epochs between evaluations of the validation part."""

    weight_decay: float = 1e-2
    """Decay towards the closed-form start, as decoupled weight decay (PyTorch's default value)."""

    max_gradient_norm: float = 1.0
    """The gradient is scaled down to this norm. Not studied."""

    warm_up: float = 0.2
    """Share of the steps in which the learning rate rises, as in the published schedule."""

    start_divisor: float = 25.0
    """The first learning rate is the highest divided by this, as in the published schedule."""

    plateau_factor: float = 0.3
    """Factor by which the plateau schedule lowers the learning rate. Not studied."""

    plateau_patience: int = 4
    """Evaluations without improvement after which it is lowered. Not studied."""

    start_rows: int = 60_000
    """States that the closed-form start is computed from."""

    start_scale: float = 0.1
    """Initial scale of the last layer of networks that are trained: the linear part dominates at first. Not
    studied."""

    rank: int = 4
    """Rank of each step's correction in ``operator="low_rank"``. Not varied; benchmarks/koopman_operators.py
    compares the operators at this value."""

    shrinkage: float = 1e-4
    """Ridge of ``operator="least_squares"``, relative to the mean eigenvalue of the observables' Gram matrix.
    Not varied; benchmarks/koopman_operators.py compares the operators at this value."""


@dataclass(frozen=True)
class ControlSettings:
    """Ridge regression of the controls and of linear probes."""

    min_exponent: float = -12.0
    """Smallest power of ten among the penalties, in units of the mean eigenvalue of ``X'X``. Not studied."""

    max_exponent: float = 4.0
    """Largest power of ten among the penalties."""

    exponent_step: float = 0.5
    """Distance of neighboring exponents."""

    held_out: float = 0.2
    """Share of the training paths that chooses the penalty."""

    probe_rows: int = 50_000
    """Training samples that a probe is fitted on at most: it holds several copies of them."""

    features: int = 512
    """Number of random ReLU features. Not studied."""

    held_bytes: int = 2**28
    """Lifted representations (bytes, float64) above which sums are used; a fit holds ten times as much
    (benchmarks/scale.py)."""

    @property
    def penalties(self) -> tuple[float, ...]:
        """Penalties that are compared, in increasing order."""
        count = round((self.max_exponent - self.min_exponent) / self.exponent_step) + 1
        return tuple(10.0 ** (self.min_exponent + self.exponent_step * k) for k in range(count))


@dataclass(frozen=True)
class EditSettings:
    """Closed-form edits, ``KoopmanAutoencoder.forget``.

    The values were set on training inputs of Yin-Yang and MNIST (benchmarks/koopman_editing.py, the section
    on forgetting in docs/koopman.md).
    """

    quantiles: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
    """Shares of each targeted class, by distance from its medoid, that are tried."""

    strengths: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0, 300.0)
    """Weights of a targeted row in retained rows that are tried (published: 10)."""

    reweighted: tuple[float, ...] = (10.0, 30.0)
    """Strengths from which rows near the decision boundary are reweighted."""

    beyond: tuple[float, ...] = (0.0, 0.5)
    """Shares of the way to the destination by which targets may lie beyond it. With 0 alone, up to 6.6 % of
    digit 8 were left on held-out training digits (network 64 wide, 3 seeds), with .5 none."""

    rounds: int = 4
    """Reweighting iterations; more overfit individual rows."""

    border: float = 0.1
    """Unit of the margins, in mean margins of the unedited predictions."""

    max_weight: float = 20.0
    """Largest weight of a reweighted row, relative to its initial weight."""

    forgotten: float = 0.01
    """Validation accuracy at which a class counts as forgotten when edits are compared."""

    retain_ridge: float = 1e-4
    """Ridge on the retained rows, relative to their mean eigenvalue."""

    wide: float = 30.0
    """A coordinate over this many times the median size is rescaled for the ridge."""

    medoid_rows: int = 2000
    """Rows of a class whose pairwise distances give its medoid. Not studied."""

    parts: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the paths: to fit the edit, to choose it, to report on it."""

    root_error: float = 1e-6
    """Relative error of a root's power above which the edited map counts as having no root."""


@dataclass(frozen=True)
class AttackSettings:
    """Attacks on an edit (benchmarks/koopman_editing.py)."""

    fraction: float = 0.01
    """Share of the samples that the attacker labels."""

    steps: int = 300
    """Fine-tuning steps, each on all labelled samples."""

    learning_rate: float = 1e-2
    """Of AdamW. Not studied."""


@dataclass(frozen=True)
class SpectrumSettings:
    """Spectra, their certificates and spectral projectors (docs/koopman.md, "The spectrum")."""

    blocks: int = 50
    """Blocks of samples of the bootstrap: replicates need only sums of the blocks' Gram matrices."""

    level: float = 0.95
    """Coverage of the intervals."""

    held_bytes: int = 2**29
    """Representations (float32) and observables (float64) above which paths are read in parts
    (benchmarks/scale.py)."""

    shrinkage: float = 1e-10
    """Ridge relative to each observable's size: the rounding of a float32 encoder."""

    shuffles: int = 100
    """Permutations of the labels that give the share explained by chance."""

    nodes: int = 64
    """Quadrature nodes on a contour: the projector is idempotent to 1e-13 away from eigenvalues."""

    clearance: float = 0.05
    """Least distance of an eigenvalue from a contour, in radii: 64 nodes leave an error of 4 % there."""

    same: float = 1e-9
    """Relative distance below which two eigenvalues cannot be distinguished."""


@dataclass(frozen=True)
class PhaseSettings:
    """Change points of depth, ``operator="piecewise"`` (docs/koopman.md, "Phases of depth")."""

    material: float = 0.1
    """A phase must lower the product of its steps' errors by this share; below it, differences are not
    called phases. Planted phases were recovered in 20 of 20 with it; not varied."""

    exact: float = 1e-6
    """Share of a point's variance below which errors are rounding."""

    min_steps: int = 3
    """Fewest steps of a path. With two, one change separates the only two maps."""

    folds: int = 5
    """Parts of the samples, each judged by maps that are fitted on the others."""

    blocks: int = 50
    """Units of the bootstrap."""

    resamples: int = 200
    """Bootstrap replicates."""

    rows: int = 60_000
    """States that the change points are found from; more are drawn from."""

    targets: int = 128
    """Principal directions of the next point on which maps are compared; their inputs are never reduced."""

    penalties: tuple[float, ...] = (1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
    """Ridge penalties, relative to the mean eigenvalue; the best on unseen samples is used."""


@dataclass(frozen=True)
class GainSettings:
    """Gains of a perturbation (docs/koopman.md, "Sensitivity to perturbations")."""

    tokens: int = 30_000
    """Tokens that maps are fitted to; more are drawn from."""

    floor: float = 1e-6
    """Share of the mean square of a token that is added to its own, so that an empty token has no infinite
    weight."""

    probes: int = 4
    """Random directions of the output for which Jacobians are evaluated."""

    batch: int = 8
    """Samples in a pass with gradients."""

    ordered: float = 0.8
    """Rank correlation above which the fitted gains order the depths as the true ones. Not varied."""
