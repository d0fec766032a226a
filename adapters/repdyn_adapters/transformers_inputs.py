"""Prepare batches for transformers models from texts, pictures and signals."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.tracing.pooling import POOLINGS, Pooling, Tokens, find_pooling
from repdyn_adapters.shared import stack

__all__ = [
    "REREAD",
    "arguments_of",
    "prepare_pictures",
    "prepare_signals",
    "prepare_texts",
    "sentence_settings",
    "without_prompt",
]


REREAD = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Suffixes of classes whose decoder reads the encoder's text again."""


def arguments_of(model: Any) -> frozenset[str]:
    """Names of the arguments of a model's forward pass; a wrapper passes its arguments to its decoder."""
    runs = model.decoder if type(model).__name__.endswith("Wrapper") and hasattr(model, "decoder") else model
    return frozenset(inspect.signature(runs.forward).parameters)


_WITHOUT_DEPTH = {
    **dict.fromkeys(("BoW", "StaticEmbedding", "WordEmbeddings"), "which has no layers to trace"),
    **dict.fromkeys(("Asym", "Router"), "which holds several models; give the folder of one of them"),
}
"""First modules of sentence-transformers' folders that are no transformer."""


def sentence_settings(source: str) -> dict[str, Any]:
    """Settings of a sentence-transformers folder, as far as given.

    Returns
    -------
    dict
        ``"pooling"``; ``"length"``, the most tokens; ``"prompt"``, and ``"without_prompt"`` if its tokens are
        not pooled; ``"folder"`` of the transformer, if that is a folder inside; ``"further"``, the modules
        that change the pooled vector, or what is pooled, and are no part of the transformer.
    """
    result: dict[str, Any] = {}
    modules = _modules(source)
    if modules and modules[0][0] in _WITHOUT_DEPTH:
        raise RepdynError(
            f"model 'hf:{source}': its first module is a {modules[0][0]}, {_WITHOUT_DEPTH[modules[0][0]]}"
        )
    pools = next((place for kind, place in modules if kind == "Pooling"), "1_Pooling")
    inner = modules[0][1] if modules else ""
    if inner and not (Path(source) / "config.json").is_file():
        result["folder"] = str(Path(source) / inner)
    further = [kind for kind, _ in modules[1:] if kind not in ("Pooling", "Normalize", "Dropout")]
    for file, keep in (
        (f"{pools}/config.json", "pooling"),
        (str(Path(inner, "sentence_bert_config.json")), "length"),
    ):
        settings = _read_json(source, file)
        if keep == "pooling" and settings.get("include_prompt") is False:
            result["without_prompt"] = True
        if keep == "length" and isinstance(settings.get("max_seq_length"), int):
            result["length"] = settings["max_seq_length"]
        if keep == "pooling" and settings:
            result["pooling"] = _sentence_pooling(settings)
    settings = _read_json(source, "config_sentence_transformers.json")
    prompts, chosen = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(chosen) if isinstance(prompts, dict) and isinstance(chosen, str) else None
    if isinstance(prompt, str) and prompt:
        result["prompt"] = prompt
    if isinstance(settings.get("truncate_dim"), int):
        further.append(f"truncation to {settings['truncate_dim']} coordinates")
    if further:
        result["further"] = further
    return result


def without_prompt(pooling: str | Pooling, source: str, sentence: Mapping[str, Any]) -> str | Pooling:
    """The pooling of a folder over all tokens, or over those after the prompt's if it says so."""
    if not (sentence.get("without_prompt") and sentence.get("prompt")) or pooling == "cls":
        return pooling
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sentence.get("folder", source), trust_remote_code=False)
    ids = tokenizer(sentence["prompt"])["input_ids"]
    count = len(ids) - (ids[-1] in tokenizer.all_special_ids)

    def after_prompt(tokens: Tokens) -> Tensor:
        shape = tokens.values.shape[:2]
        mask = tokens.mask if tokens.mask is not None else tokens.values.new_ones(shape, dtype=torch.bool)
        later = torch.arange(shape[1], device=mask.device) >= count
        return find_pooling(pooling)(replace(tokens, mask=mask & later))

    return after_prompt


