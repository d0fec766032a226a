"""The monitor in a language model's generation, beside a full pass over the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from repdyn.errors import RepdynError
from repdyn.ood import GenerationMonitor, PathDetector, conformal_threshold
from repdyn.tracing.registry import traced

WORDS = 60  # ids 3 to 31 are usual, 32 to 59 foreign


def llama():
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def gpt2():
    config = GPT2Config(
        vocab_size=WORDS, n_positions=128, n_embd=16, n_layer=4, n_head=2, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


def sequences(count, seed, low=3, high=32, length=None):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(6, 20, count) if length is None else [length] * count
    return [[1, *generator.integers(low, high, size).tolist()] for size in sizes]


def tokens_of(model, ids, points):
    """States of all tokens after the first by a full pass with plain hooks, ``{point: (T - 1, D)}``."""
    kept = {}

    def keep(name):
        return lambda module, given, output: kept.update(
            {name: (output[0] if isinstance(output, tuple) else output)[0, 1:]}
        )

    module = model.module
    handles = [module.get_submodule(model.points[p].module).register_forward_hook(keep(p)) for p in points]
    with torch.no_grad():
        module(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {point: kept[point] for point in points}


@pytest.fixture(params=[llama, gpt2])
def monitor(request):
    model = traced(request.param())
    points = [name for name in model.default_points if name != model.final][:4]
    return GenerationMonitor(model, points, window=4).fit(sequences(80, 0))


def test_tokens_have_the_scores_of_the_detector(monitor):
    texts = sequences(6, 1)
    found = monitor.read(texts)
    for row, ids in enumerate(texts):
        states = {point: x.numpy() for point, x in tokens_of(monitor.model, ids, monitor.points).items()}
        expected = monitor.detector_.score_samples(states)
        np.testing.assert_allclose(found.scores[row, 1 : len(ids)], expected, rtol=1e-3, atol=1e-3)
        assert np.isnan(found.scores[row, 0])
        assert np.isnan(found.scores[row, len(ids) :]).all()
        means = np.convolve(expected, np.ones(4) / 4, mode="valid")
        np.testing.assert_allclose(found.windows[row, 4 : len(ids)], means, rtol=1e-3, atol=1e-3)
        assert found.lowest[row] == pytest.approx(means.min(), rel=1e-3, abs=1e-3)
        np.testing.assert_allclose(
            -found.profile[row, 1 : len(ids)].mean(axis=-1), expected, rtol=1e-3, atol=1e-3
        )


def test_what_is_scored_while_it_generates_is_scored_in_one_pass(monitor):
    prompt = sequences(1, 2)[0]
    plain = monitor._module.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    found = monitor.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(found.output, plain)
    read = monitor.read([plain[0, :-1].tolist()])  # the last token is not read by the model
    np.testing.assert_allclose(found.scores, read.scores, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(found.windows, read.windows, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(found.lowest, read.lowest, rtol=1e-3, atol=2e-3)
    assert sum(len(part._forward_hooks) for part in monitor.model.module.modules()) == 0
    assert sum(len(part._forward_pre_hooks) for part in monitor.model.module.modules()) == 0


def test_a_batch_padded_on_the_left_is_its_sequences(monitor):
    first, second = sequences(1, 3, length=9)[0], sequences(1, 4, length=5)[0]
    pad = len(first) - len(second)
    inputs = {
        "input_ids": torch.tensor([first, [0] * pad + second]),
        "attention_mask": torch.tensor([[1] * len(first), [0] * pad + [1] * len(second)]),
    }
    both = monitor.generate(inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    for row, ids in enumerate((first, second)):
        alone = monitor.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        own = both.scores[row][-alone.scores.shape[1] :]
        assert np.isnan(both.scores[row][: pad * row + 1]).all()
        np.testing.assert_allclose(own, alone.scores[0], rtol=1e-2, atol=1e-2)
        assert both.lowest[row] == pytest.approx(alone.lowest[0], rel=1e-2, abs=1e-2)


def test_nothing_is_scored_after_the_end_of_a_sequence(monitor):
    module, ends, long = monitor._module, sequences(1, 5)[0], sequences(1, 6)[0][: len(sequences(1, 5)[0])]
    ends = ends[: len(long)]

    class End(torch.nn.Module):
        """Ends the first sequence after two tokens."""

        def __call__(self, ids, scores):
            scores = scores.clone()
            scores[:, 2] = -torch.inf
            if ids.shape[1] == len(long) + 2:
                scores[0] = -torch.inf
                scores[0, 2] = 0
            return scores

    inputs = {"input_ids": torch.tensor([ends, long]), "attention_mask": torch.ones(2, len(long)).long()}
    found = monitor.generate(inputs, max_new_tokens=7, do_sample=False, logits_processor=[End()])
    assert found.output[0, len(long) + 2] == 2
    scored = ~np.isnan(found.scores)
    assert scored[1].sum() == len(long) + 7 - 2
    assert scored[0].sum() == len(long) + 2  # its end token is the last one that it reads
    assert module.generation_config.eos_token_id == 2


def test_an_alarm_names_the_token_and_the_depth_and_comes_while_it_generates(monitor):
    monitor.calibrate(sequences(150, 7))
    assert set(monitor.thresholds_) == {0.01, 0.05}
    for rate in (0.01, 0.05):
        assert monitor.thresholds_[rate] == conformal_threshold(monitor.calibration_, rate)
        assert monitor.intervals_[rate][0] < rate < monitor.intervals_[rate][1]
    usual = monitor.read(sequences(400, 8))
    flagged = {a.sequence for a in usual.alarms if a.rate == 0.05}
    assert len(flagged) < 0.13 * 400
    assert flagged == set(np.flatnonzero(usual.lowest < monitor.thresholds_[0.05]).tolist())
    # A layer explodes at one position: that token and that depth are named.
    broken, target = monitor.points[2], monitor.model.points[monitor.points[2]].module
    ids, seen = sequences(1, 9, length=12)[0], []

    def explode(module, given, output):
        state = output[0] if isinstance(output, tuple) else output
        if state.shape[1] > 8:
            state[:, 8] *= 1e4

    handle = monitor.model.module.get_submodule(target).register_forward_hook(explode)
    criterion = lambda ids, scores, **kwargs: seen.append(len(monitor.alarms)) or torch.tensor([False])  # noqa: E731
    found = monitor.generate(ids, max_new_tokens=4, do_sample=False, stopping_criteria=[criterion])
    handle.remove()
    assert [alarm.rate for alarm in found.alarms] == [0.01, 0.05]
    assert {alarm.token for alarm in found.alarms} == {8}
    assert all(alarm.position >= 8 for alarm in found.alarms)
    assert {alarm.point for alarm in found.alarms} == {broken}
    assert seen[0] == 2  # the alarms were there when the first token was generated


def test_foreign_tokens_are_told_from_usual_ones(monitor):
    usual, foreign = monitor.read(sequences(60, 10)), monitor.read(sequences(60, 11, 32, WORDS))
    wins = (usual.lowest[:, None] > foreign.lowest[None]).mean()
    assert wins > 0.9


def test_the_smallest_rate_that_a_small_calibration_supports_is_told(monitor):
    monitor.calibrate(sequences(40, 12))
    assert set(monitor.thresholds_) == {0.05}
    with pytest.raises(RepdynError, match=r"10 sequences support no rate below 9\.1%.*at least 19"):
        monitor.calibrate(sequences(10, 12))


def test_a_calibration_with_generation_settings_judges_prompt_and_answer(monitor):
    prompts = sequences(25, 13)
    monitor.calibrate(prompts, max_new_tokens=3, do_sample=False)
    own = [monitor.generate(ids, max_new_tokens=3, do_sample=False).lowest[0] for ids in prompts]
    np.testing.assert_allclose(monitor.calibration_, np.sort(own), rtol=1e-6)


def test_a_saved_monitor_scores_alike_and_knows_its_model(monitor, tmp_path):
    monitor.calibrate(sequences(40, 14)).save(tmp_path / "a.monitor")
    again = GenerationMonitor.load(tmp_path / "a.monitor", monitor.model)
    text = sequences(3, 15)
    np.testing.assert_array_equal(again.read(text).scores, monitor.read(text).scores)
    assert again.thresholds_ == monitor.thresholds_
    other = llama()
    with torch.no_grad():
        other.lm_head.weight.add_(1)
    with pytest.raises(RepdynError, match=r"another model|no point|not in"):
        GenerationMonitor.load(tmp_path / "a.monitor", other)


def test_a_monitor_comes_back_from_the_hub(monitor, hub):
    monitor.push_to_hub("ada/monitor")
    again = GenerationMonitor.load("hf://ada/monitor", monitor.model)
    text = sequences(3, 15)
    np.testing.assert_array_equal(again.read(text).scores, monitor.read(text).scores)
    card = hub.model("ada/monitor").files["README.md"].decode()
    assert "fitted = GenerationMonitor.load('hf://ada/monitor', model)" in card


def test_what_cannot_be_monitored_is_refused_in_one_line(monitor):
    with pytest.raises(RepdynError, match="no method 'generate'"):
        GenerationMonitor(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
    with pytest.raises(RepdynError, match="window: must be at least 1"):
        GenerationMonitor(monitor.model, window=0)
    with pytest.raises(RepdynError, match="is not fitted"):
        GenerationMonitor(monitor.model).read([[1, 3, 4]])
    with pytest.raises(RepdynError, match="texts: there is none"):
        monitor.read([])
    with pytest.raises(RepdynError, match="beam search"):
        monitor.generate(sequences(1, 16)[0], max_new_tokens=3, num_beams=2)
    assert isinstance(monitor.detector_, PathDetector)


def with_sinks(*ids, direction=0):
    """A Llama whose first token and these ids have one massive coordinate in all blocks."""
    module = llama()
    with torch.no_grad():
        for token in (1, *ids):
            module.model.embed_tokens.weight[token, direction] = 500.0
    return module


def test_a_token_that_takes_the_state_of_first_tokens_has_no_score():
    module = with_sinks(31)
    points = ["layers.0", "layers.1", "layers.2"]
    usual, given = sequences(80, 0, high=31), sequences(1, 1, high=31, length=14)[0]
    monitor = GenerationMonitor(module, points, window=4).fit(usual).calibrate(sequences(120, 2, high=31))
    assert set(monitor.sinks_) == set(points)
    held = [*given[:7], 31, *given[7:]]
    found = monitor.read([held])
    assert np.flatnonzero(np.isnan(found.scores[0])).tolist() == [0, 7]
    assert np.isnan(found.windows[0, 7])
    assert found.alarms == ()
    # The scores of all others are the detector's, and the windows go on beside the gap.
    states = {point: x.numpy() for point, x in tokens_of(monitor.model, held, monitor.points).items()}
    expected = monitor.detector_.score_samples(states)
    assert expected[6] < -1e29  # what made every text with such a token an alarm
    others = np.delete(expected, 6)
    np.testing.assert_allclose(np.delete(found.scores[0, 1:], 6), others, rtol=1e-3, atol=1e-3)
    means = np.convolve(others, np.ones(4) / 4, mode="valid")
    assert found.lowest[0] == pytest.approx(means.min(), rel=1e-3, abs=1e-3)
    # While it generates, too.
    answer = monitor.generate(held, max_new_tokens=3, do_sample=False)
    assert np.isnan(answer.scores[0, 7])


def test_whether_fitted_texts_hold_a_sink_hardly_changes_the_detector():
    module, points = with_sinks(31), ["layers.0", "layers.1", "layers.2"]
    usual, text = sequences(80, 0, high=31), sequences(6, 3, high=31)
    one = [*usual[0][:4], 31, *usual[0][4:]]
    without, with_one = (
        GenerationMonitor(module, points, window=4).fit(own) for own in (usual, [one, *usual[1:]])
    )
    np.testing.assert_allclose(with_one.read(text).scores, without.read(text).scores, rtol=0.2, atol=0.2)
    for point in points:
        assert with_one.detector_.limits(point)[1] < 1.5 * without.detector_.limits(point)[1]


@pytest.mark.parametrize("fault", ["another direction", "not finite", "far too long"])
def test_a_massive_state_that_is_no_sink_raises_an_alarm(fault):
    module, points = with_sinks(31), ["layers.0", "layers.1", "layers.2"]
    monitor = GenerationMonitor(module, points, window=4).fit(sequences(80, 0, high=31))
    monitor.calibrate(sequences(120, 2, high=31))
    with torch.no_grad():
        weight = module.model.embed_tokens.weight
        if fault == "another direction":
            weight[30, 5] = 500.0
        else:
            weight[30] = weight[31] * (1e6 if fault == "far too long" else torch.nan)
    given = sequences(1, 1, high=30, length=14)[0]
    found = monitor.read([[*given[:7], 30, *given[7:]]])
    assert found.scores[0, 7] < -1e29
    assert {alarm.rate for alarm in found.alarms} == {0.01, 0.05}


def test_a_model_without_sinks_skips_its_first_token_only(monitor):
    assert monitor.sinks_ == {}


def test_sinks_are_saved(tmp_path):
    points = ["layers.0", "layers.1"]
    monitor = GenerationMonitor(with_sinks(31), points, window=4).fit(sequences(80, 0, high=31))
    monitor.save(tmp_path / "a.monitor")
    again = GenerationMonitor.load(tmp_path / "a.monitor", monitor.model)
    held = [*sequences(1, 1, high=31, length=9)[0], 31, 4, 5]
    np.testing.assert_array_equal(again.read([held]).scores, monitor.read([held]).scores)
    assert np.isnan(again.read([held]).scores[0, 10])
