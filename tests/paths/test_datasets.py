"""Folders of activations that other libraries write become paths.

``tests/data/datasets`` was written by these libraries: ``vectors`` by ``datasets`` 5.2.0; ``saelens_run`` by
SAELens 6.54.12 (``CacheActivationsRunner`` on a small HookedTransformer of TransformerLens 3.9);
``thingsvision`` by THINGSvision 2.7.3 (``extract_features`` and ``save_features`` of a small torch model; its
imports of TensorFlow and torchtyping were replaced by mocks). ``saelens`` has the shards that an interrupted
run of SAELens leaves. vLLM needs a GPU: its files are written here to the layout that its source gives, those
in FP8 by hs-connectors itself.
"""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

import repdyn
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths

DATA = Path(__file__).parents[1] / "data" / "datasets"


def written() -> tuple[np.ndarray, np.ndarray]:
    """What was given to the library: activations of six sequences, and five vectors, not yet reordered."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(6, 4, 3)).astype("float32"), draw.normal(size=(5, 3)).astype("float32")


def test_a_saved_data_set_keeps_rows_ids_and_labels() -> None:
    _, x = written()
    order = [4, 2, 0, 1, 3]
    paths = RepresentationPaths.from_dataset(DATA / "vectors")
    assert paths.points == ("first", "second")
    np.testing.assert_array_equal(paths["first"], x[order])
    np.testing.assert_array_equal(paths["second"], x[order, :2])
    assert paths.ids.tolist() == list("ecabd")
    assert paths.labels is not None
    assert paths.labels.tolist() == [1, 0, 0, 1, 1]
    some = RepresentationPaths.from_dataset(DATA / "vectors", points=["second"], ids="label")
    assert (some.points, some.ids.tolist()) == (("second",), ["1", "0", "0", "1", "1"])


def test_shards_of_saelens_are_joined_in_order_with_their_tokens(tmp_path: Path) -> None:
    acts, _ = written()
    paths = RepresentationPaths.from_dataset(DATA / "saelens")
    assert paths.points == ("blocks.1.hook_mlp_out",)  # tokens' numbers are no vectors
    np.testing.assert_array_equal(np.asarray(paths["blocks.1.hook_mlp_out"]), acts)
    samples = paths.tokens_as_samples()
    np.testing.assert_array_equal(samples["blocks.1.hook_mlp_out"], acts.reshape(-1, 3))
    shutil.copytree(DATA / "saelens" / "shard_1", tmp_path / "shard_10")  # sorted by number, not by name
    shutil.copytree(DATA / "saelens" / "shard_0", tmp_path / "shard_9")
    again = RepresentationPaths.from_dataset(tmp_path)
    np.testing.assert_array_equal(np.asarray(again["blocks.1.hook_mlp_out"]), acts)


class Dataset:
    """Stands in for ``datasets.Dataset``, which is not installed here: an Arrow table when it is indexed."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def with_format(self, kind: str) -> Dataset:
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> Any:
        return self.table


