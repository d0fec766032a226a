"""Two traces never write to one store at once, and the second is told so."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.paths import merge_paths
from repdyn.paths.writer import writing_alone

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

HOLD = """
import sys
from repdyn.paths.writer import writing_alone
with writing_alone(sys.argv[1]) as begun:
    begun()
    print("held", flush=True)
    sys.stdin.read()
"""


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_a_second_trace_is_told_that_another_writes(tmp_path):
    out, module = tmp_path / "a.paths", model()
    repdyn.trace(module, X, out=out)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        for resume in (True, False):
            with pytest.raises(RepdynError, match="another trace is writing to this store"):
                repdyn.trace(module, X, out=out, resume=resume)
    finally:
        other.communicate()
    assert len(repdyn.trace(module, X, out=out)) == 6  # the lock ended with the process


def test_a_store_that_is_replaced_is_held_anew(tmp_path):
    out, module = tmp_path / "a.paths", model()
    repdyn.trace(module, X, out=out)
    before = out.stat().st_ino
    with writing_alone(out) as begun:
        out.rename(tmp_path / "b.paths")
        (tmp_path / "b.paths").rename(out)
        begun()
    assert len(repdyn.trace(module, X + 1, out=out, resume=False)) == 6
    assert out.stat().st_ino != before
    with writing_alone("memory://a.paths") as begun:  # object storage has no locks
        begun()


def test_digests_of_samples_read_one_by_one_go_through_a_merge(tmp_path):
    import torch

    class Rows(torch.utils.data.Dataset):
        def __init__(self, shift):
            self.shift = shift

        def __len__(self):
            return 6

        def __getitem__(self, number):
            return torch.from_numpy(X[number] + self.shift)

    module = model()
    for name, shift in (("a", 0), ("b", 1), ("c", 2)):
        ids = [f"{'a' if name == 'a' else 'b'}{number}" for number in range(6)]
        repdyn.trace(module, Rows(shift), ids=ids, out=tmp_path / name)
    one = merge_paths([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    two = merge_paths([tmp_path / "a", tmp_path / "c"], tmp_path / "ac")
    assert one.ids.tolist() == two.ids.tolist()
    assert one.meta["data"] != two.meta["data"]
    assert one.meta["merged"][0] == two.meta["merged"][0]
