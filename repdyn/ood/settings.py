"""Tuned numbers of out-of-distribution detection, each with the study that it comes from.

Numbers that decide a verdict stand in :class:`DetectionVerdictSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ENERGY_TRAJECTORY",
    "FIT",
    "MIXTURE",
    "ORBIT",
    "PSEUDO_OOD",
    "SINKS",
    "VERDICT",
    "AttentionSinkSettings",
    "DetectionVerdictSettings",
    "DetectorSettings",
    "EnergyTrajectorySettings",
    "MixtureSettings",
    "OrbitSettings",
    "PseudoOODSettings",
]


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of density and nearest-neighbor detectors."""

    folds: int = 5
    """Folds of cross-fitting: held-out scores come from densities of four fifths of the samples."""
    min_samples: int = 20
    """Smallest number of samples that a density is fitted on: four for each fold. Not studied."""
    cross_fitted_share: float = 0.25
    """Share of the fitted paths: the mean of all cross-fitted distances counts as that of so many held-out
    ones. It misses the mean of new paths by 1.0 to 2.7 / sqrt(N) (benchmarks.md, Intervals)."""
    min_distinct: int = 10
    """Smallest number of distinct samples at a point: two for each fold. Not studied."""
    covariance_floor: float = 1e-9
    """Variance added in every direction, as a share of the mean variance. It keeps a covariance invertible
    that shrinkage left singular. Not studied."""
    constant_variance: float = 1e-12
    """Total variance of float32 unit vectors below which a point is constant up to rounding, (1e-7)² and a
    margin (tests/ood/test_hostile_inputs.py)."""
    constant_variance_float64: float = 1e-28
    """The same for samples given in float64."""
    float32_whitener: float = 1e4
    """Largest diagonal entry of a whitener for which distances of unit vectors are computed in float32
    (tests/ood/test_hostile_inputs.py)."""
    cancellation: float = 1e-4
    """Ratio of a squared distance to its terms below which it is computed in float64; three digits remain."""
    cancellation_float64: float = 1e-11
    """The same ratio in float64, below which a distance comes from differences; leaves three digits."""
    length_margin: float = 10.0
    """A norm more than this factor outside of the range fitted is flagged: such norms belong to a layer that
    died or exploded. Under any tail up to Cauchy's, one in 10 n fresh samples is flagged for n fitted ones
    (tests/ood/test_hostile_inputs.py)."""
    false_positive_rate: float = 0.05
    """Default false-positive rate of a threshold: 95 % true positives, the field's convention."""


@dataclass(frozen=True)
class MixtureSettings:
    """How :class:`repdyn.ood.MixtureDetector` is fitted. Study: docs/studies/ood.md, "Without labels".

    Attributes
    ----------
    samples_of_an_atom, max_atoms
        Different samples for each Gaussian, which was chosen for energy fields (docs/studies/fields.md), and
        the largest number of these. The second is not studied: it bounds the time of a score.
    gain
        Expectation-maximization ends at this gain of the mean log-likelihood a dimension. Not studied.
    ridges
        Shares of the mean variance that are tried. Held-out samples choose.
    """

    samples_of_an_atom: int = 10
    max_atoms: int = 500
    gain: float = 1e-4
    ridges: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class EnergyTrajectorySettings:
    """What :class:`repdyn.ood.EnergyTrajectoryDetector` reads. Study: docs/studies/ood.md, "D".

    Attributes
    ----------
    components
        Principal components, as in :class:`repdyn.fields.EnergyField`. Not studied.
    noises
        In units of the bank's spacing. Three others gave the same AUROC to .001.
    steps
        Steps of a trajectory. Chosen among 3, 8 and 20, which differ by .002, on a seed that is not reported.
    least_distance
        Smallest distance from the principal subspace, as a share of the spread: below it, float32 modules and
        float64 scores may differ. Not studied.
    copy
        Distance in units of the smallest noise below which a point of the bank is a copy. Not studied.
    block
        Points that are followed at once: with a bank of 3 000, 6 MB of distances. Not studied.
    """

    least_distance: float = 1e-4
    copy: float = 0.1
    block: int = 256
    components: int = 64
    noises: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    steps: int = 3


