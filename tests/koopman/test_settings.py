"""Settings: immutable, every number documented with its study, and checked by a resumed fit."""

from __future__ import annotations

import ast
import inspect
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.koopman import settings
from repdyn.koopman.frames import Lift
from repdyn.koopman.operators import Generator
from repdyn.koopman.training import Plan, Weights, train

CLASSES = [
    settings.AttackSettings,
    settings.ControlSettings,
    settings.EditSettings,
    settings.FitSettings,
    settings.FrameSettings,
    settings.GainSettings,
    settings.PhaseSettings,
    settings.SpectrumSettings,
    settings.Verdicts,
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_number_is_documented_and_immutable(kind: type) -> None:
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    documented = {
        name.target.id
        for name, text in zip(body.body, body.body[1:])
        if isinstance(name, ast.AnnAssign) and isinstance(name.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and text.value.value
    }
    assert documented == {field.name for field in fields(kind)}
    with pytest.raises(FrozenInstanceError):
        setattr(kind(), fields(kind)[0].name, 0)


def test_penalties_are_half_powers_of_ten() -> None:
    penalties = settings.ControlSettings().penalties
    assert len(penalties) == 33
    assert penalties[0] == 1e-12
    assert penalties[-1] == pytest.approx(1e4)
    assert all(b / a == pytest.approx(10**0.5) for a, b in pairwise(penalties))


def test_a_checkpoint_of_other_settings_is_refused_and_one_of_the_defaults_is_not(tmp_path) -> None:
    states = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    held_out = torch.arange(20) < 4

    def fit(given: settings.FitSettings, epochs: int = 2) -> None:
        with torch.random.fork_rng(devices=[]):
            modules = Lift(4, 4, ()), Lift(4, 4, ()), Generator(4, 2)
        train(
            *modules,
            states,
            held_out,
            Weights(),
            Plan(epochs, 8, 1e-3),
            generator=torch.Generator(),
            checkpoint=tmp_path / "fit.safetensors",
            settings=given,
        )

    default = settings.FitSettings()
    fit(default)
    fit(replace(default))
    with pytest.raises(RepdynError, match="other weight_decay"):
        fit(replace(default, weight_decay=0.5))
