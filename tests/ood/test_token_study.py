"""Parts of the study of the token monitor, against what they stand for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from repdyn.ood import GenerationMonitor
from repdyn.tracing.registry import traced

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmarks, and forgets all of them after the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [file.stem for file in FOLDER.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=10, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return traced(LlamaForCausalLM(config).eval())


def sequences(count: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 60, generator.integers(4, 14)).tolist() for _ in range(count)]


def test_states_of_tokens_are_those_of_each_text_alone(bench: Any, model: Any, tmp_path: Path) -> None:
    texts = sequences(20, 0)
    states = bench("ood_token_states").read(model, texts, tmp_path / "a.npz")
    begun = np.cumsum(states["count"] - 1)[:-1]
    place = [int(name.rpartition(".")[2]) + 1 for name in GenerationMonitor(model).points]
    for k, ids in enumerate(texts):
        with torch.no_grad():
            alone = model.weights(torch.tensor([ids]), output_hidden_states=True)
        hidden = torch.stack(alone.hidden_states)[:, 0]
        chance = alone.logits[0].log_softmax(dim=-1)
        expected = [-chance[t, ids[t + 1]].item() for t in range(len(ids) - 1)]
        assert np.split(states["ids"], begun)[k].tolist() == ids[1:]
        np.testing.assert_allclose(np.split(states["nll"], begun)[k], expected, rtol=1e-4)
        tokens = np.split(states["tok"], begun)[k]
        np.testing.assert_allclose(tokens[:, 0], hidden[place[0], 1:], atol=2e-3)
        np.testing.assert_allclose(states["last"][k], hidden[1:, -1], atol=1e-4)
        np.testing.assert_allclose(states["mean"][k], hidden[1:, 1:].mean(dim=1), atol=1e-4)


def test_a_batch_padded_on_the_left_generates_what_each_prompt_does(bench: Any, model: Any) -> None:
    prompts = [ids for ids in sequences(12, 1) if len(ids) != 9]
    inputs = bench("ood_token_states").padded_left(model, prompts)
    together = model.weights.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    for row, ids in zip(together, prompts, strict=True):
        alone = model.weights.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)).long(),
            max_new_tokens=5,
            min_new_tokens=5,
            do_sample=False,
        )
        assert row[-len(ids) - 5 :].tolist() == alone[0].tolist()


def test_answers_are_those_of_generate(bench: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backdoor, texts = bench("ood_backdoor"), sequences(24, 2)

    def generated(ids: list[int]) -> list[int]:
        given = torch.tensor([ids])
        return model.weights.generate(given, max_new_tokens=4, min_new_tokens=4, do_sample=False)[
            0, -4:
        ].tolist()

    found = [generated(ids) for ids in texts]
    for answer in found[:3]:
        monkeypatch.setattr(backdoor, "ANSWER", [*answer, 7])
        assert backdoor.answers(model, texts) == np.mean([own == answer for own in found])


def test_a_window_that_is_lowest_and_shorter_texts(bench: Any) -> None:
    lowest = bench("ood_generation").lowest
    values = np.array([0.0, 0, 5, -4, -6, 1, 0])
    assert lowest(values, 2) == -5
    assert lowest(values, 8) == pytest.approx(values.mean())


def test_a_part_is_taken_from_all_over_a_list(bench: Any) -> None:
    spread = bench("ood_generation").spread
    assert spread([*"aaabbbccc"], 3) == [*"abc"]
    assert spread(np.arange(10), 5).tolist() == [0, 2, 4, 6, 8]


def test_frequencies_of_tokens_know_absent_ones(bench: Any) -> None:
    score = bench("ood_generation")._frequencies(np.array([3, 3, 3, 5]))
    np.testing.assert_allclose(np.exp(score(np.array([3, 5, 4, 900]))), [3 / 4, 1 / 4, 1 / 8, 1 / 8])


def test_repaired_texts_end_as_usual_ones_and_hold_the_same_words(bench: Any) -> None:
    texts = bench("ood_token_texts")
    generator = np.random.default_rng(0)
    text = "Two men are playing chess in a park."
    changed = texts._shuffled(text, generator)
    assert changed != text
    assert changed[-1] == "."
    assert changed[0].isupper()
    assert sorted(changed[:-1].lower().split()) == sorted(text[:-1].lower().split())
    assert texts._sentence("what is my balance") == "What is my balance?"
    assert texts._sentence("set an alarm") == "Set an alarm."
    parts = texts.inserted(["a", "b", "c", "d", "e"], ["X", "Y", "Z"], generator)
    assert [part[1] for part in parts] == ["X", "Y"]
    assert len({host for part in parts for host in part[::2]}) == 4


def test_texts_continued_together_have_the_eigen_scores_that_they_have_alone(
    bench: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals, texts = bench("ood_token_rivals"), sequences(5, 3)
    monkeypatch.setattr(rivals, "TOP_K", 1)  # all answers are the greedy one
    together = rivals.eigen_scores(model, texts)
    monkeypatch.setattr(rivals, "TOGETHER", 1)
    np.testing.assert_allclose(together, rivals.eigen_scores(model, texts), rtol=1e-3)
    for ids, found in zip(texts, together, strict=True):
        given = torch.tensor([ids])
        whole = model.weights.generate(given, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        with torch.no_grad():
            hidden = model.weights(whole[:, :-1], output_hidden_states=True).hidden_states
        state = hidden[len(hidden) // 2][0, -1].double().numpy()
        assert found == pytest.approx(-rivals.eigen_score(np.repeat(state[None], 10, axis=0)), rel=1e-3)


def test_one_refused_calibration_text_does_not_flatten_the_others(bench: Any) -> None:
    together = bench("ood_generation").together
    generator = np.random.default_rng(0)
    usual, foreign = generator.normal(size=100), generator.normal(-8, 1, 50)
    clean = together({"calibration": usual, "foreign": foreign})
    broken = together({"calibration": np.append(usual, -5e28), "foreign": foreign})
    np.testing.assert_allclose(clean["foreign"], broken["foreign"])
    both = {"calibration": usual, "foreign": np.append(foreign, -5e28)}
    assert together(both, both)["foreign"][-1] < together(both, both)["foreign"][:-1].min()
    np.testing.assert_allclose(together(both, both, by=np.min)["foreign"], together(both)["foreign"])