def _largest(tokens: Tokens) -> Tensor:
    """Maximum over real tokens, ``(N, C)``."""
    if tokens.mask is None:
        return tokens.values.amax(dim=1)
    return tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), -torch.inf).amax(dim=1)


def _weighted_mean(tokens: Tokens) -> Tensor:
    """Mean over real tokens, weighted by their position from 1, ``(N, C)``."""
    values = tokens.values.float()
    weight = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    weight = weight.expand(values.shape[:2]) if tokens.mask is None else weight * tokens.mask
    return (values * weight.unsqueeze(-1)).sum(dim=1) / weight.sum(dim=1, keepdim=True)


def _root_mean(tokens: Tokens) -> Tensor:
    """Sum over real tokens divided by the square root of their number, ``(N, C)``."""
    mean = POOLINGS["mean"](tokens)
    if tokens.mask is None:
        return mean * tokens.values.shape[1] ** 0.5
    return mean * tokens.mask.sum(dim=1, keepdim=True) ** 0.5


_SENTENCE_POOLINGS: dict[str, str | Pooling] = {
    "cls": "cls",
    "max": _largest,
    "mean": "mean",
    "mean_sqrt_len": _root_mean,
    "weightedmean": _weighted_mean,
    "lasttoken": "last",
}
"""sentence-transformers' names, in the order in which it concatenates those of several flags."""


def _sentence_pooling(settings: Mapping[str, Any]) -> str | Pooling:
    """The pooling that a folder configures: by name since version 5.4, by one flag per mode before."""
    given = settings.get("pooling_mode")
    named = given is not None
    if not named:
        given = [
            name.removeprefix("pooling_mode_")
            for name, on in settings.items()
            if on is True and "_mode_" in name
        ]
    wanted = [str(name).removesuffix("_tokens").removesuffix("_token") for name in _listed(given)]
    unknown = set(wanted) - set(_SENTENCE_POOLINGS)
    if unknown or not wanted:
        raise RepdynError(
            f"model: its 1_Pooling/config.json sets pooling {', '.join(sorted(unknown)) or 'none'}; "
            f"expected one of {', '.join(_SENTENCE_POOLINGS)}"
        )
    # Names have their own order; flags are concatenated in the library's.
    order = wanted if named else [name for name in _SENTENCE_POOLINGS if name in wanted]
    chosen = [_SENTENCE_POOLINGS[name] for name in order]
    if len(chosen) == 1:
        return chosen[0]
    return lambda tokens: torch.cat([find_pooling(pooling)(tokens) for pooling in chosen], dim=1)


def _modules(source: str) -> list[tuple[str, str]]:
    """Class and folder of each module that ``modules.json`` lists; none without that file."""
    listed = _read_file(source, "modules.json")
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise RepdynError(f"model 'hf:{source}': modules.json lists no modules; fetch it again")
    places = [str(one.get("path", "")) for one in listed]
    if any(Path(place).is_absolute() or ".." in Path(place).parts for place in places):
        raise RepdynError(f"model 'hf:{source}': modules.json names folders outside of its own")
    return [(str(one.get("type", "")).rpartition(".")[2], place) for one, place in zip(listed, places)]


def _listed(names: Any) -> list[Any]:
    return list(names) if isinstance(names, list | tuple) else [names]


def _read_json(source: str, file: str) -> dict[str, Any]:
    settings = _read_file(source, file)
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise RepdynError(f"model 'hf:{source}': {file} holds no settings; fetch it again")
    return settings


