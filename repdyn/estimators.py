"""What scikit-learn expects of an estimator: its check of a matrix, and its error before a fit.

Only modules whose classes derive from scikit-learn's import this one: scikit-learn takes a second to import.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from sklearn import exceptions
from sklearn.utils.validation import validate_data

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["NotFittedError", "check_matrix"]


class NotFittedError(RepdynError, exceptions.NotFittedError):  # type: ignore[misc]  # sklearn has no types
    """An estimator is used before :meth:`fit`; scikit-learn's error of this name, too."""


def check_matrix(
    estimator: Any, x: Any, *, fitting: bool = False, allow_nonfinite: bool = False
) -> NDArray[Any]:
    """A matrix ``(N, D)`` of numbers, checked as scikit-learn does.

    Sets ``n_features_in_`` and, for data frames, ``feature_names_in_`` while fitting, and compares with them
    afterwards.

    Parameters
    ----------
    estimator
        It is named in errors.
    x
        An array, a tensor on any device, a list of lists or a data frame.
    fitting
        Whether the estimator is being fitted.
    allow_nonfinite
        Whether NaN and infinite values are accepted.

    Returns
    -------
    numpy.ndarray
        Shape ``(N, D)``, of the numbers' own dtype.

    Raises
    ------
    RepdynError
        On another shape, no row or column, complex numbers, values that are not finite, or another width
        than the one fitted.
    TypeError
        For a sparse matrix, and for objects that are no numbers.
    """
    if hasattr(x, "detach"):
        x = as_array(x)
    try:
        matrix: NDArray[Any] = validate_data(
            estimator, x, reset=fitting, ensure_all_finite=not allow_nonfinite
        )
    except ValueError as error:
        text = str(error)
        if text.startswith("Input X contains"):  # what follows recommends estimators of scikit-learn
            text = f"{text.splitlines()[0].rstrip('.')}; leave out the samples that are not finite"
        raise RepdynError(f"{type(estimator).__name__}: {' '.join(text.split())}") from None
    return matrix
