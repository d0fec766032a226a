"""Models of timm: by name, with the pretrained weights or a local checkpoint."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.reading import as_array
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Layout
from repdyn_adapters.blocks import channels_of, find_blocks, find_choices, own_layout

__all__ = ["TimmAdapter"]

_TOKENS = (
    "beit cait coat convit crossvit deepseek_vit deit eva gemma4_vit hiera levit mlp_mixer mvitv2 naflexvit "
    "pit pvt_v2 qwen3_vit tnt twins vision_transformer vision_transformer_hybrid "
    "vision_transformer_relpos xcit"
)
_CHANNELS_LAST = (
    "gcvit hieradet_sam2 mambaout sequencer swin_transformer swin_transformer_v2 swin_transformer_v2_cr "
    "vision_transformer_sam volo"
)
LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(_TOKENS.split(), "NLC"),
    **dict.fromkeys(_CHANNELS_LAST.split(), "NHWC"),
    "nest": "N*C",  # samples, windows, positions in a window, channels
}
"""Output layout of the blocks of each family (timm's module names); NCHW for all others."""

BLOCK_LAYOUTS: dict[str, Layout] = {"MetaBlock1d": "NLC", "TinyVitBlock": "NHWC"}
"""Output layout of block classes that differ from their family."""

LATE_CLASS_TOKEN = frozenset({"cait", "coat", "convit", "volo", "xcit"})
"""Families that add the class token after most blocks: for these, the mean over positions is taken."""

TWO_HEADS = frozenset({"efficientformer", "efficientformer_v2", "levit", "swiftformer"})
"""Families with two classifiers of one input, whose logits are averaged."""

MORE_THAN_A_HEAD = frozenset({"volo"})
"""Families whose logits come from the class token and from every other position."""

FINAL = "pooled"
"""Point name of the classifier's input."""


class TimmAdapter:
    """``timm:NAME[@CHECKPOINT]``: pretrained weights by name, or those of a local file."""

    scheme = "timm"

    def load(self, name: str) -> TracedModel:
        """Create a model and give it its weights.

        Parameters
        ----------
        name
            ``resnet18.a1_in1k`` fetches (or takes from the cache) timm's weights; ``resnet18@FILE`` reads
            ``.safetensors`` or ``.pth`` (weights only, nothing in it is run). The number of classes is the
            checkpoint's.

        Raises
        ------
        RepdynError
            If there is no such model or file, or the weights do not fit; the message names the keys.
        """
        import timm

        architecture, at, checkpoint = name.partition("@")
        if not timm.is_model(architecture):
            near = nearest_names(architecture.partition(".")[0], timm.list_models())
            raise RepdynError(f"model 'timm:{name}': timm has no {architecture!r}; {near}")
        if at:
            module = _with_checkpoint(timm, architecture, Path(os.path.expanduser(checkpoint)))
        else:
            try:
                module = timm.create_model(architecture, pretrained=True)
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise RepdynError(
                    f"model 'timm:{name}': its pretrained weights cannot be loaded ({reason}); "
                    f"give a local file, timm:{architecture}@FILE"
                ) from None
        return self.wrap(module.eval(), name)

    def recognizes(self, module: nn.Module) -> bool:
        """Whether a module is one of timm's models; imports nothing."""
        return type(module).__module__.startswith("timm.models.") and hasattr(module, "get_classifier")

    def wrap(self, module: nn.Module, name: str | None = None) -> TracedModel:
        """Make a model made by ``timm.create_model`` traceable."""
        model: Any = module
        family = type(model).__module__.rpartition(".")[2]
        layout = LAYOUTS.get(family, "NCHW")
        late = family in LATE_CLASS_TOKEN
        prefix = 0 if late or layout != "NLC" else _prefix_tokens(model)
        points = {}
        for path, part in model.named_modules():
            own = own_layout(part) or BLOCK_LAYOUTS.get(type(part).__name__, layout)
            # A TNT block gives the pixels of every patch, then the patches.
            points[path] = Point(
                path,
                own,
                prefix,
                part=1 if family == "tnt" and type(part).__name__ == "Block" else None,
                channels=channels_of(part),
                trust="declared" if own_layout(part) else "family",
            )
        del points[""]
        default = find_blocks(model)
        choices = find_choices(model, default)
        final, head = _final(model, family)
        if final is not None and _is_unpooled(
            model
        ):  # the classifier is applied at every position, so there is no single vector
            channels = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
            final, head = (
                replace(final, layout=layout, prefix=prefix, channels=channels, trust="family"),
                None,
            )
        if final is not None:
            points[FINAL] = final
            default = (*default, FINAL)
        prepare, words, size = _prepare(model)
        return TracedModel(
            name=f"timm:{name or getattr(model, 'pretrained_cfg', {}).get('architecture', family)}",
            module=model,
            points=points,
            default_points=default,
            prepare=prepare,
            pooling="cls" if prefix and getattr(model, "global_pool", "token") == "token" else "gap",
            final=None if final is None else FINAL,
            head=head,
            own_logits=None if head is None else model,
            choices=choices,
            preprocessing=words,
            blank=lambda _: torch.zeros(size),
        )


def _prefix_tokens(model: Any) -> int:
    declared = getattr(model, "num_prefix_tokens", None)
    return int(getattr(model, "cls_token", None) is not None if declared is None else declared)


def _is_unpooled(model: Any) -> bool:
    """Whether it was made with ``global_pool=""``."""
    if getattr(model, "global_pool", None) == "":
        return True
    return any(getattr(part, "pool_type", None) == "" for part in model.modules())


def _final(model: Any, family: str) -> tuple[Point | None, Callable[[Tensor], Tensor] | None]:
    """Where the classifier's input is read, and the classifier."""
    classifier = model.get_classifier()
    several = isinstance(classifier, (tuple, nn.ModuleList)) and family in TWO_HEADS
    heads = list(classifier) if several else [classifier]
    if not all(isinstance(part, nn.Module) and not isinstance(part, nn.ModuleList) for part in heads):
        return None, None  # several classifiers with different inputs have no common representation
    heads = [part.fc if isinstance(getattr(part, "fc", None), nn.Linear) else part for part in heads]
    path = next((path for path, part in model.named_modules() if part is heads[0]), None)
    if path is None:
        return None, None
    convolution = isinstance(heads[0], nn.Conv2d)
    point = Point(path, "NCHW" if convolution else "NC", reads="input")
    if any(isinstance(part, nn.Identity) for part in heads) or family in MORE_THAN_A_HEAD:
        return point, None

    def apply(x: Tensor) -> Tensor:
        weight = next(heads[0].parameters())
        x = devices.to(x, weight.device, weight.dtype)
        logits: list[Tensor] = [part(x[..., None, None] if convolution else x).flatten(1) for part in heads]
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2

    return point, apply


def _with_checkpoint(timm: Any, architecture: str, file: Path) -> nn.Module:
    weights = _read_weights(file)
    meta_classes = _classes(timm, architecture, weights)
    with torch.random.fork_rng():
        module: nn.Module = timm.create_model(architecture, pretrained=False, **meta_classes)
    filtered = _filtered(module, weights)
    expected = module.state_dict()
    missing = [key for key in expected if key not in filtered]
    unexpected = [key for key in filtered if key not in expected]
    wrong = [
        f"{key} {tuple(filtered[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in filtered and filtered[key].shape != value.shape
    ]
    if missing or unexpected or wrong:
        faults = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if keys
        ]
        raise RepdynError(f"{file}: does not fit timm's {architecture}: keys {'; '.join(faults)}")
    module.load_state_dict(filtered)
    return module


