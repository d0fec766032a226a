"""The fifteen corruptions of ImageNet-C at five strengths, for pictures of 32 by 32 pixels.

After Hendrycks & Dietterich (2019), with the strengths of their CIFAR-10-C. Made here from the formulas:
blurs by scipy, noise by NumPy, JPEG and resizing by Pillow. Frost is not theirs: they blend photographs of
frost, which are not at hand, and ours blends ridges of smooth noise. Snow has a plain line kernel for its
motion.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

__all__ = ["CORRUPTIONS", "EXTRA", "STRENGTHS", "corrupted"]

Array = NDArray[np.float64]
Make = Callable[[Array, int, np.random.Generator], Array]
STRENGTHS = 5


def corrupted(
    pictures: list[Image.Image], kind: str, strength: int, generator: np.random.Generator
) -> list[Image.Image]:
    """Pictures under one corruption; ``strength`` is 1 to 5.

    Examples
    --------
    >>> pictures = [Image.new("RGB", (32, 32), "gray")]
    >>> corrupted(pictures, "brightness", 5, np.random.default_rng(0))[0].size
    (32, 32)
    """
    if not 1 <= strength <= STRENGTHS:
        raise ValueError(f"strength: expected 1 to {STRENGTHS}, got {strength}")
    found = []
    for picture in pictures:
        x = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
        make = CORRUPTIONS.get(kind) or EXTRA[kind]
        y = np.clip(make(x, strength - 1, generator), 0, 1)
        found.append(Image.fromarray((255 * y).round().astype(np.uint8)))
    return found


def _gaussian_noise(x: Array, k: int, generator: np.random.Generator) -> Array:
    return x + generator.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[k], size=x.shape)


def _shot_noise(x: Array, k: int, generator: np.random.Generator) -> Array:
    photons = (500, 250, 100, 75, 50)[k]
    return generator.poisson(x * photons) / photons


def _impulse_noise(x: Array, k: int, generator: np.random.Generator) -> Array:
    hit = generator.random(x.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[k]
    return np.where(hit, generator.integers(2, size=x.shape), x)


def _kernel_blurred(x: Array, kernel: Array) -> Array:
    kernel = kernel / kernel.sum()
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="reflect") for c in range(3)], axis=-1)


def _defocus_blur(x: Array, k: int, _: np.random.Generator) -> Array:
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[k]
    grid = np.arange(-3, 4)
    disk = (grid[:, None] ** 2 + grid[None] ** 2 <= radius**2).astype(float)
    return _kernel_blurred(x, ndimage.gaussian_filter(disk, alias))


def _glass_blur(x: Array, k: int, generator: np.random.Generator) -> Array:
    sigma, most, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[k]
    y = ndimage.gaussian_filter(x, (sigma, sigma, 0))
    height, width = y.shape[:2]
    for _ in range(rounds):
        for row in range(height - most - 1, most, -1):
            for column in range(width - most - 1, most, -1):
                down, right = generator.integers(-most, most + 1, size=2)
                other = y[row + down, column + right].copy()
                y[row + down, column + right] = y[row, column]
                y[row, column] = other
    return ndimage.gaussian_filter(y, (sigma, sigma, 0))


def _line(radius: float, sigma: float, angle: float) -> Array:
    """A line from the middle outwards, with Gaussian weights, as a kernel."""
    half = int(np.ceil(radius))
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for step in np.linspace(0, radius, 4 * half + 1):
        row, column = round(half + step * np.sin(angle)), round(half + step * np.cos(angle))
        kernel[row, column] += np.exp(-(step**2) / (2 * sigma**2))
    return kernel


def _motion_blur(x: Array, k: int, generator: np.random.Generator) -> Array:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[k]
    return _kernel_blurred(x, _line(radius, sigma, generator.uniform(-np.pi / 4, np.pi / 4)))


def _zoomed(x: Array, factor: float) -> Array:
    """The middle of a picture, enlarged to its size."""
    size = x.shape[0]
    kept = int(np.ceil(size / factor))
    start = (size - kept) // 2
    part = x[start : start + kept, start : start + kept]
    large = ndimage.zoom(part, (size / kept, size / kept, 1), order=1)
    return large[:size, :size]


def _zoom_blur(x: Array, k: int, _: np.random.Generator) -> Array:
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[k], 0.01)
    return np.mean([x, *(_zoomed(x, factor) for factor in factors)], axis=0)


def _snow(x: Array, k: int, generator: np.random.Generator) -> Array:
    mean, spread, zoom, least, radius, sigma, mixed = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[k]
    flakes = _zoomed(generator.normal(mean, spread, size=x.shape[:2])[..., None], zoom)[..., 0]
    flakes = np.where(flakes < least, 0, np.clip(flakes, 0, 1))
    kernel = _line(radius, sigma, generator.uniform(-3 * np.pi / 4, -np.pi / 4))
    flakes = ndimage.convolve(flakes, kernel / kernel.sum(), mode="constant")[..., None]
    gray = x @ np.array([0.299, 0.587, 0.114])
    pale = mixed * x + (1 - mixed) * np.maximum(x, gray[..., None] * 1.5 + 0.5)
    return pale + flakes + np.rot90(flakes, k=2)


def _frost(x: Array, k: int, generator: np.random.Generator) -> Array:
    own, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[k]
    rough = ndimage.gaussian_filter(generator.normal(size=x.shape[:2]), generator.uniform(0.8, 1.6))
    ridges = np.exp(-np.abs(rough) / rough.std() * 3)  # thin, bright lines where the noise changes its sign
    return own * x + ice * ridges[..., None] * np.array([0.85, 0.93, 1.0])


def _plasma(size: int, decay: float, generator: np.random.Generator) -> Array:
    """Fractal noise in [0, 1]: octaves whose weight falls by ``decay``."""
    total, weight, step = np.zeros((size, size)), 1.0, 2
    while step <= size:
        coarse = generator.random((step + 1, step + 1))
        total += weight * ndimage.zoom(coarse, size / (step + 1), order=1)[:size, :size]
        weight, step = weight / decay, 2 * step
    return (total - total.min()) / (np.ptp(total) + 1e-12)


def _fog(x: Array, k: int, generator: np.random.Generator) -> Array:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[k]
    top = x.max()
    return (x + amount * _plasma(len(x), decay, generator)[..., None]) * top / (top + amount)


def _brightness(x: Array, k: int, _: np.random.Generator) -> Array:
    value = x.max(axis=2, keepdims=True)  # of hue, saturation and value
    raised = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[k], 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-12), raised)


def _contrast(x: Array, k: int, _: np.random.Generator) -> Array:
    means = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * (0.75, 0.5, 0.4, 0.3, 0.15)[k] + means


def _elastic_transform(x: Array, k: int, generator: np.random.Generator) -> Array:
    size = len(x)
    far, smooth, corner = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[k]
    middle, third = size / 2, size / 3
    before = np.array([[middle + third] * 2, [middle + third, middle - third], [middle - third] * 2])
    after = before + generator.uniform(-corner * size, corner * size, size=before.shape)
    bordered = np.column_stack([after, np.ones(3)])
    affine = np.linalg.solve(bordered, before)  # where each pixel of the result comes from
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ affine
    if far:
        moved = generator.uniform(-1, 1, size=(size, size, 2))
        places = places + far * size * ndimage.gaussian_filter(moved, (smooth * size, smooth * size, 0))
    at = np.moveaxis(places, -1, 0)
    return np.stack([ndimage.map_coordinates(x[..., c], at, order=1, mode="reflect") for c in range(3)], -1)


def _pixelate(x: Array, k: int, _: np.random.Generator) -> Array:
    picture = Image.fromarray((255 * x).astype(np.uint8))
    side = int(len(x) * (0.95, 0.9, 0.85, 0.75, 0.65)[k])
    small = picture.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize(picture.size, Image.Resampling.NEAREST), dtype=np.float64) / 255


def _jpeg_compression(x: Array, k: int, _: np.random.Generator) -> Array:
    file = io.BytesIO()
    Image.fromarray((255 * x).astype(np.uint8)).save(file, "JPEG", quality=(80, 65, 58, 50, 40)[k])
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def _speckle_noise(x: Array, k: int, generator: np.random.Generator) -> Array:
    return x + x * generator.normal(scale=(0.06, 0.1, 0.12, 0.16, 0.2)[k], size=x.shape)


def _gaussian_blur(x: Array, k: int, _: np.random.Generator) -> Array:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[k]
    return np.asarray(ndimage.gaussian_filter(x, (sigma, sigma, 0)))


def _saturate(x: Array, k: int, _: np.random.Generator) -> Array:
    factor, added = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[k]
    value = x.max(axis=2, keepdims=True)
    saturation = 1 - x.min(axis=2, keepdims=True) / np.maximum(value, 1e-12)
    raised = np.clip(saturation * factor + added, 0, 1)
    return value - (value - x) * raised / np.maximum(saturation, 1e-12)


CORRUPTIONS: dict[str, Make] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic transform": _elastic_transform,
    "pixelate": _pixelate,
    "JPEG compression": _jpeg_compression,
}
EXTRA: dict[str, Make] = {
    "speckle noise": _speckle_noise,
    "Gaussian blur": _gaussian_blur,
    "saturation": _saturate,
}
"""Three of the four that ImageNet-C keeps apart for validation; spatter is left out."""
