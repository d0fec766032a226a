"""Models of Hugging Face transformers: text encoders, causal language models, vision."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Layout
from repdyn_adapters.blocks import channels_of, find_blocks, find_choices, own_layout
from repdyn_adapters.shared import quietly
from repdyn_adapters.transformers_inputs import (
    REREAD,
    arguments_of,
    prepare_pictures,
    prepare_signals,
    prepare_texts,
    sentence_settings,
    without_prompt,
)
from repdyn_adapters.transformers_weights import check_depth, check_weights, load_weights

__all__ = ["TransformersAdapter"]

LOG = logging.getLogger(__name__)

CHANNELS_SECOND = frozenset(
    {"bit", "convnext", "convnextv2", "cvt", "efficientnet", "mobilenet_v1", "mobilenet_v2", "mobilevit"}
    | {"mobilevitv2", "poolformer", "pvt", "regnet", "resnet", "swiftformer", "timm_wrapper", "van"}
)
"""Vision models (``config.model_type``) whose blocks have output layout NCHW; all others have NLC."""

FINAL_CHANNELS_SECOND = CHANNELS_SECOND | {"segformer"}
"""Vision models whose own output is NCHW. Segformer is listed here only: its blocks give NLC."""

BLOCKS = {
    "resnet": ("ResNetBasicLayer", "ResNetBottleNeckLayer"),
    "regnet": ("RegNetXLayer", "RegNetYLayer"),
    "glpn": ("GLPNLayer",),
    "poolformer": ("PoolFormerLayer",),
    "pvt": ("PvtLayer",),
    "swin": ("SwinLayer",),
    "swinv2": ("Swinv2Layer",),
}
"""Classes of blocks where transformers marks whole stages, or nothing, for gradient checkpointing."""

TOKENS_FIRST = frozenset({"fsmt", "xlnet"})
"""Families whose blocks give LNC."""

STREAMS: dict[str, Layout] = {
    "DeepseekV4DecoderLayer": "NLSC",
    "HYV4DecoderLayer": "NLSC",
    "Gemma3nTextDecoderLayer": "SNLC",
}
"""Classes of blocks that give several residual streams of every token, and the order of their axes."""

ONE_LENGTH = frozenset({"canine", "convbert", "nystromformer", "yoso"})
"""Families in which padding changes a text's representation: they merge tokens, convolve along them, average
over stretches of them, or hash as many as there are."""

HEAD_OF_POSITION = frozenset({"csm_depth_decoder_model"})
"""Families with a different head at every position, which cannot be applied to a single vector."""

LAST_POSITION = frozenset({"siglip_text_model", "siglip2_text_model"})
"""Text models whose pooler takes the last position, padding or not: texts are padded to their full length."""

OWN_POOLER = frozenset({"clip_text_model", "dinov3_convnext"}) | LAST_POSITION
"""Models whose own pooler uses one special token (the end of a text, the mean of a picture)."""

TOKEN_CLASSIFIERS = ("CTRLForSequence", "ModernBertDecoderForSequence")
"""Causal models with a ``classifier`` of every token, where the last token gives the logits."""

FINAL = "last_hidden_state"
"""Point name of a model's output, after the norm that follows the last block, if any."""