def _read_weights(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise RepdynError(f"{file}: there is no such checkpoint")
    content: Any
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and safetensors raise exceptions of many types on foreign files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's message advises to unpickle the file anyway
            reason = "it holds pickled objects, or is damaged; save its state_dict as safetensors"
        raise RepdynError(f"{file}: is not a readable checkpoint of weights alone ({reason})") from None
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RepdynError(f"{file}: holds no state dict; expected names and tensors")
    weights = {str(key): value for key, value in content.items()}
    prefixes = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
    while prefix := next((p for p in prefixes if weights and all(key.startswith(p) for key in weights)), ""):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _classes(timm: Any, architecture: str, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of classes of a checkpoint, from the shape of its classifier's weight."""
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    classifier = model.get_classifier()
    path = next((path for path, part in model.named_modules() if part is classifier), None)
    weight = weights.get(f"{path}.weight")
    return {} if weight is None else {"num_classes": len(weight)}


def _filtered(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's present names, where a family renamed them since."""
    import importlib

    adapt = getattr(importlib.import_module(type(module).__module__), "checkpoint_filter_fn", None)
    if adapt is None or set(weights) == set(module.state_dict()):
        return dict(weights)
    try:
        return dict(adapt(dict(weights), module))
    except (KeyError, RuntimeError, AttributeError, IndexError):
        return dict(weights)


def _prepare(model: Any) -> tuple[Callable[[Sequence[Any]], Tensor], str, tuple[int, ...]]:
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    settings = resolve_model_data_config(model)
    transform = create_transform(**settings, is_training=False)
    wide = next((weight.dtype == torch.float64 for weight in model.parameters()), False)
    mode = "L" if settings["input_size"][0] == 1 else "RGB"

    def one(sample: Any) -> Tensor:
        if isinstance(sample, Image.Image):
            return _transformed(sample)
        if isinstance(sample, str | os.PathLike):
            raise RepdynError(
                f"inputs: {os.fspath(sample)!r} is a name, expected a picture; open it with PIL.Image.open, "
                "or trace the folder: repdyn trace MODEL images:FOLDER"
            )
        array = sample if isinstance(sample, Tensor) else np.asarray(sample)
        if isinstance(array, Tensor) and array.is_floating_point():
            return array
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            kind = np.float64 if wide else np.float32
            return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
        pixels = (
            as_array(array.permute(1, 2, 0))
            if isinstance(array, Tensor) and array.ndim == 3
            else as_array(array)
        )
        if pixels.dtype != np.uint8:
            raise RepdynError(
                f"inputs: a sample of type {pixels.dtype}; expected a picture, "
                "uint8 (H, W, C) or floats (C, H, W)"
            )
        return _transformed(Image.fromarray(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels))

    def _transformed(picture: Any) -> Tensor:
        result: Tensor = transform(picture.convert(mode))
        return result

    def prepare(samples: Sequence[Any]) -> Tensor:
        try:
            return torch.stack([one(sample) for sample in samples])
        except RuntimeError as error:
            raise RepdynError(f"inputs: pictures of different shapes cannot be stacked ({error})") from None

    size = tuple(settings["input_size"])
    words = f"timm's: {'x'.join(map(str, size))}, {settings['interpolation']}, crop {settings['crop_pct']}"
    words += f", mean {settings['mean']}, std {settings['std']}"
    return prepare, words, size
