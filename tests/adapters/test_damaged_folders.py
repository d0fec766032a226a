"""Model folders that are truncated, pickled or odd: one line and status 2, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import repdyn
from repdyn.errors import RepdynError

WEIGHTS = "model.safetensors"


class Evil:
    """What a pickle may do to whoever loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=30, **sizes)).save_pretrained(root / "model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab_file=str(root / "vocab.txt")).save_pretrained(root / "model")
    return root / "model"


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def config(**changed: object) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        known = json.loads((folder / "config.json").read_text())
        return (folder / "config.json").write_text(json.dumps({**known, **changed}))

    return change


def only(name: str, content: bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        (folder / WEIGHTS).unlink()
        return (folder / name).write_bytes(content)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "header cut": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100]),
    "end cut": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-50]),
    "empty": lambda f: (f / WEIGHTS).write_bytes(b""),
    "missing": lambda f: (f / WEIGHTS).unlink(),
    "pickle called safetensors": lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Evil(f / "ran"))),
    "pickle": lambda f: only("pytorch_model.bin", pickle.dumps(Evil(f / "ran")))(f),
    "torch's pickle": lambda f: (
        (f / WEIGHTS).unlink(),
        torch.save({"a": Evil(f / "ran")}, f / "pytorch_model.bin"),
    ),
    "garbage": only("pytorch_model.bin", b"garbage"),
    "nothing": only("pytorch_model.bin", b""),
    "config is a list": lambda f: (f / "config.json").write_text("[]"),
    "config is empty": lambda f: (f / "config.json").write_text(""),
    "config is nested": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config is no text": lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"),
    "width is a word": config(hidden_size="x"),
    "width is negative": config(hidden_size=-8),
    "width is another": config(hidden_size=16),
    "heads do not divide": config(num_attention_heads=3),
    "no number of layers": config(num_hidden_layers=None),
    "unknown model": config(model_type="nonsense"),
    "unknown activation": config(hidden_act="nonsense"),
    "foreign code": config(auto_map={"AutoModel": "evil.Evil"}, model_type="evil"),
    "index is cut": only("model.safetensors.index.json", b"{"),
    "pooling is cut": lambda f: ((f / "1_Pooling").mkdir(), (f / "1_Pooling/config.json").write_text("{")),
    "pooling is a list": lambda f: (
        (f / "1_Pooling").mkdir(),
        (f / "1_Pooling/config.json").write_text("[]"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(RepdynError) as told:
        repdyn.load(f"hf:{folder}")
    assert "\n" not in str(told.value)
    assert str(folder) in str(told.value)
    assert "weights_only" not in str(told.value)  # torch's advice to load it all the same
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_damaged_tokenizer_is_told_where_texts_are_given(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(RepdynError, match=r"no tokenizer beside .* that can be read"):
        repdyn.trace(repdyn.load(f"hf:{folder}"), ["abc", "de"])


def test_names_of_classes_that_are_none_change_nothing(folder):
    expected = repdyn.trace(repdyn.load(f"hf:{folder}"), ["abc", "de"])
    for odd in (3, [], [7], ["NoSuch"]):
        config(architectures=odd)(folder)
        found = repdyn.trace(repdyn.load(f"hf:{folder}"), ["abc", "de"])
        assert found[found.points[-1]] == pytest.approx(expected[expected.points[-1]])


def test_damaged_prompts_are_not_used(folder):
    expected = repdyn.trace(repdyn.load(f"hf:{folder}"), ["abc", "de"])
    for odd in ('{"prompts": 3}', '{"prompts": {"q": "ab"}, "default_prompt_name": ["q"]}'):
        (folder / "config_sentence_transformers.json").write_text(odd)
        found = repdyn.trace(repdyn.load(f"hf:{folder}"), ["abc", "de"])
        np.testing.assert_array_equal(found[found.points[-1]], expected[expected.points[-1]])
