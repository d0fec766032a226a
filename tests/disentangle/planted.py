"""Sequences whose static and dynamic parts are known, and sequences made to break numerics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def planted_sequences(
    count: int = 120, length: int = 8, width: int = 6, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """A vector that stays plus a rotation of known speed: ``(N, T, width)``, static and dynamic labels."""
    generator = np.random.default_rng(seed)
    static, dynamic = generator.integers(3, size=count), generator.integers(2, size=count)
    mixing = np.random.default_rng(99).standard_normal((4, width))
    places = np.array([[1.5, 0], [-0.75, 1.3], [-0.75, -1.3]])[static]
    angle = np.arange(length) * np.where(dynamic, 0.6, 1.7)[:, None]
    phase = generator.uniform(0, 2 * np.pi, size=(count, 1))
    hidden = np.stack(
        [
            np.repeat(places[:, :1], length, axis=1),
            np.repeat(places[:, 1:], length, axis=1),
            np.cos(angle + phase),
            np.sin(angle + phase),
        ],
        axis=2,
    )
    return (hidden @ mixing).astype(np.float32), static, dynamic


def hard_sequences(kind: str, count: int = 16, length: int = 6, width: int = 3) -> NDArray[np.float32]:
    """Sequences that barely move, do not move, jump once, explode, alternate or are nothing."""
    generator = np.random.default_rng(1)
    base = np.repeat(generator.standard_normal((count, 1, width)), length, axis=1)
    noise = generator.standard_normal((count, length, width))
    time = np.arange(length)[None, :, None]
    made = {
        "near-static": base + 1e-5 * noise,
        "constant": base,
        "all the same": np.ones((count, length, width)),
        "nothing": np.zeros((count, length, width)),
        "impulse": 1000.0 * (time == 2) * np.ones((count, 1, width)),
        "exploding": base * 5.0**time,
        "alternating": base * (-1.0) ** time,
        "noise": noise,
    }
    return made[kind].astype(np.float32)
