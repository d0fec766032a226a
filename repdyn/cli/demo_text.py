"""A summary of the demonstration's figures in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from repdyn.koopman import Fidelity
    from repdyn.topology import LevelSetTree

__all__ = ["leaf_names", "meaning"]


def meaning(fidelity: Fidelity, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """A summary of the figures: one sentence each for the autoencoder, the field, OOD and translation.

    Parameters
    ----------
    fidelity
        Fidelity of the Koopman autoencoder on held-out paths.
    figures
        Figures of the steps ``field``, ``ood`` and ``translation``, as the steps return them.
    """
    ood, translation = figures["ood"], figures["translation"]
    name = next(iter(fidelity.fvu))
    unexplained, best = fidelity.fvu[name][-1], fidelity.best_control
    theirs = fidelity.fvu[best][-1].value
    place = (
        "less than"
        if unexplained.value < theirs
        else "more than"
        if unexplained.value > theirs
        else "as much as"
    )
    share = np.array(list(figures["field"]["status"].values()))
    beaten = [name for name, verdict in ood["verdict"].items() if verdict == "found"]
    return (
        f"From the first point of model A alone, the Koopman autoencoder leaves {unexplained.value:.1%} "
        f"of the last point's variance unexplained, {place} the best control ({best}) with {theirs:.1%}.",
        f"Iterated from {int(share.sum())} passages, its encode-decode map, projected to the data, has "
        f"{figures['field']['attractors'] or 'no'} attractors that could be verified.",
        "The path detector beats every control on "
        + (", ".join(beaten) if beaten else "no set")
        + "; if a control without access to the model scores as high, the task is easy.",
        f"Without pairs, the verdict of the translation is {translation['verdict']!r}: the expected "
        f"top-1 retrieval is {translation['confidence']['value']:.0%} of that with pairs "
        f"(95 % interval {translation['confidence']['low']:.0%} to {translation['confidence']['high']:.0%}). "
        f"On held-out pairs it is {translation['top1']['value']:.3f}; a map fitted to pairs reaches "
        f"{translation['paired']['value']:.3f}, a random one {translation['random']['value']:.3f}.",
    )


def leaf_names(tree: LevelSetTree, labels: NDArray[np.str_]) -> list[str]:
    """Name each leaf by its most frequent label. Labels are used for names only, not for the matching."""
    names = ["" for _ in tree.parent]
    for leaf in tree.leaves:
        known, count = np.unique(labels[tree.assignment == leaf], return_counts=True)
        names[int(leaf)] = f"{known[count.argmax()]} {count.max() / count.sum():.0%}"
    return names
