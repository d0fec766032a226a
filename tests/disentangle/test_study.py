"""The study of clips: its scales, what its progress says, and judges that it does not believe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repdyn.disentangle import Factors
from repdyn.intervals import Estimate

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
SCRIPTS = ("disentangle", "disentangle_settings", "disentangle_vectors", "harness")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script of the benchmarks, and forgets it after the test."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile's own
def test_ten_steps_of_the_full_scale(
    study: Any, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published networks at 64 × 64, in mixed precision, compiled; smaller batches than on a GPU."""
    monkeypatch.setenv("REPDYN_DATA", str(shared_data))

    def compile_eagerly(self: torch.nn.Module) -> None:  # without a compiler for C++
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    script, settings = study("disentangle"), study("disentangle_settings")
    scale = settings.FULL
    assert (scale.size, scale.items, scale.characters) == (64, (0, 1, 2, 3, 4, 5), None)
    assert (scale.precision, scale.compiled) == ("bfloat16", 1)
    few = replace(scale, characters=4, items=(0, 1), batch_size=3)
    training, validation, test = script.parts("sprites", few)
    assert (len(training), training.clips.shape[2:]) == (31, (3, 64, 64))
    chosen = settings.SSM["sprites"]
    model = script.build("ssm-skd-motion", chosen, few)
    setting = {"data": "sprites", "seed": 0, "model": "ssm-skd-motion", **few.__dict__, **chosen.__dict__}
    fitted, _ = script.fit(model, setting | {"epochs": 1}, training, validation, None, tmp_path / "out.jsonl")
    assert fitted.channels == (32, 64, 128, 256)
    assert all(parameter.isfinite().all() for parameter in fitted.parameters())
    moved = script.build("ssm-skd-motion", chosen, few)
    moved.build(fitted.frame_, None, 0)
    weights = dict(moved.named_parameters())
    assert all(not torch.equal(weights[name], p) for name, p in fitted.named_parameters() if p.ndim > 1)
    assert fitted.reconstruct(test.clips[:2]).shape == (2, 8, 3, 64, 64)
    # The finished fit is kept, its state is not.
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["out.ssmskd"]


def test_each_scale_has_settings_for_each_model(study: Any) -> None:
    settings = study("disentangle_settings")
    for scale in settings.SCALES:
        for model in settings.MODELS:
            for data in settings.SSM:
                found = settings.settings_of(model, _arguments(settings, scale=scale, data=data))
                assert found.static_dim == (1 if model.startswith("ssm") else 8)
    middle = settings.scale_of(_arguments(settings, scale="middle"))
    assert middle.size == 32
    assert len(middle.items) == 6
    assert middle.characters * 0.85 >= 300  # for training, the rest is for validation
    assert settings.scale_of(_arguments(settings, scale="full", precision="float32")).precision == "float32"


def test_progress_has_the_time_that_remains_also_after_a_kill(
    study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, now = study("disentangle"), [1000.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: now[0])
    progress = script.Progress(seconds=30.0)
    progress("fitting", 100, 200)  # goes on after 100 epochs
    for done in range(101, 104):
        now[0] += 12.0
        progress("fitting | validation 0.1", done, 200)
    assert capsys.readouterr().out == ("fitting: validation 0.1; 101 of 200, 12.0 s each, 20 min left\n")
    now[0] += 600.0
    progress("fitting | validation 0.1", 200, 200)
    assert capsys.readouterr().out.endswith("0 min left\n")


def test_a_judge_at_chance_is_refused_with_its_figure(study: Any) -> None:
    script = study("disentangle")
    labels = {"hair": np.arange(30) % 3, "action": np.arange(30) % 2}
    good, bad = Estimate(0.99, 0.95, 1.0), Estimate(0.4, 0.3, 0.5)
    script.refuse_chance({"hair": good, "action": good}, labels)
    with pytest.raises(
        SystemExit, match=r"judge of hair is right in 0\.400 .*most frequent class has 0\.333"
    ):
        script.refuse_chance({"hair": bad, "action": good}, labels)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data", "air"], "needs --air FOLDER"),
        (["--data", "melodies", "--model", "ssm-skd-motion"], "is none for --data melodies"),
        (["--data", "sprites", "--model", "components"], "is none for --data sprites"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    flags: list[str], reason: str, study: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    settings = study("disentangle_settings")
    monkeypatch.setattr(sys, "argv", ["disentangle.py", *flags])
    with pytest.raises(SystemExit):
        settings.read_arguments("")
    assert reason in capsys.readouterr().err


def test_models_that_know_no_dynamics_are_split_by_time(study: Any) -> None:
    vectors = study("disentangle_vectors")
    x = np.random.default_rng(0).standard_normal((20, 5, 4)).astype("float32")
    model = vectors.OverTime(vectors.Components(x, 10))  # no more components than the width
    found = model.factors(x)
    assert isinstance(found, Factors)
    assert model.decode(found.latents) == pytest.approx(x, abs=1e-5)
    assert found.static == pytest.approx(np.repeat(found.static[:, :1], 5, axis=1))
    assert found.dynamic.mean(axis=1) == pytest.approx(0, abs=1e-6)
    assert vectors.codes(found)[:, 4:] == pytest.approx(0, abs=1e-6)


def _arguments(settings: Any, **given: Any) -> Any:
    """Parsed flags: those of a scale, and what replaces its values."""
    import argparse
    from dataclasses import fields

    names = [field.name for field in (*fields(settings.Scale), *fields(settings.Settings))]
    return argparse.Namespace(**{"scale": "cpu", "data": "sprites"} | dict.fromkeys(names) | given)
