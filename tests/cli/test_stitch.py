"""``repdyn stitch``: B's head answers for what A has read, beside its controls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from repdyn.reporting import open_result
from repdyn.translation import LinearTranslation

MODEL = "timm:test_resnet@weights.safetensors"
WORDS = ("stitch", MODEL, "ab.translation", MODEL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet").eval()
    save_file(network.state_dict(), "weights.safetensors")
    width = network.num_features
    LinearTranslation(np.eye(width), np.zeros(width), np.zeros(width), verdict="found").save("ab.translation")
    pictures = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    np.savez("data.npz", x=pictures, y=np.arange(12) % 3)
    return tmp_path


def test_accuracies_stand_beside_controls_and_are_kept_for_the_report(folder, command):
    options = ("--out", "ab.stitching", "--logits", "logits.npy", "--json", "figures.json")
    status, _, told = command(*WORDS, "npz:data.npz#x,y", *options)
    assert status == 0, told
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["accuracy"]["translation"] == figures["accuracy"]["identity"]
    assert figures["accuracy"]["most frequent class"]["value"] == pytest.approx(1 / 3)
    assert figures["verdict"] != "found"  # the identity does as well, by construction
    assert np.load("logits.npy").shape == (12, 1000)
    (entry,) = open_result(folder / "ab.stitching")
    assert entry.section.verdict == figures["verdict"]


def test_without_labels_only_the_logits_are_there_and_nothing_can_be_kept(folder, command):
    status, _, told = command(*WORDS, "npz:data.npz#x", "--logits", "logits.npy")
    assert status == 0, told
    assert np.load("logits.npy").shape == (12, 1000)
    status, _, told = command(*WORDS, "npz:data.npz#x", "--out", "ab.stitching")
    assert (status, "needs DATA with class numbers" in told) == (2, True)
