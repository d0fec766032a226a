"""Tuned numbers of this room: neighbor search, persistence, flows.

Each field names the study that set it, or says "not studied".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "FLOW",
    "NEIGHBORS",
    "PERSISTENCE",
    "FlowSettings",
    "NeighborSettings",
    "PersistenceSettings",
]


@dataclass(frozen=True)
class NeighborSettings:
    """How nearest neighbors are found, and how much is held in memory.

    Attributes
    ----------
    kd_tree_dimensions
        A k-d tree is used up to this number of dimensions. In more, a matrix product is faster. Not studied.
    exact_points
        Up to this number of points all pairs are compared. docs/studies/topology.md.
    candidates
        Beyond it, each point is compared with this many others, from cells close to its own.
    cell_points
        Mean number of points in a cell. Not studied.
    cell_rows
        Points of a cell that are compared at once.
    max_components
        Largest number of components that bridges connect. Beyond, distances between all would not fit.
    block_entries
        Entries of a block of distances: 64 MB in single precision.
    cached_entries
        Gathered numbers that are read again at once: 16 MB, most of which a processor cache holds.
    group
        Columns in a group. The k nearest lie in the k groups with the smallest minima.
    least_size
        Points with a smaller largest coordinate are rescaled, since their squares would underflow.
    cancels, cancels_double
        A squared distance below this share of the terms whose difference it is has lost its digits, in single
        and in double precision.
    held_bytes
        Bytes of a store's point in float64 up to which all of its samples make a tree.
    """

    kd_tree_dimensions: int = 10
    exact_points: int = 20_000
    candidates: int = 8192
    cell_points: int = 256
    cell_rows: int = 1024
    max_components: int = 5000
    block_entries: int = 1 << 24
    cached_entries: int = 1 << 22
    group: int = 16
    least_size: float = 1e-100
    cancels: float = 1e-4
    cancels_double: float = 1e-11
    held_bytes: int = 120_000_000


@dataclass(frozen=True)
class PersistenceSettings:
    """How persistence and its controls are measured, and what decides its verdicts.

    Attributes
    ----------
    sample_points
        Size of half samples and controls, small enough to draw many. ``benchmarks/false_found.py``.
    level
        Share of the repeated measurements inside an interval.
    same_leaf
        Two sets of points are the same leaf if they share more than this part of their union.
    alpha_dimensions
        Largest dimension for alpha complexes. Delaunay triangulations grow exponentially with it.
    held_bytes
        Bytes of a point in float64 up to which all samples are candidates for landmarks.
    fetched_bytes
        Bytes of a remote store that are held at once.
    block
        Samples at a time when the covering radius of a store is measured.
    cached_numbers
        Numbers whose differences the nearest caches of a processor hold.
    product_dimensions
        Above this number of dimensions the distances to a landmark are matrix products, which are faster.
    cancels
        A squared distance below this share of the terms whose difference it is would have fewer than ten
        digits.
    noise_bars
        With this number of other bars or fewer, the ratios of the others do not tell what noise is.
    """

    sample_points: int = 2000
    level: float = 0.95
    same_leaf: float = 0.5
    alpha_dimensions: int = 5
    held_bytes: int = 2**27
    fetched_bytes: int = 2**30
    block: int = 8192
    cached_numbers: int = 2**16
    product_dimensions: int = 32
    cancels: float = 1e-6
    noise_bars: int = 5


@dataclass(frozen=True)
class FlowSettings:
    """How :class:`repdyn.topology.FlowAutoencoder` is trained. Study: docs/studies/topology.md.

    Attributes
    ----------
    held_out
        Share of the points on which numbers of dimensions are compared.
    least_errors, least_gain
        A further dimension must improve the held-out log-likelihood by this many standard errors, and this
        many nats per point. Noise that is not quite Gaussian gains .1 to .25 (along a knot), which is no
        dimension. The smallest gain of a dimension of a planted set was .48 (.55 on the seeds that set this
        field).
    known_persistence
        Persistence at which the tree of a known density is simplified. Below it, peaks come from the
        unevenness of the graph.
    neighbors
        Neighbors of the density in a batch. Fewer are noisier, more blur the latent: five left ripples of .3
        to .7 in the log-density along a knot, fifteen .1 to .5.
    first_noise
        Standard deviation of the noise at the start, relative to the scale of the data. Not studied.
    least_noise
        Smallest standard deviation at the start, for constant columns.
    padding_noise
        Standard deviation of the noise that augments points, relative to the scale of the data. The latent
        resolves nothing finer and adapts its own scale to it. Not studied.
    n_draws, draw_width
        Draws of the noise in the density of a point, and their width relative to that noise. With narrower
        draws, a few of them dominate the mean.
    geodesic_points, geodesic_neighbors
        Points and neighbors of Isomap, whose cost is quadratic in the points.
    start_batch, start_rate
        Batch and learning rate while geodesic coordinates are learned. Not studied.
    gradient_norm
        Norm to which gradients are clipped. Two latents that nearly coincide have unbounded gradients under
        the nearest-neighbor density.
    """

    held_out: float = 0.2
    least_errors: float = 2.0
    least_gain: float = 0.4
    known_persistence: float = 0.5
    neighbors: int = 15
    first_noise: float = math.exp(-1.5)
    least_noise: float = 1e-3
    padding_noise: float = 0.05
    n_draws: int = 64
    draw_width: float = 4.0
    geodesic_points: int = 1000
    geodesic_neighbors: int = 10
    start_batch: int = 256
    start_rate: float = 1e-2
    gradient_norm: float = 5.0


NEIGHBORS, PERSISTENCE, FLOW = NeighborSettings(), PersistenceSettings(), FlowSettings()
