"""Training: resumed fits end as uninterrupted ones, schedules, early stopping, what supervises."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.optimization import Cosine, Plateau
from repdyn.paths import RepresentationPaths
from repdyn.progress import listening

_SETTINGS = {"epochs": 6, "seed": 1, "batch_size": 64}


def _fit(paths: RepresentationPaths, checkpoint: Path | None = None, **changed: object) -> KoopmanAutoencoder:
    return KoopmanAutoencoder(6, (8,)).fit(paths, checkpoint=checkpoint, **{**_SETTINGS, **changed})


def _same(one: KoopmanAutoencoder, other: KoopmanAutoencoder) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values())
    return one.history_ == other.history_ and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("operator", ["generator", "low_rank", "least_squares"])
def test_a_fit_that_broke_off_goes_on_with_the_same_numbers(
    train, tmp_path, monkeypatch, schedule, operator
) -> None:
    file = tmp_path / "fit.safetensors"

    def fit(checkpoint: Path | None) -> KoopmanAutoencoder:
        kae = KoopmanAutoencoder(6, (8,), operator=operator)
        return kae.fit(train, checkpoint=checkpoint, schedule=schedule, **_SETTINGS)

    straight = fit(None)
    from repdyn.koopman import training

    whole = training._Run.epoch

    def breaks(run: training._Run) -> None:
        if run.done == 3:
            raise KeyboardInterrupt
        whole(run)

    monkeypatch.setattr(training._Run, "epoch", breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(file)
    monkeypatch.setattr(training._Run, "epoch", whole)
    assert _same(fit(file), straight)
    # A finished fit's checkpoint answers at once.
    monkeypatch.setattr(training._Run, "epoch", breaks)
    assert _same(fit(file), straight)


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_the_same_numbers(train, tmp_path) -> None:
    file = tmp_path / "fit.safetensors"
    train.save(tmp_path / "train.paths")
    script = f"""
        import sys, torch
        from repdyn.koopman import KoopmanAutoencoder
        from repdyn.paths import open_paths
        torch.set_num_threads({torch.get_num_threads()})
        paths = open_paths(sys.argv[1])
        KoopmanAutoencoder(6, (8,)).fit(paths, epochs=100, seed=1, batch_size=64, checkpoint=sys.argv[2])
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "train.paths"), str(file)]
    )
    try:
        while not file.exists():
            assert run.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    with safe_open(file, framework="pt") as opened:
        assert 0 < json.loads(opened.metadata()["progress"])["done"] < 100
    assert _same(_fit(train, file, epochs=100), _fit(train, epochs=100))


def test_checkpoints_of_other_fits_and_other_files_are_refused(train, test, tmp_path) -> None:
    file = tmp_path / "fit.safetensors"
    _fit(train, file)
    with pytest.raises(RepdynError, match="another fit, with other data"):
        _fit(test, file)
    with pytest.raises(RepdynError, match=r"learning_rate was 0\.005, now 0\.1"):
        _fit(train, file, learning_rate=0.1)
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(RepdynError, match="not the checkpoint of a Koopman fit"):
        _fit(train, file)
    file.write_bytes(b"{}")
    with pytest.raises(RepdynError, match="not a readable checkpoint"):
        _fit(train, file)


def test_early_stopping_waits_for_so_long_and_keeps_the_best(train) -> None:
    # A rate of zero would be refused; with this one nothing improves by more than rounding after the start.
    kae = _fit(train, epochs=200, learning_rate=1e-12, patience=4)
    assert len(kae.history_["state"]) <= 40
    best = min(kae.history_["validation"])
    assert kae.history_["validation"][kae.best_epoch_ // 2] == best


def test_schedules_rise_and_fall() -> None:
    cosine = Cosine(1.0, 100)
    rates = [cosine.rate(step) for step in range(100)]
    assert max(rates) == rates[20] == 1.0
    assert rates[0] == pytest.approx(0.04)
    assert rates[-1] < 1e-3
    assert np.all(np.diff(rates[:21]) > 0)
    assert np.all(np.diff(rates[20:]) < 0)
    plateau = Plateau(1.0, 100)
    assert plateau.rate(99) == 1.0
    for _ in range(4):
        plateau.validated(False)
    assert plateau.rate(99) == pytest.approx(0.3)
    again = Plateau(1.0, 100)
    again.restore(plateau.state())
    assert again.rate(50) == plateau.rate(50)


def test_the_last_point_alone_supervises_when_told_to(train, test) -> None:
    settings = {"epochs": 60, "batch_size": 64, "seed": 0}
    every = KoopmanAutoencoder(6, (16,)).fit(train, **settings)
    last = KoopmanAutoencoder(6, (16,), supervise="last").fit(train, **settings)

    def error(kae: KoopmanAutoencoder, point: str) -> float:
        found = kae.propagate(test["layer0"], "layer0", point)
        return float(
            np.square(found - test[point]).sum() / np.square(test[point] - test[point].mean(0)).sum()
        )

    assert error(last, "layer3") < 0.1
    # Half of a rotation is another one: what lies between is not told by the ends.
    assert error(last, "layer1") > 3 * error(every, "layer1")


def test_all_four_losses_are_told_as_they_fall(train, caplog) -> None:
    heard = []
    with caplog.at_level(logging.INFO, logger="repdyn"), listening(lambda *event: heard.append(event[0])):
        _fit(train)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    for name in ("reconstruction", "linearity", "state", "isometry", "validation"):
        assert name in told[-1]
        assert name in heard[-1] or name == "validation"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "nearest: 'cosine'"),
        ({"patience": 0}, "patience"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate positive"),
    ],
)
def test_settings_of_a_fit_that_make_no_sense(train, settings, message) -> None:
    with pytest.raises(RepdynError, match=message):
        _fit(train, **settings)
    with pytest.raises(RepdynError, match="supervise must be one of"):
        KoopmanAutoencoder(supervise="first").fit(train)
    with pytest.raises(RepdynError, match="solved for on single steps"):
        KoopmanAutoencoder(operator="least_squares", supervise="last").fit(train)


def test_a_fit_that_diverges_says_where(train) -> None:
    with pytest.raises(RepdynError, match="training diverged at epoch"):
        _fit(train, learning_rate=1e20)