def _read_file(source: str, file: str) -> Any:
    """The content of a JSON file in a folder or on the hub; None if there is none."""
    if not source:
        return None
    if Path(source).is_dir():
        path: str | None = str(Path(source) / file)
    else:
        from transformers.utils import cached_file

        try:
            path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            path = None
    if path is None or not Path(path).is_file():
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RepdynError(f"model 'hf:{source}': {file} cannot be read ({error}); fetch it again") from None


def prepare_texts(
    source: str, model: Any, sentence: Mapping[str, Any]
) -> tuple[Callable[[Sequence[Any]], dict[str, Any]], Callable[[Sequence[Any]], list[int]], str]:
    """Functions from texts to model inputs and to token counts, and a description of the preprocessing."""
    from transformers import AutoTokenizer

    tokenizer: Any = None
    why = ""
    if source:
        try:
            file = {"gguf_file": Path(source).name} if source.endswith(".gguf") else {}
            folder = str(Path(source).parent) if file else sentence.get("folder", source)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **file)
        except Exception as error:  # missing, or damaged, for which readers raise exceptions of many types
            tokenizer, why = None, " ".join(str(error).split())[:120]
    config = model.config
    positions = getattr(config, "max_position_embeddings", None)
    positions = positions or getattr(config, "max_target_positions", None) or 1_000_000
    positions = positions if positions > 0 else 1_000_000  # XLNet gives -1 for no limit
    for part in model.modules():  # RoBERTa's positions begin after the padding index
        numbered = getattr(part, "position_embeddings", None)
        if isinstance(numbered, nn.Embedding) and numbered.padding_idx is not None:
            positions = min(positions, numbered.num_embeddings - numbered.padding_idx - 1)
    extra: dict[str, Any] = {}
    keep = arguments_of(model)
    if "use_cache" in keep:
        extra["use_cache"] = False
    # A decoder reads its start token, except where it reads the text again.
    if getattr(config, "is_encoder_decoder", False) and not type(model).__name__.endswith(
        ("Wrapper", *REREAD)
    ):
        extra["decoder_input_ids"] = None
    # Longformer and PEGASUS-X pad to whole windows internally, so that their blocks see more tokens than were
    # given.
    own = getattr(config, "block_size", None) if getattr(config, "model_type", "") == "pegasus_x" else None
    windows = getattr(config, "attention_window", None) or own or 1
    multiple = windows if isinstance(windows, int) else max(windows)
    start = getattr(config, "decoder_start_token_id", None)
    start = start if start is not None else getattr(config, "pad_token_id", None) or 0

    def completed(batch: dict[str, Any]) -> dict[str, Any]:
        if "decoder_input_ids" in extra:
            batch["decoder_input_ids"] = torch.full((len(batch["input_ids"]), 1), start)
        return extra | batch

    limit = int(min(sentence.get("length", 1_000_000), positions))
    if tokenizer is not None:
        limit = min(limit, tokenizer.model_max_length)
        # Causal models number positions from the left: padding on the right changes no real token.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    pad = getattr(config, "pad_token_id", None) or 0

    # Texts of models whose pooler takes the last position are all padded to the length of training.
    whole = getattr(config, "model_type", "") in ("siglip_text_model", "siglip2_text_model")
    prompt = sentence.get("prompt", "")
    words = len(tokenizer) if tokenizer is not None else None
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # a body with only a decoder, or hashed character tables
        table = next((part for part in model.modules() if isinstance(part, nn.Embedding)), None)
        table = None if getattr(config, "model_type", "") == "canine" else table
    words = table.num_embeddings if isinstance(table, nn.Embedding) else words
    if (
        getattr(config, "model_type", "") == "csm_depth_decoder_model"
    ):  # a part of the table for each position
        words = config.vocab_size

    def in_table(row: Tensor) -> None:
        if words is not None and (int(row.min()) < 0 or int(row.max()) >= words):
            raise RepdynError(
                f"inputs: token ids from {int(row.min())} to {int(row.max())}; expected 0 to {words - 1}"
            )

    def prepare(samples: Sequence[Any]) -> dict[str, Any]:
        for sample in samples:
            if isinstance(sample, str) != isinstance(samples[0], str) or sample is None:
                raise RepdynError(
                    f"inputs: a {type(sample).__name__} is among them; expected texts or token ids alone"
                )
        if isinstance(samples[0], str):
            if tokenizer is None:
                raise RepdynError(
                    f"inputs: there is no tokenizer beside {source or 'the model'!r} that can be read"
                    f"{f' ({why})' if why else ''}; pass token ids instead"
                )
            batch = dict(
                tokenizer(
                    [prompt + sample for sample in samples],
                    padding="max_length" if whole else True,
                    pad_to_multiple_of=multiple,
                    truncation=True,
                    max_length=limit,
                    return_tensors="pt",
                )
            )
            for row in batch["input_ids"]:  # checked here, because a GPU error would not name the token
                in_table(row)
            if whole:  # the model attends to the padding
                batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            empty = ~batch["attention_mask"].bool().any(dim=1)
            if empty.any():
                raise RepdynError(
                    f"inputs: the text {samples[int(empty.int().argmax())]!r} has no tokens; leave it out"
                )
            return completed({name: value for name, value in batch.items() if name in keep})
        rows = [torch.as_tensor(sample).long() for sample in samples]
        for row in rows:
            if row.ndim != 1 or not len(row):
                raise RepdynError(f"inputs: token ids of shape {tuple(row.shape)}; expected (length,)")
            in_table(row)
            if len(row) > positions:
                raise RepdynError(
                    f"inputs: {len(row)} token ids; the model has {positions} positions, cut the sample"
                )
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        short = -ids.shape[1] % multiple
        ids, mask = nn.functional.pad(ids, (0, short), value=pad), nn.functional.pad(mask, (0, short))
        return completed({"input_ids": ids, "attention_mask": mask})

    def lengths(samples: Sequence[Any]) -> list[int]:
        if tokenizer is None or not isinstance(samples[0], str):
            return [len(sample) for sample in samples]
        ids = tokenizer(
            [prompt + sample for sample in samples],
            truncation=True,
            max_length=limit,
            return_attention_mask=False,
        )
        return [len(row) for row in ids["input_ids"]]

    return prepare, lengths, f"tokenised, cut at {limit} tokens" if tokenizer is not None else "token ids"


