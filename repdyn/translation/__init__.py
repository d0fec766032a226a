"""Translation between two models' latent spaces, from no, few or all pairs, with a verdict and an evaluation.

:func:`match_trees` matches the density trees of two models (:mod:`repdyn.translation.trees`).
:func:`translate` finds a linear map with a verdict (:mod:`repdyn.translation.unpaired`).
:func:`evaluate_translation` compares it with controls, and :func:`stitch` feeds one model's translated
representations into another model's head (:mod:`repdyn.translation.linear`).
"""

from repdyn.translation.linear.depths import PathTranslation
from repdyn.translation.linear.evaluation import (
    TranslationEvaluation,
    cycle_consistency,
    evaluate_translation,
)
from repdyn.translation.linear.maps import (
    LinearTranslation,
    fit_affine,
    fit_cca,
    fit_low_rank,
    fit_orthogonal,
    fit_ridge,
    relative_representation,
)
from repdyn.translation.linear.stitching import (
    StitchedModel,
    StitchingEvaluation,
    evaluate_stitching,
    stitch,
)
from repdyn.translation.trees.matching import TreeMatch, match_trees
from repdyn.translation.unpaired.translate import translate, translate_path

__all__ = [
    "LinearTranslation",
    "PathTranslation",
    "StitchedModel",
    "StitchingEvaluation",
    "TranslationEvaluation",
    "TreeMatch",
    "cycle_consistency",
    "evaluate_stitching",
    "evaluate_translation",
    "fit_affine",
    "fit_cca",
    "fit_low_rank",
    "fit_orthogonal",
    "fit_ridge",
    "match_trees",
    "relative_representation",
    "stitch",
    "translate",
    "translate_path",
]
