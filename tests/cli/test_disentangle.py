"""``repdyn disentangle fit`` from a store to figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

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


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    RepresentationPaths.from_arrays({"a": x, "b": x}).save(tmp_path / "a.paths")
    call = ["disentangle", "fit", str(tmp_path / "a.paths"), "--out", str(tmp_path / "o")]
    for extra in (["--model", "sdk"], []):
        done = CliRunner().invoke(app, [*call, *extra])
        assert done.exit_code != 0
        assert not (tmp_path / "o").exists()
