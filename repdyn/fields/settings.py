"""Tuned numbers of this room: how attractors are searched and verified, and which thresholds decide a
verdict.

Lengths are relative to the scale of the starts (their root mean square distance from the mean), unless a
field says otherwise. Each field names the study that set it, or says "not studied".
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "ENERGY",
    "SEARCH",
    "SURROGATE",
    "VERDICTS",
    "AndersonSettings",
    "ClassificationSettings",
    "EnergySettings",
    "FieldVerdicts",
    "SearchSettings",
    "SurrogateSettings",
    "TrappingSettings",
]


@dataclass(frozen=True)
class ClassificationSettings:
    """How orbits that do not converge are named.

    The defaults name all planted cycles and circles of ``benchmarks/attractors.py --instances 100``
    correctly. No field was varied on its own.

    Attributes
    ----------
    neutral_exponent
        A chaotic set expands, and an attracting circle contracts across itself, by more than this per step.
    zero_exponent
        The smoothly averaged exponent along a circle is closer to zero than this in single precision.
    steady_change
        Largest change of the mean logarithm of the step length, from one half of an orbit to the other, at
        which the orbit still counts as steady.
    chaos_lengthening
        In a chaotic set the steps lengthen, from one half to the other, by less than this share of the factor
        by which neighboring orbits separate.
    circle_return
        Largest median distance of the second half of a circle's orbit from the first half, in units of the
        circle's radius. For a straight drift it is three times as large.
    circle_spread, chaos_spread
        Orbits of one kind are on one set if their averages differ by less than this share of the orbit's
        size. Averages over a chaotic orbit scatter by a tenth of its size, over a circle far less.
    cycle_return
        An orbit that returns this close to itself is a candidate for a cycle, which Newton's method decides.
    cycle_contrast
        It must also return this close in units of its median step, since neighbors on a slow orbit are close
        anyway.
    neutral_return
        An orbit that returns this close to itself, in units of the scale, is closed. Of the first thousand
        returns of a quasi-periodic orbit, the closest is a thousand times further.
    cycle_newton_steps
        Newton steps on a whole turn of a cycle, and turns of plain iteration that check the destination.
    cycle_max_work
        Largest product of period and dimension for which a cycle is polished. One Newton step costs as many
        evaluations of the map.
    max_extension
        The representative orbit of a set is followed at most this many times longer than a single orbit.
        docs/studies/fields.md, "What was tried", step 4.
    escape_distance
        An orbit that moves this far from its first point is on its way to infinity.
    approach_steps
        Plain steps over which the approach to a fixed point is measured.
    sampled_points
        Points of an orbit that are compared with a set to decide whether the orbit fills it.
    family_points
        Points, over all phases, by which families of neutral cycles are represented.
    walk_stride, walk_steps, walk_arrived
        A walk from one neutral cycle to another takes steps of this share of the gap, this many, and has
        arrived this close, as a share of the gap. Not studied.
    """

    neutral_exponent: float = 2e-3
    zero_exponent: float = 1e-5
    steady_change: float = 0.02
    chaos_lengthening: float = 0.5
    circle_return: float = 0.3
    circle_spread: float = 0.05
    chaos_spread: float = 0.3
    cycle_return: float = 1e-3
    cycle_contrast: float = 0.1
    neutral_return: float = 1e-6
    cycle_newton_steps: int = 8
    cycle_max_work: int = 2**16
    max_extension: int = 8
    escape_distance: float = 1e3
    approach_steps: int = 64
    sampled_points: int = 32
    family_points: int = 1024
    walk_stride: float = 0.1
    walk_steps: int = 40
    walk_arrived: float = 1e-2


@dataclass(frozen=True)
class TrappingSettings:
    """How trapping regions are set and checked (``solver="trapping"``).

    Study: docs/studies/fields.md, "Following ten thousand starts".

    Attributes
    ----------
    radius
        Radius of a region. On MNIST auto-encoders, before absorbed trajectories were checked, .3 lost up to a
        fifth of the destinations, .1 one in a hundred and .05 up to one in forty. With .02 long orbits get no
        regions, at many times the cost.
    probes
        Points on the boundary of a region that are followed to see whether the boundary leads inward.
    probe_steps
        Plain steps for which they are followed. Not studied.
    halvings
        A region that fails is halved this often, then given up. Not studied.
    first_round
        Starts in the first round, all followed to the end.
    round_growth
        Each round is this many times larger than the one before.
    audited
        Absorbed trajectories of each region that are followed further before the region is accepted.
    audit_steps
        Plain steps after which an audited trajectory must still be inside. Some boundaries lead inward except
        in a few directions, which random probes miss.
    check_every
        Plain steps between two tests of membership. Not studied.
    """

    radius: float = 0.05
    probes: int = 8
    probe_steps: int = 20
    halvings: int = 3
    first_round: int = 64
    round_growth: int = 4
    audited: int = 32
    audit_steps: int = 100
    check_every: int = 5


@dataclass(frozen=True)
class AndersonSettings:
    """When and how Anderson acceleration finishes an iteration (``solver="anderson"``). Not studied.

    Attributes
    ----------
    memory
        Earlier steps that are combined. More gain little and make the small systems ill-conditioned.
    ridge
        Ridge of the small least-squares problem, relative to its trace: parallel steps must not blow up its
        solution.
    watched_steps
        Plain steps over which the decay is measured. Each must be shorter than the one before.
    slack
        A sample may travel this many times the length of the geometric series of the measured decay.
    switch
        Samples whose steps are this short may be accelerated.
    """

    memory: int = 5
    ridge: float = 1e-10
    watched_steps: int = 8
    slack: float = 2.0
    switch: float = 1e-2


@dataclass(frozen=True)
class SearchSettings:
    """How :func:`repdyn.fields.find_attractors` iterates, merges and verifies.

    The defaults find all 256 planted attractors of ``benchmarks/attractors.py --instances 100``, and invent
    none. No field was varied on its own, except where a study is named.

    Attributes
    ----------
    merge_tolerance
        End points closer than this are one attractor. Polished points agree far better. A result shows the
        count at other tolerances, in ``counts``.
    merge_sweep
        The tolerances of ``counts``.
    multiplier_margin
        Multipliers closer to one in modulus are neither stable nor unstable in single precision.
    certainty
        Share of the merge tolerance within which the true fixed point must lie.
    check_steps
        Plain steps by which the destination of a polished point is checked.
    polish_rounds
        Largest number of rounds of plain iteration and polishing.
    n_multipliers
        Leading multipliers that are kept for each point.
    newton_steps
        Newton steps per polishing. Newton's method doubles the digits of a converged point in each.
    newton_krylov_dim
        Largest number of Jacobian-vector products for each Newton step and point.
    polish_tolerance
        End points with steps this short are polished even where the tolerance was not met.
    max_period
        Longest period for which recurrence is tested. Near returns of invariant circles have longer lags.
    min_cycle_step
        Steps of a recurrent sample must be this many tolerances long: the last turns of a spiral are nearly
        closed, but shorter.
    escape_factor
        A sample this many times further from the mean than any start has escaped.
    orbit_steps
        Steps for which orbits that did not converge are followed.
    circle_points
        Points by which an invariant circle or a chaotic set is represented when new points are assigned.
    assign_tolerance
        Distance from an attractor at which a converged new point belongs to it. End points stop on a plain
        orbit, attractors were polished.
    support_margin
        Attractors up to this many times the largest distance of a start are supported by data.
    uneven_spread
        Coordinates are rescaled where the widest spread is this many times that of the narrow coordinates.
    wide_spread
        Wider coordinates are brought down to this many times the spread of the narrow ones.
    classification, trapping, anderson
        Settings of these parts.
    """

    merge_tolerance: float = 1e-3
    merge_sweep: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    multiplier_margin: float = 1e-4
    certainty: float = 0.1
    check_steps: int = 50
    polish_rounds: int = 6
    n_multipliers: int = 6
    newton_steps: int = 8
    newton_krylov_dim: int = 48
    polish_tolerance: float = 1e-3
    max_period: int = 128
    min_cycle_step: float = 100
    escape_factor: float = 100.0
    orbit_steps: int = 256
    circle_points: int = 512
    assign_tolerance: float = 1e-2
    support_margin: float = 1.1
    uneven_spread: float = 30.0
    wide_spread: float = 4.0
    classification: ClassificationSettings = field(default_factory=ClassificationSettings)
    trapping: TrappingSettings = field(default_factory=TrappingSettings)
    anderson: AndersonSettings = field(default_factory=AndersonSettings)


@dataclass(frozen=True)
class SurrogateSettings:
    """How :class:`repdyn.fields.SurrogateAutoencoder` trains and chooses its penalty.

    Study: docs/studies/fields.md, "Surrogates"; fields without a study say so.

    Attributes
    ----------
    learning_rate
        Of Adam. The peak of the one-cycle schedule is three times as high. Not studied.
    batches
        Smallest and largest batch. Between them it is a sixteenth of the samples, so that few samples still
        make many steps. Not studied.
    held_out
        Share of the samples that are held out to judge the penalty and the reconstruction.
    penalties
        The sweep, from no penalty to the value that typically leaves one attractor.
    refinements
        Penalties tried between two of the sweep, which differ by a factor of three; the last two differ by
        7 %.
    gain_width
        Width of the finite difference of the gain in training, relative to the spread of the codes.
    trial_starts, trial_steps
        Held-out codes that are followed in a trial, and plain steps for each.
    trial_tolerance
        Convergence tolerance of a trial.
    max_diverged
        Largest acceptable share of diverging starts.
    min_converged
        Smallest acceptable share of starts that reach an attractor.
    crowded
        Attractors per start from which there are "about as many attractors as starts".
    held_bytes
        Of the samples in float32; more are drawn. A fit holds about three times as much.
    """

    learning_rate: float = 1e-3
    batches: tuple[int, int] = (32, 256)
    held_out: float = 0.2
    penalties: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
    refinements: int = 4
    gain_width: float = 0.1
    trial_starts: int = 256
    trial_steps: int = 500
    trial_tolerance: float = 1e-4
    max_diverged: float = 1e-3
    min_converged: float = 0.5
    crowded: float = 0.8
    held_bytes: int = 2**29


@dataclass(frozen=True)
class EnergySettings:
    """How :class:`repdyn.fields.EnergyField` follows points and chooses its noise.

    Lengths are in units of the noise, unless a field says otherwise.

    Study: docs/studies/fields.md, "Fields that always converge"; fields without a study say so.

    Attributes
    ----------
    min_points
        Distinct points from which a noise can be chosen. Not studied.
    tolerance, max_steps
        Length of the last step, and largest number of steps.
    arrival
        A point this close to a known mode ends there.
    merge_radius
        Ends closer than this are one mode.
    saddle_steps, saddle_growth
        Steps of power iteration by which an end of iteration is tested, and the growth of displacements from
        which it is a saddle. Not studied.
    first_round
        Points that are followed to the end before the first modes are known.
    lloyd_steps
        Steps of k-means by which cells, and the first Gaussians of a mixture, are set. Not studied.
    em_steps, em_gain
        Most steps of expectation-maximization, and the gain of the mean log-likelihood at which it ends. Not
        studied.
    covariance_floor
        Smallest variance of a mixture, as a share of the mean variance of the points. Not studied.
    smallest_share
        A Gaussian that holds fewer points is left out. Not studied.
    sampled_spacing, sampled_modes
        Points of the bank by which its spacing is measured, and by which a noise is checked. Not studied.
    own_mode
        Share of points that are modes of their own from which the noise is below the spacing. Not studied.
    levels, log_step
        Fewest scales from the finest to the spread of the bank, and largest step between their logarithms.
    finest
        Finest scale, in units of the spacing.
    tree_points, tree_steps
        Points of the bank that are followed through the scales, and largest number of steps at each. Points
        that still creep along a ridge then count as modes of their own.
    half_starts, halvings
        Points, held out of both halves, by whose basins the halves are compared; a bank with fewer is halved
        up to this often.
    clear_fall
        A maximum of the halves' agreement is one if it falls by this much afterwards. At the maximum, the
        agreement of basins with classes was within .03 of its largest on four networks.
    rows_shown
        Scales that are printed.
    replicates
        Agreement of the halves below which basins do not replicate. Not studied.
    """

    min_points: int = 20
    tolerance: float = 1e-4
    max_steps: int = 2000
    arrival: float = 0.1
    merge_radius: float = 0.3
    saddle_steps: int = 16
    saddle_growth: float = 1.001
    first_round: int = 512
    lloyd_steps: int = 5
    em_steps: int = 100
    em_gain: float = 1e-3
    covariance_floor: float = 1e-4
    smallest_share: float = 0.5
    sampled_spacing: int = 1024
    sampled_modes: int = 256
    own_mode: float = 0.95
    levels: int = 16
    log_step: float = 0.09
    finest: float = 0.25
    tree_points: int = 1024
    tree_steps: int = 200
    half_starts: int = 1000
    halvings: int = 5
    clear_fall: float = 0.03
    rows_shown: int = 12
    replicates: float = 0.5


@dataclass(frozen=True)
class FieldVerdicts:
    """Thresholds that decide the verdicts of this room.

    Attributes
    ----------
    min_in_basins
        Attractors are ``"found"`` if at least this share of the starts reached one. Not studied.
    shared_basins_p
        Two fields share basins (``"found"``) for a p-value up to this. At .05, the level of a single test, 8
        of 200 pairs of unrelated fields shared basins (``benchmarks/false_found.py``).
    unshared_basins_p
        From this p-value on, they do not (``"not found"``).
    n_relabelings
        Random relabelings behind that p-value. The smallest possible p-value is 1/1000.
    memorization_p
        Largest p-value of the exchanges at which memorization is ``"found"``. Six samples of each kind can
        reach it (``benchmarks/false_found.py``).
    n_exchanges
        Random exchanges of training and unseen samples behind that p-value.
    n_nearest
        Nearest samples of an attractor that an exchange uses. All are of one kind with probability 1 in 2⁴⁰.
    """

    min_in_basins: float = 0.5
    shared_basins_p: float = 0.002
    unshared_basins_p: float = 0.05
    n_relabelings: int = 999
    memorization_p: float = 0.002
    n_exchanges: int = 1999
    n_nearest: int = 40


SEARCH, SURROGATE, VERDICTS = SearchSettings(), SurrogateSettings(), FieldVerdicts()
ENERGY = EnergySettings()
