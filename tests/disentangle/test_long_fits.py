"""Long fits: what a killed one goes on with, lower precision, compiled networks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repdyn.disentangle import SSMSKD, LossWeights, training
from repdyn.disentangle.sequences import Sequences
from repdyn.disentangle.settings import TRAINING
from repdyn.errors import RepdynError
from tests.disentangle.planted import planted_sequences

ALL = LossWeights(constancy=1.0, motion=0.2, cycle=1.0)
CLIPS = torch.rand(20, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _fit(x: Any, epochs: int, seconds: float = 0.0, **options: Any) -> SSMSKD:
    model = SSMSKD(latent_dim=4, hidden=6, channels=(4,), weights=ALL)
    plan = {"seed": 3, "batch_size": 8, "learning_rate": 1e-2, "validation": None, "device": None}
    settings = replace(TRAINING, checkpoint_seconds=seconds, plateau_patience=1)
    training.fit(model, x, epochs=epochs, settings=settings, **{**plan, **options})
    return model


def _same(a: SSMSKD, b: SSMSKD) -> bool:
    states = a.state_dict(), b.state_dict()
    return a.history_ == b.history_ and all(
        torch.equal(states[0][name], states[1][name]) for name in states[1]
    )


class _Stopped(Exception):
    """Raised in place of a kill."""


@pytest.mark.parametrize("epoch", [1, 5, 8])
def test_a_fit_that_was_interrupted_goes_on_with_the_same_numbers(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _fit(CLIPS, 9)
    # The schedule has lowered the rate and gone back to the best weights, or this would not test them.
    assert whole.best_epoch_ < 8
    run, passes = training._run_epoch, []

    def stops(*arguments: Any) -> None:
        if len(passes) == epoch:
            raise _Stopped
        passes.append(0)
        run(*arguments)

    monkeypatch.setattr(training, "_run_epoch", stops)
    with pytest.raises(_Stopped):
        _fit(CLIPS, 9, checkpoint=tmp_path / "state")
    monkeypatch.setattr(training, "_run_epoch", run)
    resumed = _fit(CLIPS, 9, checkpoint=tmp_path / "state")
    assert _same(resumed, whole)
    assert resumed.best_epoch_ == whole.best_epoch_
    # A finished fit is not repeated, and goes on for more epochs.
    monkeypatch.setattr(training, "_run_epoch", stops)
    passes[:] = [0] * epoch
    assert _same(_fit(CLIPS, 9, checkpoint=tmp_path / "state"), whole)
    monkeypatch.setattr(training, "_run_epoch", run)
    assert _same(_fit(CLIPS, 11, checkpoint=tmp_path / "state"), _fit(CLIPS, 11))


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from tests.disentangle.test_long_fits import CLIPS, _fit
        from repdyn.progress import listening
        def show(description, done, total):
            print(done, flush=True)
        with listening(show):
            _fit(CLIPS, 400, checkpoint=sys.argv[1])
        """
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 12:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert _same(_fit(CLIPS, 40, checkpoint=tmp_path / "state"), _fit(CLIPS, 40))


def test_a_state_is_saved_after_a_while_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repdyn.disentangle import checkpoints

    saved = []
    monkeypatch.setattr(checkpoints, "save_artifact", lambda *_: saved.append(1))
    _fit(CLIPS, 4, seconds=3600.0, checkpoint=tmp_path / "state")
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 4}, "seed is 3, not 4"),
        ({"batch_size": 4}, "batch_size"),
        ({"precision": "bfloat16"}, "precision"),
    ],
)
def test_a_state_of_another_fit_is_refused(changed: dict[str, Any], named: str, tmp_path: Path) -> None:
    _fit(CLIPS, 1, checkpoint=tmp_path / "state")
    with pytest.raises(RepdynError, match=f"belongs to another fit, whose {named}"):
        _fit(CLIPS, 1, checkpoint=tmp_path / "state", **changed)
    with pytest.raises(RepdynError, match="whose training is"):
        _fit(CLIPS * 0.5, 1, checkpoint=tmp_path / "state")


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    _fit(CLIPS, 1, checkpoint=tmp_path / "state")
    file = tmp_path / "state" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RepdynError, match="truncated or damaged"):
        _fit(CLIPS, 1, checkpoint=tmp_path / "state")


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RepdynError, match="no precision 'float16'"):
        _fit(CLIPS, 1, precision="float16")


def test_lower_precision_trains_what_full_precision_does() -> None:
    full, lower = _fit(CLIPS, 6), _fit(CLIPS, 6, precision="bfloat16")
    assert lower.history_["validation"] != full.history_["validation"]  # it was lower
    for name in ("reconstruction", "prediction"):
        assert lower.history_[name] == pytest.approx(full.history_[name], rel=0.1)
    assert {p.dtype for p in lower.parameters()} == {torch.float32}
    assert (lower.reconstruct(CLIPS) - full.reconstruct(CLIPS)).abs().max() < 0.1


def test_latents_and_operators_are_not_of_lower_precision() -> None:
    model = SSMSKD(latent_dim=4, hidden=6, channels=(4,), weights=ALL)
    model.build((1, 8, 8), None, 0)
    with torch.autocast("cpu", torch.bfloat16):
        z = model.encoder_(CLIPS, None)
        shown = model.decoder_(z)
    assert z.dtype == shown.dtype == torch.float32
    # Latents are of float32 in their bits too, not bfloat16 that was widened.
    assert not torch.equal(z, z.to(torch.bfloat16).float())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile's own
def test_compiled_networks_train_the_same_and_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_eagerly(self: torch.nn.Module) -> None:
        compiled.append(type(self).__name__)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    plain, found = _fit(CLIPS, 2), _fit(CLIPS, 2, compiled=True)
    assert compiled == ["FrameEncoder", "FrameDecoder"]
    assert _same(found, plain)
    assert found.encoder_.frames._compiled_call_impl is None


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    x, _, _ = planted_sequences(count=20)
    with pytest.raises(RepdynError, match=r"no longer finite in epoch \d+; lower learning_rate"):
        SSMSKD(latent_dim=4, hidden=6).fit(x, epochs=3, learning_rate=1e30)


def test_nothing_of_a_step_waits_for_the_device_except_schur_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value of a tensor waits for the device: counted by what torch calls for it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    read: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), options: Any = None
        ) -> Any:
            name = str(function)
            if any(
                part in name for part in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default")
            ):
                read.append(name)
            return function(*arguments, **(options or {}))

    model = SSMSKD(latent_dim=4, hidden=6, channels=(4,), weights=ALL)
    model.build((1, 8, 8), None, 0)
    batch = Sequences(CLIPS, torch.ones(20, 5, dtype=torch.bool))
    assert batch.full
    model.train()
    with Counting():
        taken = batch.take(torch.arange(8))
        losses = training.batch_losses(model, taken, torch.ones(2, 8, 5, 4, dtype=torch.bool))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
    assert read == []
    with Counting():
        training.batch_losses(model, Sequences(CLIPS[:8], torch.ones(8, 5, dtype=torch.bool)), None)
    assert read  # a batch whose length is not known is read: the count works
