from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from repdyn import RepresentationPaths, artifacts, open_paths
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


def test_a_result_that_another_process_is_replacing_is_not_called_foreign(tmp_path, monkeypatch):
    save_artifact(tmp_path / "x", "tree", {"k": 1}, {"a": np.zeros(1)})
    read, looks = artifacts._document, []

    def gone_at_first(folder):
        looks.append(folder)
        return None if len(looks) < 3 else read(folder)

    monkeypatch.setattr(artifacts, "_document", gone_at_first)
    save_artifact(tmp_path / "x", "tree", {"k": 2}, {"a": np.zeros(1)})
    assert load_artifact(tmp_path / "x").config == {"k": 2}


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


def test_config_is_json_without_bare_nan_and_gives_back_what_is_not_finite(tmp_path):
    config = {"loss": [1.0, float("nan")], "at": {"low": float("-inf"), "high": float("inf")}, "odd": "nan"}
    save_artifact(tmp_path / "x", "tree", config, {"a": np.zeros(1)})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads((tmp_path / "x" / "config.json").read_text(), parse_constant=refuse)  # as strict readers do
    found = load_artifact(tmp_path / "x").config
    assert np.isnan(found["loss"][1])
    assert found["at"] == config["at"]
    assert found["odd"] == "nan"


def test_bare_nan_of_earlier_versions_is_still_read(tmp_path):
    save_artifact(tmp_path / "x", "tree", {"k": 1}, {"a": np.zeros(1)})
    config = tmp_path / "x" / "config.json"
    document = json.loads(config.read_text())
    del document["repdyn"]["sha256"]  # which they do not have either
    config.write_text(json.dumps(document).replace('"k": 1', '"k": NaN'))
    assert np.isnan(load_artifact(tmp_path / "x").config["k"])


def test_deeply_nested_json_is_no_result(tmp_path):
    save_artifact(tmp_path / "x", "tree", {}, {"a": np.zeros(1)})
    (tmp_path / "x" / "config.json").write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(RepdynError, match="not a repdyn result"):
        load_artifact(tmp_path / "x")


def test_a_class_that_reads_contents_of_a_wrong_form_says_so_in_one_line(tmp_path):
    from repdyn.artifacts import refuses_damage

    class Kept:
        @classmethod
        @refuses_damage
        def load(cls, path: object, key: str = "k") -> int:
            return int(load_artifact(path).config[key]["inner"])

    save_artifact(tmp_path / "x", "tree", {"k": 3}, {"a": np.zeros(1)})
    for key in ("k", "absent"):
        with pytest.raises(RepdynError, match="the saved Kept is damaged") as told:
            Kept.load(tmp_path / "x", key=key)
        assert "\n" not in str(told.value)
    with pytest.raises(RepdynError, match="no such file"):
        Kept.load(tmp_path / "y")


def test_what_a_user_put_into_a_result_is_never_removed(tmp_path: Path) -> None:
    """Saving exchanged the whole folder: notes, and a store that had been traced into it, were gone."""
    folder = tmp_path / "result"
    save_artifact(folder, "example", {"x": 1}, {})
    save_artifact(folder / "part", "example", {"x": 2}, {})  # such as the fidelity of an autoencoder
    save_artifact(folder, "example", {"x": 3}, {})  # with its parts, that are of the earlier one
    assert not (folder / "part").exists()
    for name in ("notes.txt", "part/notes.txt"):
        save_artifact(folder / "part", "example", {"x": 2}, {})
        (folder / name).write_text("mine")
        with pytest.raises(RepdynError, match=r"holds 'notes.txt'.*move it away"):
            save_artifact(folder, "example", {"x": 4}, {})
        assert (folder / name).read_text() == "mine"
        assert load_artifact(folder).config == {"x": 3}
        (folder / name).unlink()
    paths = RepresentationPaths.from_arrays({"a": np.ones((3, 2))})
    paths.save(folder / "traced.paths")
    with pytest.raises(RepdynError, match=r"holds 'traced.paths'"):
        save_artifact(folder, "example", {"x": 4}, {})
    assert len(open_paths(folder / "traced.paths")) == 3
