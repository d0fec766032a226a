from __future__ import annotations

import json

import numpy as np
import pytest

from repdyn.artifacts import SCHEMA_VERSION, load_artifact, save_artifact
from repdyn.errors import RepdynError


def test_round_trip_keeps_kind_config_and_arrays(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "mask": np.array([True, False])}
    save_artifact(tmp_path / "x.tree", "tree", {"k": 3}, arrays)
    loaded = load_artifact(tmp_path / "x.tree", "tree")
    assert loaded.kind == "tree"
    assert loaded.config == {"k": 3}
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.tensors[name], array)
        assert loaded.tensors[name].dtype == array.dtype


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path):
    for k in (1, 2):
        save_artifact(tmp_path / "x", "tree", {"k": k}, {"a": np.zeros(k)})
    assert load_artifact(tmp_path / "x").config == {"k": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_of_the_users_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(RepdynError, match="not a repdyn result"):
        save_artifact(tmp_path / "precious", "tree", {}, {"a": np.zeros(1)})
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_a_users_folder_with_its_own_config_is_never_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RepdynError, match="not a repdyn result"):
        save_artifact(tmp_path / "model", "tree", {}, {"a": np.zeros(1)})
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"model_type": "bert"}


def test_a_failed_save_leaves_the_earlier_result(tmp_path):
    save_artifact(tmp_path / "x", "tree", {"k": 1}, {"a": np.zeros(1)})
    with pytest.raises(TypeError):
        save_artifact(tmp_path / "x", "tree", {"k": object()}, {"a": np.zeros(1)})
    assert load_artifact(tmp_path / "x").config == {"k": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_wrong_kind_newer_schema_foreign_and_truncated_are_told_apart(tmp_path):
    save_artifact(tmp_path / "x", "tree", {}, {"a": np.zeros(100)})
    with pytest.raises(RepdynError, match="holds a 'tree', expected a 'koopman'"):
        load_artifact(tmp_path / "x", "koopman")
    with pytest.raises(RepdynError, match="no such file"):
        load_artifact(tmp_path / "y")
    weights = tmp_path / "x" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(RepdynError, match="truncated"):
        load_artifact(tmp_path / "x")
    config = tmp_path / "x" / "config.json"
    config.write_text(json.dumps({"repdyn": {"kind": "tree", "schema": SCHEMA_VERSION + 1}}))
    with pytest.raises(RepdynError, match="newer repdyn"):
        load_artifact(tmp_path / "x")
    config.write_text('["not", "ours"]')
    with pytest.raises(RepdynError, match="not a repdyn result"):
        load_artifact(tmp_path / "x")
