"""``repdyn disentangle fit`` from a store to figures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import repdyn
from repdyn.cli.app import app
from repdyn.disentangle import SKD, DepthFactors
from repdyn.paths import RepresentationPaths


def test_fit_writes_a_model_and_its_figures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((60, 4)).astype(np.float32)
    paths = RepresentationPaths.from_arrays({"a": x, "b": x * 0.9, "c": x * 0.8}, labels=(x[:, 0] > 0) * 1)
    paths.save(tmp_path / "a.paths")
    out, figures = tmp_path / "a.skd", tmp_path / "f.json"
    arguments = ["disentangle", "fit", str(tmp_path / "a.paths"), "--out", str(out), "--json", str(figures)]
    small = ["--latent-dim", "3", "--static-dim", "1", "--hidden", "6", "--epochs", "2"]
    done = CliRunner().invoke(app, [*arguments, *small])
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())["disentangle"]
    assert found["points"] == ["a", "b", "c"]
    assert SKD.from_pretrained(out).latent_dim == 3
    assert DepthFactors.load(out / "depth").to_dict() == found
    assert found["swaps"] is None
    page = tmp_path / "r.html"
    drawn = CliRunner().invoke(app, ["report", str(out), "--out", str(page)])
    assert drawn.exit_code == 0, drawn.output
    assert "<h2>Static and dynamic factors through depth" in page.read_text()


def test_swaps_are_judged_by_the_models_own_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    x = 3 * generator.standard_normal((240, 2)).astype(np.float32)
    paths = RepresentationPaths.from_arrays({"a": x, "b": x, "c": x}, labels=(x[:, 0] > 0) * 1)
    paths.save(tmp_path / "a.paths")
    signs = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    model = SimpleNamespace(head=lambda z: z @ signs, final="c", device="cpu")
    monkeypatch.setattr(repdyn, "load", lambda name, device=None: model)
    out = tmp_path / "a.skd"
    call = ["disentangle", "fit", str(tmp_path / "a.paths"), "--out", str(out), "--head", "timm:mine"]
    small = ["--latent-dim", "3", "--static-dim", "3", "--hidden", "32", "--epochs", "60"]
    done = CliRunner().invoke(app, [*call, *small])
    assert done.exit_code == 0, done.output
    swaps = DepthFactors.load(out / "depth").swaps
    assert swaps is not None
    # All of three latents are static: what is exchanged is the whole input.
    assert swaps["spectral"]["donor"].value > 0.9
    model.final = "pooled"
    refused = CliRunner().invoke(app, [*call, *small])
    assert "its head reads 'pooled'" in str(refused.exception)
    model.head = None
    assert "has no head" in str(CliRunner().invoke(app, [*call, *small]).exception)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    RepresentationPaths.from_arrays({"a": x, "b": x}).save(tmp_path / "a.paths")
    call = ["disentangle", "fit", str(tmp_path / "a.paths"), "--out", str(tmp_path / "o")]
    for extra in (["--model", "sdk"], []):
        done = CliRunner().invoke(app, [*call, *extra])
        assert done.exit_code != 0
        assert not (tmp_path / "o").exists()