class Matrix(pa.ExtensionType):
    """As ``Array2D`` is where ``datasets`` is imported."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.list_(pa.float32())), "repdyn.tests.matrix")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Matrix:
        return cls()


def test_a_data_set_in_memory_is_read_with_its_extension_types() -> None:
    rows = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    kind = Matrix()
    column = pa.ExtensionArray.from_storage(kind, pa.array(rows, kind.storage_type))
    paths = RepresentationPaths.from_dataset(Dataset(pa.table({"h": column, "label": [0.5, 1.5]})))
    np.testing.assert_array_equal(paths["h"], [[[1, 2], [3, 4]], [[5, 6], [0, 0]]])
    np.testing.assert_array_equal(paths.mask("h"), [[True, True], [True, False]])
    assert paths.labels is None  # numbers with fractions are no labels
    with pytest.raises(RepdynError, match="expected a folder"):
        RepresentationPaths.from_dataset([1, 2])


def test_folders_of_thingsvision(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
    for module, values in {"conv1": x, "fc": x[:, :2]}.items():
        (tmp_path / module).mkdir()
        for start in (0, 2, 10):  # "features_10-12" is before "features_2-10" by name
            stop = {0: 2, 2: 10, 10: 12}[start]
            np.save(tmp_path / module / f"features_{start}-{stop}.npy", values[start:stop])
    (tmp_path / "file_names.txt").write_text("".join(f"{k}.jpg\n" for k in range(12)))
    paths = RepresentationPaths.from_dataset(tmp_path, points=["fc", "conv1"])
    assert paths.points == ("fc", "conv1")
    np.testing.assert_array_equal(paths["conv1"], x)
    assert paths.ids[:2].tolist() == ["0.jpg", "1.jpg"]
    one = RepresentationPaths.from_dataset(tmp_path / "fc")
    np.testing.assert_array_equal(one["fc"], x[:, :2])
    with pytest.raises(RepdynError, match="no module 'fc2'; nearest: 'fc'"):
        RepresentationPaths.from_dataset(tmp_path, points=["fc2"])
    (tmp_path / "file_names.txt").write_text("0.jpg\n")
    with pytest.raises(RepdynError, match="names 1 files for 12 samples"):
        RepresentationPaths.from_dataset(tmp_path)
    np.save(tmp_path / "fc" / "features_0-2.npy", np.zeros((2, 2, 2, 2)))
    with pytest.raises(RepdynError, match="fc: its features cannot be read"):
        RepresentationPaths.from_dataset(tmp_path, points=["fc"])
    np.save(tmp_path / "fc" / "features.npy", np.zeros((12, 2, 2, 2)))
    with pytest.raises(RepdynError, match="flatten_acts=True"):
        RepresentationPaths.from_dataset(tmp_path, points=["fc"])


def test_a_run_of_saelens() -> None:
    """What its runner wrote, against the model's own activations of the same tokens."""
    known = np.load(DATA / "saelens_run.npz")
    paths = RepresentationPaths.from_dataset(DATA / "saelens_run")
    assert paths.points == ("blocks.1.hook_mlp_out",)
    table = pa.concat_tables(
        pa.ipc.open_stream(file.read_bytes()).read_all()
        for file in sorted((DATA / "saelens_run").glob("*.arrow"))
    )
    place = {tuple(tokens): number for number, tokens in enumerate(known["tokens"].tolist())}
    order = [place[tuple(tokens)] for tokens in table["token_ids"].to_pylist()]
    assert sorted(order) == list(range(12))
    np.testing.assert_array_equal(np.asarray(paths["blocks.1.hook_mlp_out"]), known["acts"][order])


