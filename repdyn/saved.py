"""Open a saved result or estimator without knowing its kind."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from repdyn.artifacts import load_artifact
from repdyn.errors import RepdynError
from repdyn.results import registered

__all__ = ["load_result"]

_ROOMS = (
    "koopman",
    "fields",
    "topology",
    "translation",
    "ood",
    "disentangle",
    "shortening",
    "comparison",
    "migration",
)
# Estimators and networks, which are no results: where each kind is read.
_ESTIMATORS = {
    "koopman": ("repdyn.koopman", "KoopmanAutoencoder.from_pretrained"),
    "edited_koopman": ("repdyn.koopman", "EditedKoopman.load"),
    "detector": ("repdyn.ood", "load_detector"),
    "surrogate": ("repdyn.fields", "SurrogateAutoencoder.from_pretrained"),
    "energy field": ("repdyn.fields", "EnergyField.from_pretrained"),
    "shortened model": ("repdyn.shortening", "ShortenedModel.from_pretrained"),
    "flow": ("repdyn.topology", "FlowAutoencoder.from_pretrained"),
}


def load_result(path: str | os.PathLike[str]) -> Any:
    """Open any folder that a ``save`` or ``save_pretrained`` of repdyn wrote.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    Result, Detector or network
        An object of the class that wrote it, on the CPU.

    Raises
    ------
    RepdynError
        If the folder is missing, damaged, or not a repdyn result.

    Examples
    --------
    >>> repdyn.load_result("l6-to-e5.translation")  # doctest: +SKIP
    LinearTranslation(384 -> 384, verdict='found', confidence=0.943)
    """
    artifact = load_artifact(path)
    kind = artifact.kind
    for room in _ROOMS:
        import_module(f"repdyn.{room}")
    if kind in registered():
        return registered()[kind].load(path)
    if kind == "disentangle":  # two models share the kind
        model = "SSMSKD" if artifact.config.get("model") == "SSMSKD" else "SKD"
        return getattr(import_module("repdyn.disentangle"), model).from_pretrained(path)
    if kind not in _ESTIMATORS:
        known = ", ".join(sorted({*registered(), *_ESTIMATORS}))
        raise RepdynError(f"{os.fspath(path)}: holds a {kind!r}, which is none of {known}; upgrade repdyn")
    module, name = _ESTIMATORS[kind]
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(path)
