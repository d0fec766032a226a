"""Models of Hugging Face transformers: text encoders, causal language models, vision."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Layout
from repdyn_adapters.blocks import find_blocks
from repdyn_adapters.module import stack

__all__ = ["TransformersAdapter", "quietly"]

CHANNELS_SECOND = frozenset(
    {"bit", "convnext", "convnextv2", "cvt", "efficientnet", "mobilenet_v1", "mobilenet_v2", "mobilevit"}
    | {"mobilevitv2", "poolformer", "pvt", "regnet", "resnet", "swiftformer", "timm_wrapper", "van"}
)
"""Vision models (``config.model_type``) whose blocks give NCHW; the blocks of all others give NLC."""

FINAL = "last_hidden_state"
"""The name of a model's own output as a point: after the norm that follows the last block, if any."""


class TransformersAdapter:
    """``hf:NAME_OR_DIR``: by name from the hub or its cache, or from a folder. No remote code is run."""

    scheme = "hf"

    def load(self, name: str) -> TracedModel:
        """Load a pretrained model with its tokenizer or image processor, in float32.

        The model class is the one its configuration names where that is a classifier or a causal
        language model, the bare model else.

        Raises
        ------
        RepdynError
            If there is no such model, or it needs code from the hub.
        """
        import transformers

        config = _or_error(
            name, lambda: transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        )
        with torch.random.fork_rng(), quietly():
            # Weights that the checkpoint lacks (an unused pooler) are drawn at random: always the same.
            torch.manual_seed(0)
            module = _or_error(
                name,
                lambda: _model_class(transformers, config).from_pretrained(
                    name, trust_remote_code=False, dtype=torch.float32
                ),
            )
        return self.wrap(module, name)

    def recognises(self, module: nn.Module) -> bool:
        """Whether a module is one of transformers'; imports nothing."""
        return any(
            kind.__module__.startswith("transformers.") and kind.__name__ == "PreTrainedModel"
            for kind in type(module).__mro__
        )

    def wrap(self, module: nn.Module, name: str | None = None) -> TracedModel:
        """Make a loaded model traceable, with the tokenizer that lies beside its weights, if any does.

        Without one, samples are token ids (sequences of any length) or prepared pictures.
        """
        model: Any = module
        source = name or str(getattr(model, "name_or_path", "") or "")
        module.eval()
        runs, head, final_point, final = _parts(model)
        vision = runs.main_input_name == "pixel_values"
        layout: Layout = "NCHW" if runs.config.model_type in CHANNELS_SECOND else "NLC"
        prefix = _prefix_tokens(runs) if vision else 0
        mask = None if vision else "attention_mask"
        points = {
            path: Point(path, layout, prefix, mask)
            for path, _ in runs.named_modules(remove_duplicate=False)
            if path
        }
        points[final] = final_point or Point("", layout, prefix, mask)
        blocks = _blocks(runs)
        sentence = _sentence_settings(source)
        if vision:
            pooling = "cls" if prefix else "gap"
            prepare, words = _prepare_pictures(source)
        else:
            prepare, words = _prepare_text(source, runs, sentence)
            own = {"pooled": "cls", "score": "last", FINAL: "last" if head is not None else "mean"}
            pooling = sentence.get("pooling", own[final])
        return TracedModel(
            name=f"hf:{source or type(model).__name__}",
            module=runs,
            points=points,
            default_points=(*blocks, final),
            prepare=prepare,
            pooling=pooling,
            final=final,
            head=head,
            weights=module,
            preprocessing=words,
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Within this context transformers shows no progress bars and reports errors only."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _model_class(transformers: Any, config: Any) -> Any:
    named = (getattr(config, "architectures", None) or [""])[0]
    if named.endswith(("ForCausalLM", "LMHeadModel")) and not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForCausalLM
    for ending, kind in (
        ("ForSequenceClassification", transformers.AutoModelForSequenceClassification),
        ("ForImageClassification", transformers.AutoModelForImageClassification),
    ):
        if named.endswith(ending):
            return kind
    return transformers.AutoModel


def _is_causal(model: Any) -> bool:
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _parts(model: Any) -> tuple[Any, Callable[[Tensor], Tensor] | None, Point | None, str]:
    """What runs, its head, and where the head's input is read."""
    if _is_causal(model):
        return model.base_model, _language_head(model), None, FINAL
    score = getattr(model, "score", None)
    if isinstance(score, nn.Linear):  # causal models classify every token and take the last
        return model, _call(score), Point("score", "NLC", mask="attention_mask", reads="input"), "score"
    classifier = getattr(model, "classifier", None)
    if isinstance(classifier, nn.Module):
        linear = [path for path, part in classifier.named_modules() if isinstance(part, nn.Linear)]
        if linear:
            path = f"classifier.{linear[-1]}".rstrip(".")
            last = model.get_submodule(path)
            return model, _call(last), Point(path, "NC", reads="input"), "pooled"
    return model, None, None, FINAL


def _call(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        weight = next(head.parameters())
        result: Tensor = head(x.to(weight.device, weight.dtype))
        return result

    return apply


def _language_head(model: Any) -> Callable[[Tensor], Tensor]:
    """The output embedding, with the scales that some families put on its logits."""
    project = _call(model.get_output_embeddings())
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1.0
    divide = getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def apply(x: Tensor) -> Tensor:
        logits = project(x) * scale / divide if (scale, divide) != (1.0, 1.0) else project(x)
        return torch.tanh(logits / cap) * cap if cap else logits

    return apply


def _blocks(model: Any) -> tuple[str, ...]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    # transformers marks what it may recompute, and that is its blocks; a few older families mark none.
    marked = [path for path, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]
    outer = [path for path in marked if not any(path.startswith(other + ".") for other in marked)]
    return tuple(outer) if outer else find_blocks(model)


def _prefix_tokens(model: Any) -> int:
    count = 0
    for path, tokens in model.named_parameters():
        if path.endswith(("cls_token", "distillation_token", "register_tokens")):
            count += tokens.shape[1] if tokens.ndim == 3 else 1
    return count


def _sentence_settings(source: str) -> dict[str, Any]:
    """What a sentence-transformers folder says of pooling and length."""
    found: dict[str, Any] = {}
    for file, keep in (("1_Pooling/config.json", "pooling"), ("sentence_bert_config.json", "length")):
        settings = _read_json(source, file)
        if keep == "length" and isinstance(settings.get("max_seq_length"), int):
            found["length"] = settings["max_seq_length"]
        if keep == "pooling":
            modes = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}
            on = [ours for theirs, ours in modes.items() if settings.get(f"pooling_mode_{theirs}")]
            if on:
                found["pooling"] = on[0]
    return found


def _read_json(source: str, file: str) -> dict[str, Any]:
    if not source:
        return {}
    if Path(source).is_dir():
        path: str | None = str(Path(source) / file)
    else:
        from transformers.utils import cached_file

        try:
            path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            path = None
    if path is None or not Path(path).is_file():
        return {}
    settings = json.loads(Path(path).read_text())
    return settings if isinstance(settings, dict) else {}


def _prepare_text(
    source: str, model: Any, sentence: Mapping[str, Any]
) -> tuple[Callable[[Sequence[Any]], dict[str, Any]], str]:
    from transformers import AutoTokenizer

    tokenizer: Any = None
    if source:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError):
            tokenizer = None
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    extra: dict[str, Any] = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        extra["use_cache"] = False
    limit = int(min(sentence.get("length", 1_000_000), positions))
    if tokenizer is not None:
        limit = min(limit, tokenizer.model_max_length)
        # Causal models number positions from the left: padding on the right changes no real token.
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    keep = inspect.signature(model.forward).parameters
    pad = getattr(config, "pad_token_id", None) or 0

    def prepare(samples: Sequence[Any]) -> dict[str, Any]:
        if isinstance(samples[0], str):
            if tokenizer is None:
                raise RepdynError(
                    f"inputs: there is no tokenizer beside {source or 'the model'!r}; pass token ids instead"
                )
            batch = dict(
                tokenizer(list(samples), padding=True, truncation=True, max_length=limit, return_tensors="pt")
            )
            empty = ~batch["attention_mask"].bool().any(dim=1)
            if empty.any():
                raise RepdynError(
                    f"inputs: the text {samples[int(empty.int().argmax())]!r} has no tokens; leave it out"
                )
            return {name: value for name, value in batch.items() if name in keep} | extra
        rows = [torch.as_tensor(sample).long() for sample in samples]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask} | extra

    return prepare, f"tokenised, cut at {limit} tokens" if tokenizer is not None else "token ids"


def _prepare_pictures(source: str) -> tuple[Callable[[Sequence[Any]], dict[str, Any]], str]:
    from transformers import AutoImageProcessor

    processor: Any = None
    if source:
        try:
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError):
            processor = None

    def prepare(samples: Sequence[Any]) -> dict[str, Any]:
        if isinstance(samples[0], Tensor) or processor is None:
            return {"pixel_values": stack(samples)}
        return dict(processor(images=list(samples), return_tensors="pt"))

    return (
        prepare,
        f"{type(processor).__name__} of {source}" if processor is not None else "prepared pictures",
    )


def _or_error(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RepdynError(
            f"model 'hf:{name}': cannot be loaded ({reason}); give a name on the hub or a folder"
        ) from None