class TransformersAdapter:
    """``hf:NAME_OR_DIR``: by name from the hub or its cache, or from a folder. No remote code is run."""

    scheme = "hf"

    def load(self, name: str, **options: Any) -> TracedModel:
        """Load a pretrained model with its tokenizer or image processor, in float32.

        The model class is the one its configuration names where that is a classifier or a causal
        language model, the bare model else. A name that ends in ``.gguf`` is a file in that format.

        Parameters
        ----------
        name
            On the hub, or a folder, or a GGUF file.
        options
            Further arguments of ``from_pretrained``: ``dtype``, ``device_map="auto"`` for a model larger
            than memory (needs accelerate), ``quantization_config``, …

        Raises
        ------
        RepdynError
            If there is no such model, or it needs code from the hub.
        """
        import transformers

        name, tower = (name, "") if Path(name).exists() else (name.partition("#")[0], name.partition("#")[2])
        if (base := _base_of_peft(name)) is not None:
            return self.wrap(_with_peft(self.load(base, **options), name), name)
        folder, file = (
            (str(Path(name).parent), {"gguf_file": Path(name).name}) if name.endswith(".gguf") else (name, {})
        )
        given: dict[str, Any] = {"dtype": torch.float32, **file, **options, "trust_remote_code": False}
        folder = folder if file else sentence_settings(folder).get("folder", folder)
        config = _or_error(
            name, lambda: transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **file)
        )
        check_depth(name, config)
        # GGUF, the format of llama.cpp, holds language models and does not name a class.
        chosen = transformers.AutoModelForCausalLM if file else _model_class(transformers, config)
        with torch.random.fork_rng(), quietly():
            # Fixed seed, because weights that the checkpoint lacks (an unused pooler) are drawn at random.
            torch.manual_seed(0)
            named = None if file else _named_class(transformers, config)
            module, missing = _or_error(name, lambda: load_weights(chosen, folder, given, named))
        model = self.wrap(module, f"{name}#{tower}" if tower else name)
        check_weights(name, model, missing)
        return model

    def recognizes(self, module: nn.Module) -> bool:
        """Whether a module is one of transformers'; imports nothing."""
        return any(
            kind.__module__.startswith("transformers.") and kind.__name__ == "PreTrainedModel"
            for kind in type(module).__mro__
        )

    def wrap(self, module: nn.Module, name: str | None = None) -> TracedModel:
        """Make a loaded model traceable, with the tokenizer that lies beside its weights, if any does.

        Without one, samples are token ids (sequences of any length) or prepared pictures. Sound is read as
        signals (or spectra) of one length. Of a model with two towers (CLIP) the one for pictures is
        traced, or the one that stands after ``#``: ``hf:NAME#text``. An encoder-decoder's decoder reads
        its start token.
        """
        model: Any = module
        source = name or str(getattr(model, "name_or_path", "") or "")
        source, _, tower = source.partition("#")
        runs, head, final_point, final = _parts(model, tower)
        family = runs.config.model_type
        # A speech model's decoder takes token ids if it is a language model on its own.
        kind = (model if _is_causal(model) and runs is model.base_model else runs).main_input_name
        layout: Layout = "NCHW" if family in CHANNELS_SECOND else "LNC" if family in TOKENS_FIRST else "NLC"
        prefix = _prefix_tokens(runs) if kind == "pixel_values" else 0
        late = _late_class_token(runs) if prefix else ""
        mask: Any = "attention_mask" if kind == "input_ids" else None
        if family in OWN_POOLER:
            final_point, final = Point("", "NC", part=1), "pooled"
        elif kind == "pixel_values" and "spatial_shapes" in arguments_of(runs):
            mask = "pixel_attention_mask"  # pictures of several shapes, as patches, with padding
        elif final == "score":
            mask = _scored(model)

        def layout_of(part: nn.Module) -> Layout | None:
            return STREAMS.get(type(part).__name__) or own_layout(part)

        points = {
            # A decoder reads one start token, so the encoder's mask does not apply.
            path: Point(
                path,
                layout_of(part) or layout,
                prefix if not late or late in path.split(".") else 0,
                None if _is_decoder(runs, path) else mask,
                channels=channels_of(part),
                trust="declared" if layout_of(part) else "family",
            )
            for path, part in runs.named_modules(remove_duplicate=False)
            if path
        }
        last: Layout = "NCHW" if family in FINAL_CHANNELS_SECOND else "NLC"
        points[final] = final_point or Point(
            "",
            last,
            prefix,
            None if _is_decoder(runs, "decoder.") else mask,
            channels=channels_of(runs),
            trust="family",
        )
        blocks = _blocks(runs)
        sentence = sentence_settings(source)
        lengths = None
        if kind == "pixel_values":
            pooling = "cls" if prefix and not late else "gap"
            prepare, words = prepare_pictures(source)
        elif kind != "input_ids":
            pooling = "mean"
            prepare, words = prepare_signals(runs)
        else:
            prepare, lengths, words = prepare_texts(source, runs, sentence)
            own = {"pooled": "cls", "score": "last", FINAL: "last" if head is not None else "mean"}
            pooling = without_prompt(sentence.get("pooling", own[final]), source, sentence)
            if further := sentence.get("further"):
                words += f"; without its {', '.join(further)}"
                LOG.warning(
                    "%s: what follows its transformer is not traced (%s): the last point is not what "
                    "sentence-transformers' encode gives",
                    source,
                    ", ".join(further),
                )
            rereads = type(runs).__name__.endswith(REREAD) and getattr(
                runs.config, "is_encoder_decoder", False
            )
            if family in OWN_POOLER or (final == "pooled" and rereads):  # the end of the text, as the head
                pooling = "last"
            elif final == "pooled" and final_point is not None and final_point.layout == "NLC":
                pooling = "mean"
        return TracedModel(
            name=f"hf:{name or source or type(model).__name__}",
            module=runs,
            points=points,
            default_points=(*blocks, final),
            prepare=prepare,
            pooling=pooling,
            final=final,
            head=head,
            weights=module,
            own_logits=None if head is None else _own_logits(model),
            choices=find_choices(runs, blocks),
            preprocessing=words,
            blank=_blank(runs, kind),
            lengths=lengths,
            padded=family not in LAST_POSITION | ONE_LENGTH
            and (kind != "input_ids" or "attention_mask" in arguments_of(runs)),
        )


