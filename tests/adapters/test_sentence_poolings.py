"""Poolings and prompts of sentence-transformers' folders, compared with its own encode."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing import Tokens
from repdyn_adapters.transformers_inputs import sentence_settings

MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
RNG = np.random.default_rng(0)
VALUES = torch.from_numpy(RNG.normal(size=(3, 7, 4)).astype(np.float32))
MASK = torch.arange(7) < torch.tensor([[7], [4], [1]])


def settings(tmp_path, pooling, general=None):
    (tmp_path / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if general is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(general))
    return sentence_settings(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["name", "flags"])
@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean")])
def test_poolings_are_those_of_sentence_transformers(mode, form, tmp_path):
    from sentence_transformers.models import Pooling

    flags = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
    modes = [mode] if isinstance(mode, str) else list(mode)
    theirs = Pooling(4, "+".join(modes).replace("+", "+")) if len(modes) == 1 else Pooling(4, modes)
    given = (
        {"pooling_mode": mode if isinstance(mode, str) else list(mode)}
        if form == "name"
        else {f"pooling_mode_{flags.get(one, one)}": True for one in modes}
    )
    pooling = settings(tmp_path, given)["pooling"]
    pooling = repdyn.tracing.pooling.find_pooling(pooling)
    own = theirs({"token_embeddings": VALUES.clone(), "attention_mask": MASK.long()})["sentence_embedding"]
    torch.testing.assert_close(pooling(Tokens(VALUES, MASK)), own)


def test_an_unknown_pooling_is_refused(tmp_path):
    with pytest.raises(RepdynError, match="sets pooling newest; expected one of"):
        settings(tmp_path, {"pooling_mode": "newest"})


def test_the_default_prompt_is_found(tmp_path):
    general = {"prompts": {"query": "query: ", "": ""}, "default_prompt_name": "query"}
    assert settings(tmp_path, {"pooling_mode": "cls"}, general)["prompt"] == "query: "
    general["default_prompt_name"] = None
    assert "prompt" not in settings(tmp_path, {"pooling_mode": "cls"}, general)
