"""Several devices: two processes train as one does. Needs the extra `fabric`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder

pytest.importorskip("lightning_fabric", reason="lightning-fabric comes with the extra `fabric`")

_SETTINGS = {"epochs": 12, "seed": 1, "batch_size": 120}
_SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from lightning_fabric import Fabric
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import open_paths

if __name__ == "__main__":
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    kae = KoopmanAutoencoder(6, (8,)).fit(open_paths(sys.argv[1]), fabric=fabric, **json.loads(sys.argv[3]))
    weights = torch.cat([w.flatten() for w in kae.state_dict().values()])
    spread = (weights - fabric.all_reduce(weights.clone(), reduce_op="mean")).abs().max()
    if fabric.is_global_zero:
        found = {"history": kae.history_, "spread": float(spread), "processes": fabric.world_size}
        open(sys.argv[2], "w").write(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(train, tmp_path) -> None:
    train.save(tmp_path / "train.paths")
    (tmp_path / "script.py").write_text(_SCRIPT)
    answer = tmp_path / "answer.json"
    given = [str(tmp_path / "train.paths"), str(answer), json.dumps(_SETTINGS)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "LOCAL_", "NODE_"))}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), *given],
        env=environment,
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(answer.read_text())
    assert found["processes"] == 2
    assert found["spread"] < 1e-6
    alone = KoopmanAutoencoder(6, (8,)).fit(train, **_SETTINGS)
    for name, values in alone.history_.items():
        # Distances and variances are taken within each process's part of a batch; all else is the same sum.
        assert np.allclose(found["history"][name], values, rtol=0.05, atol=2e-3), name


class _TwoProcesses:
    world_size = 2


def test_an_operator_that_is_solved_for_is_not_split(train) -> None:
    with pytest.raises(RepdynError, match="cannot be split over 2 processes"):
        KoopmanAutoencoder(operator="least_squares").fit(train, fabric=_TwoProcesses())


def test_one_process_in_half_precision_learns_as_well(train) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    half = KoopmanAutoencoder(6, (8,)).fit(train, fabric=fabric, **_SETTINGS)
    full = KoopmanAutoencoder(6, (8,)).fit(train, **_SETTINGS)
    assert next(half.parameters()).dtype == next(full.parameters()).dtype
    assert half.history_["validation"][-1] == pytest.approx(
        full.history_["validation"][-1], rel=0.1, abs=1e-3
    )
