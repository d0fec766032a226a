"""NumPy arrays from arrays, and from torch tensors of any dtype, on any device and with a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from repdyn.errors import RepdynError

__all__ = ["as_array"]


def as_array(x: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """The values of ``x`` as a NumPy array on the host, detached from any graph.

    Parameters
    ----------
    x
        An array, a tensor, or a list of such; sparse ones, of torch and of SciPy, become dense. bfloat16 and
        narrower types, which NumPy cannot compute with, are widened to float32 without loss.
    dtype
        As in :func:`numpy.asarray`.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    RepdynError
        If ``x`` is a masked array with masked entries: they have no value.

    Examples
    --------
    >>> import torch
    >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if isinstance(x, list | tuple) and any(hasattr(one, "detach") for one in x):
        x = [as_array(one) for one in x]
    if hasattr(x, "detach"):  # a tensor; torch itself need not be loaded to read an array
        x = x.detach().cpu()
        if x.is_sparse:
            x = x.to_dense()
        x = x.resolve_conj().resolve_neg()
        if x.is_floating_point() and (x.element_size() == 1 or str(x.dtype) == "torch.bfloat16"):
            x = x.float()
        x = x.numpy()
    elif hasattr(x, "toarray") and hasattr(x, "nnz"):
        x = x.toarray()
    elif isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        count = int(np.ma.getmaskarray(x).sum())
        raise RepdynError(
            f"array: {count} of its entries are masked, so that they have no value; fill them or "
            "leave their rows out"
        )
    array = np.asarray(x)
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.name.startswith(_NARROW):
        array = array.astype(np.float32)
    return array if dtype is None else array.astype(dtype, copy=False)


_NARROW = ("bfloat16", "float8", "float6", "float4")  # of ml_dtypes
