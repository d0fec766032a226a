"""Replacing a store removes that store and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repdyn import RepdynError, RepresentationPaths, open_paths, trace


@pytest.mark.parametrize("place", ["{tmp}/a.paths", "memory://owned/a.paths"])
def test_what_a_user_put_beside_a_store_is_never_removed(tmp_path: Path, place: str) -> None:
    place = place.format(tmp=tmp_path)
    paths = RepresentationPaths.from_arrays({"a": np.ones((3, 2))}, labels=["x", "y", "x"])
    paths.save(place)
    paths.subset([0, 1]).save(place)
    other = f"{place}/inner.paths"
    paths.save(other)
    with pytest.raises(RepdynError, match=r"holds 'inner.paths'"):
        paths.save(place)
    model = torch.nn.Linear(2, 2)
    with pytest.raises(RepdynError, match=r"holds 'inner.paths'"):
        trace(model, torch.ones(4, 2), out=place, resume=False)
    assert len(open_paths(other)) == 3
    assert len(open_paths(place)) == 2
