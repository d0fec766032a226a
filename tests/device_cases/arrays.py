"""What reads arrays: a tensor of any device is read as an array, and the answer is an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from repdyn import disentangle, fields, koopman, ood, topology, translation
from repdyn.paths import RepresentationPaths
from repdyn.topology import LevelSetTree
from tests.device_cases.shared import some_paths

ARRAYS: dict[str, Callable[[Any], Any]] = {
    "RepresentationPaths.from_arrays": lambda x: np.asarray(RepresentationPaths.from_arrays({"p": x})["p"]),
    "LevelSetClustering.fit": lambda x: topology.LevelSetClustering().fit(x).labels_,
    "LevelSetTree.fit": lambda x: len(LevelSetTree.fit(x).to_dict()),
    "Controls.predict": lambda x: koopman.controls(some_paths()).predict("affine", x),
    "Controls.step": lambda x: koopman.controls(some_paths()).step("shared affine", x, 0),
    "alpha_persistence": lambda x: topology.alpha_persistence(x[:, :2]),
    "conformal_p_values": lambda x: ood.conformal_p_values(x[:, 0], x[:, 1]),
    "conformal_threshold": lambda x: ood.conformal_threshold(x[:, 0]),
    "cubical_persistence": lambda x: topology.cubical_persistence(x),
    "cycle_consistency": lambda x: (
        translation.cycle_consistency(
            [translation.fit_orthogonal(x, x), translation.fit_orthogonal(x, x)], x
        ).value
    ),
    "energy": lambda x: ood.energy(x),
    "evaluate_translation": lambda x: translation.evaluate_translation(
        translation.fit_orthogonal(x, x), x, x
    ).to_dict()["top1"],
    "farthest_points": lambda x: topology.farthest_points(x, 5)[0],
    "fit_affine": lambda x: translation.fit_affine(x, x).matrix,
    "fit_cca": lambda x: translation.fit_cca(x, x).matrix,
    "fit_low_rank": lambda x: translation.fit_low_rank(x, x, 2).matrix,
    "fit_orthogonal": lambda x: translation.fit_orthogonal(x, x).matrix,
    "fit_ridge": lambda x: translation.fit_ridge(x, x).matrix,
    "frame_consistency": lambda x: disentangle.frame_consistency(x > 0).to_dict(),
    "intrinsic_dimension": lambda x: topology.intrinsic_dimension(
        x.abs().sort(dim=1).values if isinstance(x, Tensor) else np.sort(abs(x), axis=1)
    ),
    "knn_density": lambda x: topology.knn_density(x),
    "leaf_support": lambda x: topology.leaf_support(LevelSetTree.fit(x), x, resamples=2),
    "lyapunov_exponents": lambda x: fields.lyapunov_exponents(x.reshape(len(x), -1, 1)),
    "match_trees": lambda x: translation.match_trees(LevelSetTree.fit(x), LevelSetTree.fit(x), x, x).verdict,
    "mixture_density": lambda x: topology.mixture_density(x, components=(1, 2))(x),
    "nearest_neighbors": lambda x: topology.nearest_neighbors(x, 3)[0],
    "node_attributes": lambda x: len(topology.node_attributes(LevelSetTree.fit(x), x).to_dict()),
    "persistence": lambda x: str(topology.persistence(x, landmarks=20, resamples=2)),
    "relative_representation": lambda x: translation.relative_representation(x, x[:5]),
    "sparse_persistence": lambda x: topology.sparse_persistence(x[:40]),
}