def _base_of_peft(name: str) -> str | None:
    """The model that a folder of PEFT's adapter weights was trained on; None for any other folder."""
    file = Path(name) / "adapter_config.json"
    if not file.is_file() or (Path(name) / "config.json").is_file():
        return None
    try:
        base = json.loads(file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    if not isinstance(base, str) or not base:
        raise RepdynError(f"model 'hf:{name}': its adapter_config.json names no base_model_name_or_path")
    return base


def _with_peft(base: TracedModel, name: str) -> Any:
    """The base model with PEFT's adapter weights in it."""
    try:
        from peft import PeftModel
    except ImportError:
        raise RepdynError(
            f"model 'hf:{name}': holds adapter weights of PEFT; pip install peft, or merge them into "
            "the base model and save that"
        ) from None
    whole = base.weights or base.module
    return _or_error(name, lambda: PeftModel.from_pretrained(whole, name)).get_base_model().eval()


def _model_class(transformers: Any, config: Any) -> Any:
    named = _class_name(config)
    if named.endswith(("ForCausalLM", "LMHeadModel")) and not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForCausalLM
    for ending, kind in (
        ("ForSequenceClassification", transformers.AutoModelForSequenceClassification),
        ("ForImageClassification", transformers.AutoModelForImageClassification),
    ):
        if named.endswith(ending):
            return kind
    return transformers.AutoModel


def _class_name(config: Any) -> str:
    listed = getattr(config, "architectures", None)
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else ""


def _named_class(transformers: Any, config: Any) -> Any:
    """The class of transformers that a configuration names, or None."""
    named = getattr(transformers, _class_name(config), None) if _class_name(config) else None
    is_model = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    return named if is_model else None


def _is_causal(model: Any) -> bool:
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel", "BertGenerationDecoder"))


def _is_decoder(runs: Any, path: str) -> bool:
    decoded = bool(getattr(runs.config, "is_encoder_decoder", False)) and path.startswith("decoder")
    return decoded and not type(runs).__name__.endswith(REREAD)


def _parts(model: Any, tower: str) -> tuple[Any, Callable[[Tensor], Tensor] | None, Point | None, str]:
    """What runs, its head, and where the head's input is read."""
    towers = {
        name.removesuffix("_model"): getattr(model, name)
        for name in ("vision_model", "text_model", "audio_model")
        if hasattr(getattr(model, name, None), "main_input_name")
    }
    if tower and tower not in towers:
        known = ", ".join(towers) or "none: it is one model"
        raise RepdynError(f"model: {type(model).__name__} has no tower {tower!r}; it has {known}")
    if tower or len(towers) > 1:
        return towers[tower or next(iter(towers))], None, None, FINAL
    if _is_causal(model) and model.base_model is not model:
        one = model.config.model_type not in HEAD_OF_POSITION
        return model.base_model, _language_head(model) if one else None, None, FINAL
    if _is_causal(model) and isinstance(getattr(model, "lm_head", None), nn.Module):
        # BertGeneration's decoder does not name its body, so all of it runs.
        return (
            model,
            _call(model.lm_head),
            Point("lm_head", "NLC", mask="attention_mask", reads="input"),
            FINAL,
        )
    score, place = _in_use(getattr(model, "score", None), "score")
    # T5Gemma's decoder reads the text again, one token later; its score is a layer after dropout.
    reread = getattr(model.config, "is_encoder_decoder", False) and type(model).__name__.endswith(
        "Classification"
    )
    if isinstance(getattr(score, "out_proj", None), nn.Linear):
        score, place = cast(Any, score).out_proj, "score.out_proj"
        if "Token" in type(model).__name__:
            mask = _one_later("attention_mask") if reread else "attention_mask"
            return model, None, Point(place, "NLC", mask=mask, reads="input"), FINAL
    if _is_linear(score):  # causal models classify every token and take the last
        mask = _one_later(_scored(model)) if reread else _scored(model)
        return model, _call(score), Point(place, "NLC", mask=mask, reads="input"), "score"
    # Most encoder-decoder models name the classifier differently.
    decoded = bool(getattr(model.config, "is_encoder_decoder", False))
    named_so = "classification_head" if decoded and hasattr(model, "classification_head") else "classifier"
    classifier, named_so = _in_use(getattr(model, named_so, None), named_so)
    one_answer = type(model).__name__.endswith("Classification") and "Token" not in type(model).__name__
    if isinstance(classifier, nn.Module) and one_answer:
        linear = _linear_layers(classifier)
        if linear:
            path = f"{named_so}.{linear[-1]}".rstrip(".")
            last = _call(model.get_submodule(path))
            if type(model).__name__.startswith(TOKEN_CLASSIFIERS):
                return model, last, Point(path, "NLC", mask=_scored(model), reads="input"), "score"
            if getattr(model.config, "classifier_pooling", None) == "late":  # the mean of all answers
                return model, last, Point(path, "NLC", mask="attention_mask", reads="input"), "pooled"
            return model, last, Point(path, "NC", reads="input"), "pooled"
    answers = [name for name, part in model.named_children() if isinstance(part, nn.Linear)]
    if one_answer and isinstance(classifier, nn.ModuleList) and len(answers) == 1:  # pools, beside the layer
        return model, _call(getattr(model, answers[0])), Point(answers[0], "NC", reads="input"), "pooled"
    # These pass their body the positions of the question, so the whole model must run.
    if type(model).__name__ in ("BigBirdForQuestionAnswering", "LongformerForQuestionAnswering"):
        return model, None, Point(model.base_model_prefix, "NLC", mask="attention_mask"), FINAL
    # Masked, token and question models predict for every token, so no head applies to a single vector.
    named = type(model).__name__
    if model.base_model is not model and any(word in named for word in ("For", "With", "LMHead")):
        return model.base_model, None, None, FINAL
    embeddings = model.get_output_embeddings() if "For" in named else None
    path = next((path for path, part in model.named_modules() if part is embeddings), None)
    if path is None and "For" in named and answers:  # of questions, without a body of its own
        path = answers[-1]
    mask = "attention_mask" if named.endswith(REREAD) else None
    return model, None, None if path is None else Point(path, "NLC", mask=mask, reads="input"), FINAL


def _in_use(part: Any, path: str) -> tuple[Any, str]:
    """What runs of a part and its path: PEFT keeps the trained copies of a head beside the original one."""
    copies = getattr(part, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict):
        return part, path
    if part.disable_adapters or not part.active_adapters:
        return part.original_module, f"{path}.original_module"
    chosen = part.active_adapters[0]
    return copies[chosen], f"{path}.modules_to_save.{chosen}"


def _is_linear(part: Any) -> bool:
    """Whether a part is a linear layer, or one with an adapter of PEFT around it."""
    return isinstance(part, nn.Linear) or isinstance(getattr(part, "base_layer", None), nn.Linear)


def _linear_layers(part: nn.Module) -> list[str]:
    """Paths of the linear layers of a part, without those inside an adapter of PEFT."""
    found: list[str] = []
    for path, inner in part.named_modules():
        if _is_linear(inner) and not any(not outer or path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


def _scored(model: Any) -> str | Callable[[Any], Tensor | None]:
    """Mask from which a causal classifier takes the last token: tokens whose id is not padding."""
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    if pad is None:
        return "attention_mask"
    return lambda inputs: inputs["input_ids"] != pad if "input_ids" in inputs else None


def _one_later(mask: str | Callable[[Any], Tensor | None]) -> Callable[[Any], Tensor | None]:
    """Mask of a decoder that reads the encoder's text after a start token, from that of the text."""

    def shifted(inputs: Any) -> Tensor | None:
        real = inputs.get(mask) if isinstance(mask, str) else mask(inputs)
        return None if real is None else torch.cat([torch.ones_like(real[:, :1]), real[:, :-1]], dim=1)

    return shifted


def _own_logits(model: Any) -> Callable[[Any], Tensor]:
    """The model's own logits of prepared inputs: those of the last real token, or of the sample."""

    def logits(inputs: Any) -> Tensor:
        scores: Tensor = model(**inputs).logits
        if scores.ndim == 2:
            return scores
        mask = inputs.get("attention_mask")
        last = (
            scores.shape[1] - 1 if mask is None else (mask * torch.arange(mask.shape[1]).to(mask)).argmax(-1)
        )
        return scores[torch.arange(len(scores), device=scores.device), last]

    return logits


def _blank(runs: Any, kind: str) -> Callable[[int], Tensor] | None:
    """Samples without content: token ids of any number, or pictures of the size the model was made for."""
    if kind == "input_ids":
        return lambda positions: torch.zeros(positions, dtype=torch.long)
    size = getattr(runs.config, "image_size", None)
    if kind != "pixel_values" or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return lambda _: torch.zeros(getattr(runs.config, "num_channels", 3), height, width)


def _call(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        weight = next(head.parameters())
        # accelerate moves an offloaded weight (on meta) and its input to the head's device by itself.
        there = None if weight.device.type == "meta" else weight.device
        result: Tensor = head(devices.to(x, there, weight.dtype))
        return result

    return apply


class _Given(nn.Module):
    """Replaces a language model's body and returns the given hidden states."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.__dict__["body"] = body  # not a submodule, because it does not run
        self.hidden: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        # Heads read constants from their body; some call its decoder.
        return self if name == "decoder" else getattr(self.__dict__["body"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        return _Output(self.hidden)


class _Output:
    """A model output that holds hidden states and nothing else."""

    def __init__(self, hidden: Any) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        return (self.last_hidden_state,)[key] if isinstance(key, int | slice) else getattr(self, key)


def _shell(model: Any) -> tuple[Any, _Given] | None:
    """The model with its body replaced by :class:`_Given`; all other parts and weights are shared."""
    body = model.base_model
    path = next((path for path, part in model.named_children() if part is body), None)
    if path is None:
        return None
    shell = type(model).__new__(type(model))
    shell.__dict__.update(model.__dict__)
    given = _Given(body)
    shell._modules = {**model._modules, path: given}
    return shell, given


def _language_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """All that the model itself computes after its body: projections, norms, scales and soft caps.

    The model's own forward pass runs, on a body that gives the hidden states. None where that is not
    possible, because the model has no body of its own.
    """
    if _shell(model) is None:
        return None

    def apply(x: Tensor) -> Tensor:
        built = _shell(model)
        assert built is not None
        shell, given = built
        weight = next((model.get_output_embeddings() or model).parameters())
        away = weight.device.type == "meta"
        given.hidden = devices.to(x, None if away else weight.device, weight.dtype).unsqueeze(1)
        ids = torch.zeros(len(x), 1, dtype=torch.long, device=x.device if away else weight.device)
        logits: Tensor = shell(input_ids=ids).logits
        return logits[:, 0]

    return apply


def _blocks(model: Any) -> tuple[str, ...]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    declared = BLOCKS.get(model.config.model_type)
    if declared:
        return tuple(path for path, part in model.named_modules() if type(part).__name__ in declared)
    # transformers marks what it may recompute, and that is its blocks; a few older families mark none.
    # The convolutions that cut sound into frames are part of the embedding and not blocks.
    # TransformerLens puts each block into another, whose output is what the next block reads.
    marked = [
        path.removesuffix("._original_component")
        for path, part in model.named_modules()
        if isinstance(part, GradientCheckpointingLayer) and not path.startswith("feature_extractor.")
    ]
    outer = [path for path in marked if not any(path.startswith(other + ".") for other in marked)]
    return tuple(outer) if outer else find_blocks(model)


def _prefix_tokens(model: Any) -> int:
    count = 0
    for path, tokens in model.named_parameters():
        if path.endswith(("cls_token", "class_embedding", "distillation_token", "register_tokens")):
            count += tokens.shape[1] if tokens.ndim == 3 else 1
    return count


def _late_class_token(model: Any) -> str:
    """The number of the stage in which a class token is added, where that is not the first."""
    for path, _ in model.named_parameters():
        if path.endswith("cls_token"):
            return next((step for step in path.split(".") if step.isdigit()), "")
    return ""


def _or_error(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except RepdynError:
        raise
    except Exception as error:  # readers raise exceptions of many types on damaged or foreign files
        lines = str(error).strip().splitlines()
        # Some name the field on one line and what is wrong with it on the next.
        reason = (
            " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]) if lines else type(error).__name__
        )
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:  # advice to load it anyway
            reason = "its weights are pickled objects, or damaged; save them as safetensors"
        elif type(error) is KeyError or isinstance(error, EOFError):
            reason = f"{type(error).__name__}: {error}"
        raise RepdynError(
            f"model 'hf:{name}': cannot be loaded ({reason}); give a name on the hub or a folder"
        ) from None