def prepare_pictures(source: str) -> tuple[Callable[[Sequence[Any]], dict[str, Any]], str]:
    """A function from pictures to model inputs, by the saved processor if any, and its description."""
    from transformers import AutoImageProcessor

    processor: Any = None
    if source:
        try:
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # missing, or damaged, for which readers raise exceptions of many types
            if (Path(source) / "preprocessor_config.json").is_file():
                reason = " ".join(str(error).split())[:160]
                raise RepdynError(
                    f"model 'hf:{source}': preprocessor_config.json cannot be used ({reason}); fetch it again"
                ) from None
            processor = None

    def prepare(samples: Sequence[Any]) -> dict[str, Any]:
        if isinstance(samples[0], Tensor) or processor is None:
            return {"pixel_values": stack(samples)}
        return dict(processor(images=list(samples), return_tensors="pt"))

    return (
        prepare,
        f"{type(processor).__name__} of {source}" if processor is not None else "prepared pictures",
    )


def prepare_signals(model: Any) -> tuple[Callable[[Sequence[Any]], dict[str, Any]], str]:
    """Sound for models of speech: signals or spectra, all of one length."""
    config = model.config
    start = getattr(config, "decoder_start_token_id", None) or 0

    def prepare(samples: Sequence[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = {model.main_input_name: stack(samples)}
        if getattr(config, "is_encoder_decoder", False):
            batch["decoder_input_ids"] = torch.full((len(samples), 1), start)
        return batch

    return prepare, "stacked signals"
