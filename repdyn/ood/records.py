"""Detectors from their records: of any class, several by name, and what version 0.1 saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refusing_damage
from repdyn.conformity import check_values
from repdyn.errors import RepdynError
from repdyn.ood.detector import CLASSES, Detector

__all__ = [
    "NamedDetectors",
    "from_any_record",
    "from_settings",
    "load_detector",
    "optional_count",
    "present_name",
    "record_all",
    "restore_all",
]

_RENAMED = {"nearest neighbours": "nearest neighbors"}  # names of members and controls until version 0.1


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """Read a saved detector of any class.

    Raises
    ------
    RepdynError
        If there is none, or it is truncated.
    """
    artifact = load_artifact(path, "detector")
    with refusing_damage(path, "detector"):
        return from_any_record(artifact.config, artifact.tensors, str(path))


def from_any_record(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], source: str) -> Detector:
    """A detector from its record, of the class that the record names."""
    name = str(config.get("detector"))
    if name not in CLASSES:
        raise RepdynError(f"{source}: holds an unknown detector {name!r}; upgrade repdyn")
    return CLASSES[name].from_record(config, tensors, source)


def from_settings(name: str, settings: Mapping[str, Any]) -> Detector:
    """A detector that is not fitted, by the name of its class and its constructor arguments."""
    if name not in CLASSES:
        raise ValueError(f"{name!r} is no detector")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return CLASSES[name](**given)


def record_all(detectors: Mapping[str, Detector]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Records of several named detectors as one configuration and one set of arrays."""
    config, tensors = {}, {}
    for name, detector in detectors.items():
        config[name], arrays = detector.to_record()
        tensors.update({f"{name}/{key}": array for key, array in arrays.items()})
    return config, tensors


def restore_all(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, Detector]:
    """The detectors that :func:`record_all` recorded, by their present names."""
    detectors: dict[str, Detector] = NamedDetectors()
    for name, inner in config.items():
        arrays = {k.removeprefix(f"{name}/"): a for k, a in tensors.items() if k.startswith(f"{name}/")}
        detectors[present_name(name)] = from_any_record(inner, arrays, name)
    return detectors


def present_name(name: str) -> str:
    """The present name of a member or control that version 0.1 may have named otherwise."""
    return _RENAMED.get(name, name)


class NamedDetectors(dict[str, Any]):
    """A dictionary by name of a member or control, which also accepts names of version 0.1."""

    def __missing__(self, name: str) -> Any:
        if name not in _RENAMED:
            raise KeyError(name)
        warnings.warn(
            f"{name!r} was renamed {_RENAMED[name]!r}; the old name is removed in the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self[_RENAMED[name]]


def optional_count(config: Mapping[str, Any], name: str) -> int | None:
    """A count of a record, which version 0.1 did not save."""
    if config.get(name) is None:
        return None
    check_values(config, **{name: int})
    return int(config[name])
