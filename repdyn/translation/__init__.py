"""Translation between two models' latent spaces, from no, few or all pairs, and what it is worth.

Match the density trees of two models (:func:`match_trees`), derive a linear map with a verdict
(:func:`translate`), evaluate it beside its controls (:func:`evaluate_translation`), and let one model's
head answer for the other (:func:`stitch`, :func:`evaluate_stitching`).
"""

from repdyn.translation.alternatives import fit_cca, fit_low_rank, relative_representation
from repdyn.translation.cycles import cycle_consistency
from repdyn.translation.depths import PathTranslation
from repdyn.translation.evaluation import TranslationEvaluation, evaluate_translation
from repdyn.translation.linear import LinearTranslation, fit_affine, fit_orthogonal, fit_ridge
from repdyn.translation.matching import TreeMatch, match_trees
from repdyn.translation.stitching import StitchedModel, stitch
from repdyn.translation.stitching_evaluation import StitchingEvaluation, evaluate_stitching
from repdyn.translation.translate import translate, translate_path

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
