"""Folders of sentence-transformers: the last point is what encode gives, or a warning says why not."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import repdyn
from repdyn_adapters.shared import quietly

pytestmark = pytest.mark.filterwarnings("ignore")
ORDINARY = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", "query", ":", "hello", "world"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ORDINARY]
TEXTS = ["the cat sat on the mat", "hello world", "the dog ran : the a cat sat on the mat hello world"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformer")
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        config = transformers.BertConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=64)
        transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def saved(transformer, folder, pooling, *further, **options):
    """A folder that sentence-transformers saved, and the vectors that it gives."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts

    with quietly():
        modules = [parts.Transformer(transformer), parts.Pooling(32, **pooling), *further]
        SentenceTransformer(modules=modules, **options).save(str(folder))
        return SentenceTransformer(str(folder)).encode(TEXTS)


def last(folder):
    paths = repdyn.trace(f"hf:{folder}", TEXTS, batch_size=3)
    return np.asarray(paths[paths.points[-1]])


PROMPT = {"prompts": {"query": "query :"}, "default_prompt_name": "query"}


@pytest.mark.parametrize("modes", [("mean", "max"), ("lasttoken", "cls"), ("weightedmean", "mean", "cls")])
def test_poolings_stand_in_the_order_of_their_names(modes, transformer, tmp_path):
    own = saved(transformer, tmp_path, {"pooling_mode": modes})
    np.testing.assert_allclose(last(tmp_path), own, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_the_tokens_of_a_prompt_are_left_out_where_the_folder_says_so(mode, transformer, tmp_path):
    own = saved(transformer, tmp_path, {"pooling_mode": mode, "include_prompt": False}, **PROMPT)
    np.testing.assert_allclose(last(tmp_path), own, atol=1e-5)


def test_a_transformer_in_a_folder_of_its_own(transformer, tmp_path):
    """The layout of the first versions, ``0_Transformer`` and ``1_Pooling``."""
    own = saved(transformer, tmp_path, {"pooling_mode": "cls"})
    (tmp_path / "0_Transformer").mkdir()
    for file in [file for file in tmp_path.iterdir() if file.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            shutil.move(file, tmp_path / "0_Transformer" / file.name)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(last(tmp_path), own, atol=1e-5)


def test_modules_after_the_pooling_are_told(transformer, tmp_path, caplog):
    from sentence_transformers import models as parts

    with torch.random.fork_rng():
        dense = parts.Dense(32, 32)
    own = saved(transformer, tmp_path / "dense", {"pooling_mode": "mean"}, dense)
    with caplog.at_level(logging.WARNING, "repdyn_adapters"):
        found = last(tmp_path / "dense")
    assert np.abs(found - own).max() > 0.1
    assert "is not traced (Dense)" in caplog.text
    caplog.clear()
    own = saved(transformer, tmp_path / "unit", {"pooling_mode": "mean"}, parts.Normalize())
    with caplog.at_level(logging.WARNING, "repdyn_adapters"):
        found = last(tmp_path / "unit")
    assert "not traced" not in caplog.text  # the same direction
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), own, atol=1e-5)


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '[{"path": "../x", "type": "a.Transformer"}]', "[{"])
def test_a_damaged_list_of_modules_is_named(content, transformer, tmp_path):
    shutil.copytree(transformer, tmp_path / "a")
    (tmp_path / "a" / "modules.json").write_text(content)
    with pytest.raises(repdyn.RepdynError, match=r"modules\.json"):
        repdyn.load(f"hf:{tmp_path / 'a'}")


@pytest.mark.parametrize(("kind", "reason"), [("StaticEmbedding", "no layers"), ("Router", "several models")])
def test_a_folder_whose_first_module_is_no_transformer_says_so(kind, reason, tmp_path):
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{kind}"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(repdyn.RepdynError, match=f"first module is a {kind}, .*{reason}"):
        repdyn.load(f"hf:{tmp_path}")
