"""Static parts exchanged between inputs at some depth, and the rest of the real network run on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.disentangle.factors import Factors
from repdyn.disentangle.swaps import exchange
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["SPLITS", "Head", "depth_swaps", "rank_splits"]

SPLITS = ("spectral", "random", "mean components")
Head = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From representations ``(N, width)``, row by row those of the paths, to logits ``(N, classes)``."""


def depth_swaps(
    model: StructuredKoopman,
    test: RepresentationPaths,
    train: RepresentationPaths,
    head: Head,
    *,
    point: str | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Whom the rest of the network follows after inputs have exchanged their static parts.

    Both parts are decoded at the point, before and after the exchange, and ``head`` says what the network
    makes of either. Counted are inputs that it had told apart.

    Parameters
    ----------
    model
        Fitted to paths of the same network.
    test
        Paths, not those it was fitted to.
    train
        What it was fitted to; the split by principal components is found on them.
    head
        What the network does from the point on: at the last one its head; before it, for each row the
        representation moved by what its pooled value moved, through ``TracedModel.run_from``.
    point
        Where; default: the last.
    seed
        Of the random split, the pairs and the intervals.

    Returns
    -------
    dict
        ``{split: {"receiver", "donor": Estimate}}``: how often the head says what it said of the one or of
        the other, for the model's split and for its controls of the same rank.

    Raises
    ------
    RepdynError
        If there is no such point, or the head says the same of every input.
    """
    where = test.points[-1] if point is None else point
    if where not in test.points:
        raise RepdynError(f"there is no point {where!r}; {nearest_names(where, test.points)}")
    depth = list(test.points).index(where)
    found = rank_splits(model, train, test, seed)
    return {split: _followed(model, parts, head, depth, seed) for split, parts in found.items()}


def rank_splits(
    model: StructuredKoopman, train: RepresentationPaths, paths: RepresentationPaths, seed: int
) -> dict[str, Factors]:
    """The model's split of the latents, and two of the same rank that know nothing of the spectrum."""
    own = model.factors(paths)
    z = own.latents
    mean = model.encode(train).mean(axis=1).astype(np.float64)
    components = np.linalg.svd(mean - mean.mean(axis=0), full_matrices=False)[2][: model.static_dim]
    drawn = np.random.default_rng(seed).standard_normal((z.shape[2], model.static_dim))
    random = np.linalg.qr(drawn)[0].T
    found = {"spectral": own}
    for name, axes in zip(SPLITS[1:], (random, components)):
        static = (z @ (axes.T @ axes)).astype(np.float32)
        found[name] = Factors(static, z - static, own.mask)
    return found


def _followed(
    model: StructuredKoopman, parts: Factors, head: Head, depth: int, seed: int
) -> dict[str, Estimate]:
    assert model.frames_ is not None
    frames = model.frames_
    other = np.random.default_rng(seed).permutation(len(parts))
    other = np.where(other == np.arange(len(parts)), (other + 1) % len(parts), other)

    def called(latents: NDArray[np.float32]) -> NDArray[np.int64]:
        state = torch.from_numpy(model.decode(latents)[:, depth]).to(frames.scale.device)
        said = as_array(head(as_array(frames.lower(state, depth))))
        return np.asarray(said.argmax(axis=1), dtype=np.int64)

    before = called(parts.latents)
    after = called(exchange(parts, parts.take(other), "static")[0])
    # Where both inputs are called the same, a swap cannot tell whom the head follows.
    tells = before != before[other]
    if not tells.any():
        raise RepdynError("the head says the same of every reconstructed input; no swap can change that")
    # One pair of inputs counts once, whichever copies of them it is made of.
    alike = groups_of_equal_rows(parts.latents)
    pairs = groups_of_equal_rows(np.stack([alike, alike[other]], axis=1), 0)[tells]
    return {
        "receiver": mean_of_groups((after == before)[tells], pairs, seed=seed),
        "donor": mean_of_groups((after == before[other])[tells], pairs, seed=seed),
    }