@dataclass(frozen=True)
class OrbitSettings:
    """Settings of the detectors over an encode-decode map."""

    same_attractor: float = 0.99
    """Cosine above which two orbit ends count as one attractor (Fumero et al., 2025)."""
    feature_floor: float = 1e-4
    """Covariance floor of the orbit features, a hundredth of a feature's standard deviation, squared. The
    logarithms of a contracting orbit are collinear up to rounding. Not studied."""
    min_scale: float = 1e-3
    """Smallest standard deviation by which an orbit feature is divided: below it, logarithms and cosines are
    constant up to float32 rounding. Not studied."""
    escape_radius: float = 1e3
    """Radius, in multiples of the largest fitted code, at which a diverging orbit is held. Not studied."""
    norm_floor: float = 1e-12
    """Smallest norm before a logarithm: below any float32 residual."""
    probes: int = 8
    """Inputs stored to recognize the auto-encoder when a detector is loaded. Not studied."""


@dataclass(frozen=True)
class PseudoOODSettings:
    """Settings of pseudo-OOD validation and of the ensemble weights and recommendations made from it."""

    min_paths: int = 200
    """Smallest number of paths that are validated: of fewer, neither the fits nor the held-out shares are
    informative. Not studied."""
    min_groups: int = 5
    """Smallest number of classes or clusters. Not studied."""
    max_paths: int = 3000
    """Largest number of paths that are used, which bounds the time (docs/studies/ood.md)."""
    held_out_groups: float = 0.2
    """Share of the groups that is held out (docs/studies/ood.md)."""
    min_known_share: float = 0.5
    """Share of the paths that must be in groups that are not held out. One wide coordinate makes two clusters
    of nearly all paths, and what was left without them was too little to calibrate on
    (benchmarks/false_found.py --verdicts recommendation)."""
    clusters: int = 10
    """Clusters of the last point where there are no labels. Not studied."""
    test_share: float = 0.3
    """Share of the known groups' paths that no detector is fitted on. Not studied."""
    partial_shuffle: float = 0.1
    """Share of the coordinates that are shuffled in the harder far set (docs/studies/ood.md)."""
    contraction: float = 0.5
    """Share of the distance from the mean that contracted paths keep. Shares of .25 and .7 recommended the
    same detectors on the draws that it was chosen on (docs/studies/ood.md)."""
    draws: int = 2
    """Draws of held-out groups in a recommendation. Not studied."""
    weight_penalty: float = 0.02
    """L2 penalty towards equal ensemble weights. Removing a member must improve the log-loss by at least 0.01
    nat per sample (docs/studies/ood.md)."""
    min_weight: float = 0.02
    """Ensemble weight, as a share of the largest, below which a member is dropped. Not studied."""


@dataclass(frozen=True)
class AttentionSinkSettings:
    """Which tokens of a language model take the state of first tokens (docs/studies/ood.md)."""

    length_ratio: float = 10.0
    """First tokens are so many times as long as the median of others at a point with sinks: SmolLM2 has 6.7
    at block 7, where full stops are as long, then 62 to 134."""
    cosine: float = 0.95
    """Smallest cosine to the first tokens. At blocks 15 and 23 sinks had at least .978, all others of 4 300
    tokens of usual texts at most .85."""


@dataclass(frozen=True)
class DetectionVerdictSettings:
    """Numbers that decide a verdict."""

    level: float = 0.95
    """Coverage of all intervals (benchmarks/coverage.py)."""
    resamples: int = 500
    """Bootstrap replicates. Interval ends are then known to about 5 % of the interval's width."""
    true_positive_rate: float = 0.95
    """True-positive rate of FPR@95, the field's convention."""
    drift_factor: float = 3.0
    """A window reports "no drift found" only where a share above this multiple of the expected one is ruled
    out (benchmarks/false_found.py)."""
    max_deviation: float = 10.0
    """Standard deviations at which a distance is clipped before the mean at a depth is compared."""
    min_window: int = 20
    """Smallest number of samples in a drift window: below it, intervals of small shares are uninformative."""


FIT, ORBIT, MIXTURE = DetectorSettings(), OrbitSettings(), MixtureSettings()
PSEUDO_OOD, VERDICT = PseudoOODSettings(), DetectionVerdictSettings()
SINKS = AttentionSinkSettings()
ENERGY_TRAJECTORY = EnergyTrajectorySettings()