def test_runs_of_thingsvision() -> None:
    """In memory and saved at once, and several modules saved batch by batch, in its own numbering."""
    folder = DATA / "thingsvision"
    saved = RepresentationPaths.from_dataset(folder / "features")
    assert saved.points == ("features",)
    assert saved.ids.tolist() == [f"p{k}.png" for k in range(7)]
    np.testing.assert_array_equal(saved["features"], np.load(folder / "fc.npy"))
    many = RepresentationPaths.from_dataset(folder / "many", points=["conv", "fc"])
    for name in ("conv", "fc"):
        np.testing.assert_array_equal(many[name], np.load(folder / f"{name}.npy"))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RepdynError, match="cannot be read"):
        RepresentationPaths.from_dataset(tmp_path)
    (tmp_path / "features.npy").rename(tmp_path / "features.pt")
    with pytest.raises(RepdynError, match="pickled features"):
        RepresentationPaths.from_dataset(tmp_path)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_requests_of_vllm(tmp_path: Path, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = {n: torch.randn(length, 2, 5, generator=generator).to(kind) for n, length in ((9, 3), (10, 4))}
    for number, own in states.items():
        tensors = {"hidden_states": own, "token_ids": torch.arange(len(own))}
        save_file(tensors, tmp_path / f"cmpl-{number}.safetensors")
        (tmp_path / f"cmpl-{number}.safetensors.lock").touch()
    paths = RepresentationPaths.from_dataset(tmp_path, points=["layers.7", "layers.15"])
    assert paths.ids.tolist() == ["cmpl-9", "cmpl-10"]
    for layer, point in enumerate(paths.points):
        np.testing.assert_array_equal(np.asarray(paths[point])[0, :3], states[9][:, layer].float().numpy())
        np.testing.assert_array_equal(np.asarray(paths[point])[1], states[10][:, layer].float().numpy())
        np.testing.assert_array_equal(paths.mask(point).sum(axis=1), [3, 4])
    paths.save(tmp_path / "served.paths")
    stored = repdyn.open_paths(tmp_path / "served.paths")
    np.testing.assert_array_equal(np.asarray(stored["layers.7"]), np.asarray(paths["layers.7"]))
    assert RepresentationPaths.from_dataset(tmp_path).points == ("hidden_states.0", "hidden_states.1")
    with pytest.raises(RepdynError, match="1 names for the 2 layers"):
        RepresentationPaths.from_dataset(tmp_path, points=["layers.7"])


def test_files_of_hs_connectors_in_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer runs here: vLLM, which calls it on a GPU, is replaced by an empty base class."""
    pytest.importorskip("hs_connectors", reason="pip install hs-connectors")
    name = "vllm.distributed.kv_transfer.kv_connector.v1"
    parts = [name.rsplit(".", k)[0] for k in range(name.count("."), -1, -1)]
    for part in (*parts, f"{name}.example_hidden_states_connector"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    base = sys.modules[f"{name}.example_hidden_states_connector"]
    base.ExampleHiddenStatesConnector = object  # type: ignore[attr-defined]
    sys.modules[name].example_hidden_states_connector = base  # type: ignore[attr-defined]
    from hs_connectors.fp8_hidden_states_connector import FP8HiddenStatesConnector
    from hs_connectors.transfer import FP8Transfer

    generator = torch.Generator().manual_seed(0)
    states = [10**k * torch.randn(length, 3, 8, generator=generator) for k, length in enumerate((4, 2, 5))]
    for number, own in enumerate(states):
        tensors = {"hidden_states": own.to(torch.bfloat16), "token_ids": torch.arange(len(own))}
        event = types.SimpleNamespace(synchronize=lambda: None)
        file = str(tmp_path / f"hs_{number}.safetensors")
        FP8HiddenStatesConnector._write_tensors(tensors, event, file, None)
    paths = RepresentationPaths.from_dataset(tmp_path)
    assert paths.ids.tolist() == ["hs_0", "hs_1", "hs_2"]
    reader = FP8Transfer(tmp_path, torch.float32)
    for number, own in enumerate(states):
        read = np.stack([np.asarray(paths[point])[number, : len(own)] for point in paths.points], axis=1)
        np.testing.assert_array_equal(read, reader.get_cached(number)["hidden_states"].numpy())
        assert np.abs(read - own.numpy()).max() < 0.05 * own.abs().max()  # float8 has three bits
    save_file(
        {"hidden_states": states[0], "hidden_states_scales": torch.ones(3)}, tmp_path / "hs_0.safetensors"
    )
    with pytest.raises(RepdynError, match=r"hs_0.safetensors: has 3 scales for 4 tokens"):
        RepresentationPaths.from_dataset(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": torch.zeros(2)}, "has no tensor 'hidden_states'"),
        ({"hidden_states": torch.zeros(3, 2, 4)}, "2 layers of width 4, a-1.safetensors has 2 of 5"),
        ({"hidden_states": torch.zeros(3, 2, 5), "token_ids": torch.zeros(2)}, "for 2 tokens"),
    ],
)
def test_requests_that_do_not_fit_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    save_file({"hidden_states": torch.zeros(2, 2, 5)}, tmp_path / "a-1.safetensors")
    save_file(tensors, tmp_path / "a-2.safetensors")
    with pytest.raises(RepdynError, match=message):
        RepresentationPaths.from_dataset(tmp_path)


def test_what_is_damaged_or_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match="no such folder"):
        RepresentationPaths.from_dataset(tmp_path / "none")
    with pytest.raises(RepdynError, match="is no folder of"):
        RepresentationPaths.from_dataset(tmp_path)
    shutil.copytree(DATA / "vectors", tmp_path / "cut")
    file = tmp_path / "cut" / "data-00000-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(RepdynError, match=r"data-00000-of-00002\.arrow: is not a readable Arrow file"):
        RepresentationPaths.from_dataset(tmp_path / "cut")
    state = tmp_path / "cut" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(RepdynError, match="outside of the folder"):
        RepresentationPaths.from_dataset(tmp_path / "cut")
    state.write_text("{")
    with pytest.raises(RepdynError, match="is damaged"):
        RepresentationPaths.from_dataset(tmp_path / "cut")
    with pytest.raises(RepdynError, match="no column 'third'; nearest: 'id'"):
        RepresentationPaths.from_dataset(DATA / "vectors", points=["third"])
    (tmp_path / "save.safetensors").write_bytes(b"not yet")
    with pytest.raises(RepdynError, match="is it being written"):
        RepresentationPaths.from_dataset(tmp_path)
