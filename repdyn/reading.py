"""Arrays from whatever holds numbers: NumPy's, torch's of any type, also on a device or in a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["as_array"]


def as_array(x: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """An array of the numbers that ``x`` holds, out of any graph and on the host.

    Parameters
    ----------
    x
        An array, a tensor, or a list of such. bfloat16 and narrower types, which NumPy cannot compute with,
        are widened to float32 without loss.
    dtype
        As in :func:`numpy.asarray`.

    Returns
    -------
    numpy.ndarray

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
    found = np.asarray(x)
    if found.dtype.kind == "V" and found.dtype.names is None and found.dtype.name.startswith(_NARROW):
        found = found.astype(np.float32)
    return found if dtype is None else found.astype(dtype, copy=False)


_NARROW = ("bfloat16", "float8", "float6", "float4")  # of ml_dtypes
