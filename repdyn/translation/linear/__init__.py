"""Linear maps between latent spaces: fitting with pairs, evaluation, and stitching of two models."""

from repdyn.translation.linear.maps import (
    LinearTranslation,
    fit_affine,
    fit_cca,
    fit_low_rank,
    fit_orthogonal,
    fit_ridge,
    relative_representation,
)

__all__ = [
    "LinearTranslation",
    "fit_affine",
    "fit_cca",
    "fit_low_rank",
    "fit_orthogonal",
    "fit_ridge",
    "relative_representation",
]
