"""Samples that a model fails with: status 2 and one line, or left out with --skip-bad."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import repdyn
from repdyn.paths import open_paths
from repdyn_adapters.shared import quietly

WORDS = [f"w{number}" for number in range(40)]
SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def of_ids():
    """Reads five token ids below 50."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(20, 6), nn.Linear(6, 3))
    return repdyn.wrap(layers)


def of_rows():
    """Takes rows of four numbers, and gives what is not finite for large ones."""

    class Exponential(nn.Module):
        def forward(self, x):
            return x.exp()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return repdyn.wrap(nn.Sequential(nn.Linear(4, 4), Exponential(), nn.Linear(4, 2)))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A folder of a RoBERTa of 14 positions, whose tokenizer knows of no limit."""
    folder = tmp_path_factory.mktemp("roberta")
    config = transformers.RobertaConfig(**SIZES, intermediate_size=24, max_position_embeddings=14)
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS]
    raw = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        transformers.RobertaModel(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>"
        ).save_pretrained(folder)
    return folder


@pytest.fixture
def models_here(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))


def assert_one_line(found, *words):
    status, _, printed = found
    # A slow run shows its progress first, indented.
    errors = "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("  "))
    assert status == 2, errors
    assert errors.startswith("repdyn: error: "), errors
    assert errors.count("\n") == 1, errors
    for word in words:
        assert word in errors


def save_ids(where, wrong):
    ids = np.random.default_rng(0).integers(0, 50, (70, 5))
    ids[wrong, 2] = 50
    np.savez(where, X=ids)
    return ids


def test_token_ids_out_of_range(command, tmp_path, models_here):
    save_ids(tmp_path / "a.npz", [41])
    found = command(
        "trace", "module:test_bad_samples.of_ids", f"npz:{tmp_path}/a.npz#X", "--out", tmp_path / "a"
    )
    assert_one_line(found, "sample 41", "correct it or leave it out")


@pytest.mark.parametrize("wrong", [[41], [0], [0, 1, 33, 69]])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_token_ids_out_of_range_are_left_out(command, tmp_path, models_here, wrong, batch_size):
    ids = save_ids(tmp_path / "a.npz", wrong)
    typed = ["trace", "module:test_bad_samples.of_ids", f"npz:{tmp_path}/a.npz#X", "--out", tmp_path / "a"]
    typed += ["--skip-bad", "--batch-size", batch_size, "--json", tmp_path / "a.json"]
    status, out, errors = command(*typed)
    assert status == 0, errors
    assert f"{len(wrong)} left out" in out + errors
    good = np.setdiff1d(np.arange(70), wrong)
    paths = open_paths(tmp_path / "a")
    assert paths.ids.tolist() == [str(number) for number in good]
    with torch.no_grad():
        own = of_ids().module(torch.from_numpy(ids[good]))
    np.testing.assert_allclose(np.asarray(paths[paths.points[-1]]), own, rtol=1e-4, atol=1e-6)
    told = json.loads((tmp_path / "a.json").read_text())["trace"]["skipped"]
    assert set(told) == {str(number) for number in wrong} == set(paths.meta["skipped"])
    assert all("index out of range" in reason for reason in told.values())
    # The finished store is found again by the same command.
    assert command(*typed)[0] == 0


def test_values_that_are_not_finite_are_left_out(command, tmp_path, models_here):
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    x[4] *= 1e6
    np.savez(tmp_path / "a.npz", X=x)
    typed = ["trace", "module:test_bad_samples.of_rows", f"npz:{tmp_path}/a.npz#X", "--out", tmp_path / "a"]
    assert_one_line(command(*typed), "not finite", "sample 4")
    status, out, errors = command(*typed, "--skip-bad", "--no-resume")
    assert status == 0, errors
    assert "1 left out" in out + errors
    assert open_paths(tmp_path / "a").ids.tolist() == [str(number) for number in range(9) if number != 4]


def test_what_fails_with_all_samples_is_told_as_before(command, tmp_path, models_here):
    save_ids(tmp_path / "a.npz", list(range(70)))
    typed = ["trace", "module:test_bad_samples.of_ids", f"npz:{tmp_path}/a.npz#X", "--out", tmp_path / "a"]
    assert_one_line(command(*typed, "--skip-bad"), "index out of range")
    save_ids(tmp_path / "a.npz", [3])
    assert_one_line(command(*typed, "--skip-bad", "--point", "nowhere"), "nowhere")


def of_uncut_texts():
    """A RoBERTa of 14 positions whose texts nobody cuts: one number per word."""
    config = transformers.RobertaConfig(**SIZES, intermediate_size=24, max_position_embeddings=14)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.RobertaModel(config).eval()

    def prepare(texts):
        rows = [torch.tensor([5 + int(word[1:]) for word in text.split()]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}

    return dataclasses.replace(repdyn.wrap(module), prepare=prepare, lengths=None)


def save_texts(where):
    texts = [" ".join(WORDS[start : start + 4]) for start in range(20)] + [" ".join(WORDS[:30])]
    where.write_text("text\n" + "\n".join([*texts, "w3 w1"]) + "\n")


def test_a_later_text_that_is_too_long(command, tmp_path, models_here):
    save_texts(tmp_path / "a.csv")
    typed = ["trace", "module:test_bad_samples.of_uncut_texts", f"csv:{tmp_path}/a.csv#text"]
    typed += ["--out", tmp_path / "a"]
    assert_one_line(command(*typed, "--batch-size", 4), "sample 20")
    status, out, errors = command(*typed, "--skip-bad", "--no-resume")
    assert status == 0, errors
    assert "1 left out" in out + errors
    assert open_paths(tmp_path / "a").ids.tolist() == [str(number) for number in range(22) if number != 20]


def test_the_text_of_a_folder_is_cut_to_the_positions_of_its_model(command, tmp_path, roberta):
    save_texts(tmp_path / "a.csv")
    found = command("trace", f"hf:{roberta}", f"csv:{tmp_path}/a.csv#text", "--out", tmp_path / "a")
    assert found[0] == 0, found[2]
    paths = open_paths(tmp_path / "a")
    with torch.no_grad(), quietly():
        module = transformers.RobertaModel.from_pretrained(roberta).eval()
        own = module(torch.arange(5, 17)[None]).last_hidden_state.mean(1)[0]  # 14 less two before the first
    np.testing.assert_allclose(np.asarray(paths[paths.points[-1]])[20], own, rtol=1e-4, atol=1e-5)


def test_none_among_texts(command, tmp_path, roberta):
    rows = [json.dumps({"text": text}) for text in ("w1 w2", None, "w3")]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    typed = ["trace", f"hf:{roberta}", f"jsonl:{tmp_path}/a.jsonl#text", "--out", tmp_path / "a"]
    assert_one_line(command(*typed), "row 1", "NoneType")
    status, out, errors = command(*typed, "--skip-bad")
    assert status == 0, errors
    assert "1 left out" in out + errors
    assert len(open_paths(tmp_path / "a")) == 2


def test_a_lone_surrogate_in_a_file_name(command, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", os.fsdecode(b"b\xff.png")):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    found = command("trace", "timm:test_resnet", f"images:{folder}", "--out", tmp_path / "a")
    assert_one_line(found, "not valid UTF-8", "rename it")


def test_float_labels(command, tmp_path, models_here):
    ids = save_ids(tmp_path / "b.npz", [])
    np.savez(tmp_path / "a.npz", X=ids, Y=np.linspace(0, 1, 70))
    found = command(
        "trace", "module:test_bad_samples.of_ids", f"npz:{tmp_path}/a.npz#X,Y", "--out", tmp_path / "a"
    )
    assert_one_line(found, "labels", "give integers or strings")
    assert not (tmp_path / "a").exists()
