"""Settings of the search change what they name; names and files of version 0.1 still work."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.fields import (
    Attractors,
    LatentField,
    SearchSettings,
    SurrogateAutoencoder,
    SurrogateSettings,
    assign_basins,
    find_attractors,
)
from repdyn.fields.settings import TrappingSettings
from repdyn.fields.surrogate import Trial
from repdyn.paths import RepresentationPaths


def two_wells(z: Tensor) -> Tensor:
    """Stable fixed points at -1 and 1, an unstable one at 0."""
    return z + 0.2 * (z - z**3)


@pytest.fixture
def starts() -> Tensor:
    return torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]


def test_the_merge_tolerance_decides_whether_two_points_are_one(starts: Tensor) -> None:
    field = LatentField(two_wells)
    assert len(find_attractors(field, starts)) == 2
    merged = find_attractors(field, starts, settings=SearchSettings(merge_tolerance=5.0))
    assert len(merged) == 1  # the wells are 2 apart, 1.7 scales
    np.testing.assert_allclose(abs(merged.points), [[1.0]], atol=1e-9)


def test_the_sweep_of_merge_tolerances_is_that_of_the_settings(starts: Tensor) -> None:
    attractors = find_attractors(
        LatentField(two_wells), starts, settings=SearchSettings(merge_sweep=(10.0, 0.5))
    )
    assert attractors.counts.tolist() == [[10.0, 1.0], [0.5, 2.0]]


def test_regions_that_are_checked_at_every_step_absorb_earlier() -> None:
    z = torch.linspace(-2, 2, 400, dtype=torch.float64)[:, None]
    steps = []
    for every in (1, 20):
        settings = SearchSettings(trapping=TrappingSettings(check_every=every))
        attractors = find_attractors(LatentField(two_wells), z, solver="trapping", settings=settings)
        assert sorted(attractors.points[:, 0].round(9).tolist()) == [-1.0, 1.0]
        held = attractors.basin >= 0
        np.testing.assert_array_equal(
            np.sign(z.numpy()[held, 0]), np.sign(attractors.points[attractors.basin[held], 0])
        )
        steps.append(attractors.steps.sum())
    assert steps[0] < steps[1]


def test_new_points_are_assigned_within_the_tolerance_of_the_settings(starts: Tensor) -> None:
    field = LatentField(two_wells)
    attractors = find_attractors(field, starts)
    assert (assign_basins(field, attractors, starts) >= 0).all()
    strict = SearchSettings(assign_tolerance=1e-14)
    assert (assign_basins(field, attractors, starts[:2] + 0.01, settings=strict) == -1).all()


def test_the_penalties_of_a_surrogate_are_those_of_its_settings() -> None:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).numpy()
    settings = SurrogateSettings(penalties=(0.2, 0.5), refinements=0, trial_starts=8, trial_steps=20)
    surrogate = SurrogateAutoencoder(2, (8,), epochs=1, settings=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        surrogate.fit(RepresentationPaths.from_arrays({"out": x}), "out")
    assert [trial.penalty for trial in surrogate.sweep_] == [0.2, 0.5]
    assert {trial.starts for trial in surrogate.sweep_} == {8}


FOLDERS = Path(__file__).parents[1] / "data" / "schema1"


def changed(name: str, folder: Path, old: str, new: str) -> Path:
    """A copy of a folder of version 0.1 with another text in its config, whose digest is then left out."""
    shutil.copytree(FOLDERS / name, folder)
    file = folder / "config.json"
    text = file.read_text(encoding="utf-8")
    assert old in text
    document = json.loads(text.replace(old, new))
    document["repdyn"].pop("sha256", None)
    file.write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_statuses_of_version_0_1_load_under_the_present_names(tmp_path: Path) -> None:
    before = Attractors.load(FOLDERS / "attractors").status_counts()
    folder = changed("attractors", tmp_path / "a", '"fixed point"', '"budget spent"')
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    document["attractors"]["kind"] = ["fixed point"] * len(document["attractors"]["kind"])
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    after = Attractors.load(folder).status_counts()
    assert after == {"max_steps reached" if k == "fixed point" else k: n for k, n in before.items()}


def test_a_surrogate_of_version_0_1_has_its_trials_under_the_present_names() -> None:
    text = (FOLDERS / "surrogate" / "config.json").read_text(encoding="utf-8")
    saved = [trial["settled"] for trial in json.loads(text)["surrogate"]["sweep"]]
    assert [t.converged for t in SurrogateAutoencoder.from_pretrained(FOLDERS / "surrogate").sweep_] == saved


def test_old_names_work_with_a_warning() -> None:
    field, z = LatentField(two_wells), torch.zeros(1, 1)
    with pytest.warns(DeprecationWarning, match="on_device"):
        assert torch.equal(field.place(z), z)
    with pytest.warns(DeprecationWarning, match="as_float64"):
        wide = field.double(z)
    assert wide is not None
    assert wide(z.double()).dtype == torch.float64
    trial = Trial(0.1, 0.2, 0.3, 0.75, 0.0, 2, 8, 0.5)
    with pytest.warns(DeprecationWarning, match="converged"):
        assert trial.settled == 0.75
