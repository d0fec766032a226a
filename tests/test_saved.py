"""Any saved folder opens by one function, and those of version 0.1 hold the figures that they held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repdyn
from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.ood import MahalanobisDetector, PathDetector
from repdyn.ood.detector import Detector
from repdyn.paths import RepresentationPaths
from repdyn.results import plain

# One folder of each kind, written by version 0.1 (`kinds` of benchmarks/mutations.py), and what they held.
FOLDERS = Path(__file__).parent / "data" / "schema1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDERS / "expected.json").read_text())
RENAMED: dict[str, dict[str, Any]] = {"drift": {"verdict": "no drift found"}}
"""Words of verdicts that changed since, by folder."""


def labelled(count: int, seed: int) -> RepresentationPaths:
    """The paths whose scores were recorded."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((count, 4)) + 1
    return RepresentationPaths.from_arrays(
        {"a": x, "b": 0.9 * x, "c": 0.8 * x}, labels=y, logits=x[:, :3], meta={"model": "m", "digest": "d"}
    )


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """All that was recorded is there; keys that were added since do not matter."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for one, other in zip(found, expected):
            assert_same(one, other, where)
    elif isinstance(expected, float) and isinstance(found, float):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9, err_msg=where)
    elif found != found:  # the record has null for what is not a number
        assert expected is None, where
    else:
        assert found == expected, where


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_folder_of_version_01_gives_what_it_gave(name: str) -> None:
    found = repdyn.load_result(FOLDERS / name)
    if isinstance(found, Detector):
        np.testing.assert_allclose(found.score_samples(labelled(20, 1)), EXPECTED[name]["scores"], rtol=1e-5)
    elif "figures" in EXPECTED[name]:
        assert_same(plain(found.to_dict()), {**EXPECTED[name]["figures"], **RENAMED.get(name, {})})


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_folder_that_is_saved_anew_gives_the_same(name: str, tmp_path: Path) -> None:
    found = repdyn.load_result(FOLDERS / name)
    save = found.save_pretrained if hasattr(found, "save_pretrained") else found.save
    save(tmp_path / "again")
    again = repdyn.load_result(tmp_path / "again")
    assert type(again) is type(found)
    if isinstance(found, Detector):
        paths = labelled(20, 1)
        np.testing.assert_array_equal(found.score_samples(paths), again.score_samples(paths))
    elif hasattr(found, "to_dict"):
        assert repr(plain(again.to_dict())) == repr(plain(found.to_dict()))
        assert repr(again) == repr(found)


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    save_artifact(tmp_path / "x", "horoscope", {}, {"a": np.zeros(1)})
    with pytest.raises(RepdynError, match="holds a 'horoscope', which is none of"):
        repdyn.load_result(tmp_path / "x")


def test_a_class_refuses_the_folder_of_another(tmp_path: Path) -> None:
    assert load_artifact(FOLDERS / "mahalanobis").schema == 1
    assert isinstance(repdyn.load_result(FOLDERS / "mahalanobis"), MahalanobisDetector)
    with pytest.raises(RepdynError):
        PathDetector.load(FOLDERS / "tree")
