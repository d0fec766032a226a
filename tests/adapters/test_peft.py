"""Models with adapters of PEFT are read as they run: the oracle is the wrapped model's own forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import repdyn
from repdyn.errors import RepdynError
from tests.tiny_models import WORDS, tiny_bert, tiny_llama

peft = pytest.importorskip("peft", reason="pip install peft")

# PEFT 0.21 asks transformers 5.24 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LENGTHS = np.array([7, 4, 7, 2, 5, 7])
IDS = np.random.default_rng(0).integers(1, WORDS, (6, 7)) * (np.arange(7) < LENGTHS[:, None])
TEXTS = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor((IDS > 0).astype(int))}
LAST = (np.arange(6), LENGTHS - 1)


def trained(model: Any, seed: int = 1) -> Any:
    """A model whose adapters differ from zero, where PEFT starts them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.add_(0.3 * torch.randn(weights.shape, generator=generator))
    return model.eval()


def causal() -> Any:
    return tiny_llama(3)


def classifier(family: str) -> Any:
    """A classifier of three classes: ``Llama`` scores the last token, ``Bert`` the class token."""
    import transformers

    own = {"num_key_value_heads": 2} if family == "Llama" else {}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_attention_heads=2, pad_token_id=0,
        num_hidden_layers=3, num_labels=3, **own,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


def low_rank(task: str | None = None, **options: Any) -> Any:
    return peft.LoraConfig(r=4, task_type=task, **options)


def own_states(model: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Outputs of the blocks before the last, and the logits, of a forward pass of the wrapped model."""
    with torch.no_grad():
        output = model(**TEXTS, output_hidden_states=True)
    return [state.numpy() for state in output.hidden_states[1:-1]], output.logits.numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True, "target_modules": "all-linear"},
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"trainable_token_indices": [3, 4]},
    ],
    ids=["low rank", "dora", "on the head", "own embeddings and head", "own tokens"],
)
def test_a_causal_model_is_read_with_its_adapters(options) -> None:
    model = trained(peft.get_peft_model(causal(), low_rank("CAUSAL_LM", **options)))
    states, logits = own_states(model)
    paths = repdyn.trace(model, TEXTS)
    assert paths.points == ("layers.0", "layers.1", "layers.2", "last_hidden_state")
    for point, state in zip(paths.points, states):
        np.testing.assert_allclose(paths[point], state[LAST], atol=1e-6)
    np.testing.assert_allclose(paths.logits, logits[LAST], atol=1e-5)
    bare = repdyn.trace(causal(), TEXTS)
    assert np.abs(np.asarray(bare["layers.1"]) - np.asarray(paths["layers.1"])).max() > 1e-4


def test_several_kinds_of_adapters_in_one_model() -> None:
    model = peft.get_peft_model(causal(), low_rank("CAUSAL_LM"), mixed=True)
    model.add_adapter("other", peft.LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False))
    model.set_adapter(["default", "other"])
    states, logits = own_states(trained(model))
    paths = repdyn.trace(model, TEXTS)
    for point, state in zip(paths.points, states):
        np.testing.assert_allclose(paths[point], state[LAST], atol=1e-6)
    np.testing.assert_allclose(paths.logits, logits[LAST], atol=1e-5)


def check_classifier(model: Any, family: str) -> None:
    states, logits = own_states(model)
    paths = repdyn.trace(model, TEXTS)
    for point, state in zip(paths.points, states):
        expected = state[LAST] if family == "Llama" else state[:, 0]
        np.testing.assert_allclose(paths[point], expected, atol=1e-6, err_msg=point)
    np.testing.assert_allclose(paths.logits, logits, atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "Bert", "Roberta"])
@pytest.mark.parametrize("head", ["own", "adapter"])
def test_a_classifier_has_the_head_that_was_trained(family: str, head: str) -> None:
    """PEFT trains a copy of the head of a classifier, or puts an adapter around it."""
    name = "score" if family == "Llama" else "classifier.out_proj" if family == "Roberta" else "classifier"
    targets = ["q_proj" if family == "Llama" else "query"]
    options = low_rank("SEQ_CLS") if head == "own" else low_rank(target_modules=[*targets, name])
    check_classifier(trained(peft.get_peft_model(classifier(family), options)), family)


@pytest.mark.parametrize("family", ["Llama", "Bert"])
def test_the_active_one_of_two_adapters_is_read(family: str) -> None:
    model = trained(peft.get_peft_model(classifier(family), low_rank("SEQ_CLS")))
    model.add_adapter("other", low_rank("SEQ_CLS"))
    for active, seed in (("other", 2), ("default", 3)):
        model.set_adapter(active)
        check_classifier(trained(model, seed), family)
    with model.disable_adapter():
        check_classifier(model, family)


def test_an_encoder_and_its_merged_copy_have_the_same_paths() -> None:
    model = trained(peft.get_peft_model(tiny_bert(3), low_rank(target_modules=["query", "value"])))
    paths = repdyn.trace(model, TEXTS)
    merged = repdyn.trace(model.merge_and_unload(), TEXTS)
    assert paths.points == merged.points
    for point in paths.points:
        np.testing.assert_allclose(paths[point], merged[point], atol=1e-5)


def test_a_folder_of_adapter_weights(tmp_path) -> None:
    causal().save_pretrained(tmp_path / "base")
    base = type(causal()).from_pretrained(tmp_path / "base")
    model = trained(peft.get_peft_model(base, low_rank("CAUSAL_LM")))
    model.save_pretrained(tmp_path / "adapter")
    paths, expected = repdyn.trace(f"hf:{tmp_path / 'adapter'}", TEXTS), repdyn.trace(model, TEXTS)
    assert paths.points == expected.points
    for point in paths.points:
        np.testing.assert_array_equal(paths[point], expected[point])
    np.testing.assert_array_equal(paths.logits, expected.logits)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_learned_prompts_are_refused(kind: str) -> None:
    model = peft.get_peft_model(causal(), getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(RepdynError, match="learned prompts cannot be traced"):
        repdyn.trace(model, TEXTS)
