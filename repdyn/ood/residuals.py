"""Detectors over an encode-decode map: what they share, and the two plain ones, error and first residual."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays
from repdyn.errors import RepdynError
from repdyn.ood.chunks import read, values
from repdyn.ood.crossfit import FOLDS
from repdyn.ood.detector import Detector
from repdyn.ood.orbits import Map, apply, as_numpy, as_tensor
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["FieldDetector", "ReconstructionDetector", "ResidualDetector"]

Array = NDArray[np.float64]

PROBES = 8  # inputs kept to recognise the auto-encoder by when a detector is loaded


class FieldDetector(Detector):
    """What detectors over an encode-decode map share: the map, and how to recognise it again.

    Parameters
    ----------
    encode
        Maps ``(n, D)`` tensors of the point to codes ``(n, d)``; normalisation, if wanted, is its part.
    decode
        Maps codes back.
    point
        The point of the path that is encoded; default: the last one.

    Notes
    -----
    A fitted detector is saved without the maps, which are the user's: after loading, :meth:`bind` them.
    The auto-encoder has usually seen the fitted samples, so its residuals on them are too small: call
    :meth:`calibrate` with held-out paths before the threshold or a p-value is used.
    """

    def __init__(
        self, encode: Map | None = None, decode: Map | None = None, point: str | None = None
    ) -> None:
        self.encode = encode
        self.decode = decode
        self.point = point

    def bind(self, encode: Map, decode: Map) -> Self:
        """Give a loaded detector its auto-encoder back.

        Raises
        ------
        RepdynError
            If it moves the kept probes elsewhere than the one fitted with.
        """
        self._fitted()
        self.encode, self.decode = encode, decode
        image = self._image(self._probes)
        if image.shape != self._images.shape or not np.allclose(image, self._images, rtol=1e-2, atol=1e-4):
            self.encode = self.decode = None
            raise RepdynError("bind: this auto-encoder is not the one the detector was fitted with")
        return self

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn how in-distribution codes move.

        Raises
        ------
        RepdynError
            If the maps are missing, do not fit together, or give non-finite values.
        """
        self._maps()
        if len(paths) < 4 * FOLDS:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {4 * FOLDS}")
        point = self.point or paths.points[-1]
        self._begin(paths, (point,))
        self._probes = np.asarray(values(paths.subset(np.arange(PROBES)), point), dtype=np.float32)
        self._images = self._image(self._probes)
        for batch in read(paths, self.points_, "reading what is to be encoded"):
            self._note(point, batch[point])
        self._row_groups = self._groups(paths)
        self._calibrate(self._learn(paths), "cross-fitted", groups=self._row_groups)
        return self

    @abstractmethod
    def _learn(self, paths: RepresentationPaths) -> Array:
        """Learn from the paths and give their scores, cross-fitted where something is learned."""

    def _maps(self) -> tuple[Map, Map]:
        if self.encode is None or self.decode is None:
            raise RepdynError(
                f"{type(self).__name__}: has no auto-encoder; give encode and decode, or bind(encode, decode)"
            )
        return self.encode, self.decode

    def _image(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        encode, decode = self._maps()
        code = apply(encode, as_tensor(encode, x))
        back = apply(decode, code)
        if back.shape != x.shape:
            raise RepdynError(f"decode: gave shape {tuple(back.shape)} for inputs of {x.shape}")
        image = as_array(apply(encode, back))
        if not np.isfinite(image).all():
            raise RepdynError("encode: gives non-finite codes of decoded in-distribution samples")
        return np.asarray(image, dtype=np.float32)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {"probes": self._probes, "images": self._images}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_arrays(tensors, True, probes=f"N {self.widths_[self.points_[0]]}")
        if len(tensors["images"]) != len(tensors["probes"]) or not np.isfinite(tensors["images"]).all():
            raise ValueError(f"images have shape {tensors['images'].shape}, or are not finite")
        self._probes = np.asarray(tensors["probes"], dtype=np.float32)
        self._images = np.asarray(tensors["images"], dtype=np.float32)


class ReconstructionDetector(FieldDetector):
    """Minus the reconstruction error, −‖x − D(E(x))‖: the plain control of every auto-encoder score."""

    def _learn(self, paths: RepresentationPaths) -> Array:
        return self._collect(paths, self._score)

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        encode, decode = self._maps()
        x = as_tensor(encode, batch[self.points_[0]])
        return -as_numpy((x - apply(decode, apply(encode, x))).norm(dim=1))


class ResidualDetector(FieldDetector):
    """Minus the length of the field at the code, −‖E(D(z)) − z‖ with z = E(x): one step, no attractor."""

    def _learn(self, paths: RepresentationPaths) -> Array:
        return self._collect(paths, self._score)

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        encode, decode = self._maps()
        code = apply(encode, as_tensor(encode, batch[self.points_[0]]))
        return -as_numpy((apply(encode, apply(decode, code)) - code).norm(dim=1))
