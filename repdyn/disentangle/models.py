"""SKD and SSM-SKD: autoencoders of sequences with linear latent dynamics, split by spectrum."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_sizes, check_types, check_values
from repdyn.devices import as_given, double, to
from repdyn.disentangle import swaps, training
from repdyn.disentangle.factors import Factors, split
from repdyn.disentangle.losses import LossWeights
from repdyn.disentangle.sequence_autoencoder import SequenceAutoencoder
from repdyn.disentangle.sequences import Sequences as SequenceBatch
from repdyn.disentangle.sequences import read_sequences
from repdyn.disentangle.settings import TRAINING
from repdyn.disentangle.spectral import one_step, operators_of
from repdyn.errors import RepdynError
from repdyn.hub import repository
from repdyn.koopman.frames import load_weights
from repdyn.publishing import HubMixin
from repdyn.reading import as_array

__all__ = ["SKD", "SSMSKD", "StructuredKoopman"]

Model = TypeVar("Model", bound="StructuredKoopman")

_SAVED: dict[str, Any] = {
    "static_dim": int,
    "latent_dim": int,
    "hidden": int,
    "channels": list[int] | None,
    "extraction": str,
    "threshold": float,
    "weights": dict[str, float],
    "frame": list[int],
    "widths": list[list[Any]] | None,
    "history": dict[str, list[float]],
    "best_epoch": int,
}


class StructuredKoopman(SequenceAutoencoder, HubMixin):
    """Base of SKD and SSM-SKD, which differ in the transitions that an operator is solved from.

    Frames are encoded to latents ``z_t``. An operator with ``z_(t+1) ≈ z_t K`` is solved for by ridge
    regression. The spectral loss moves ``static_dim`` of its eigenvalues to one and the others away from it.
    The spectral projector of the static eigenvalues gives the static part of a sequence; the rest is the
    dynamic part.

    Parameters
    ----------
    static_dim
        Number s of static eigenvalues.
    latent_dim
        Width k of the latents.
    hidden
        Width of the decoder's LSTM.
    channels
        Widths of the convolutions (or of the perceptron, for vectors). By default 32, 64, 128, 256 for clips,
        as published, and ``hidden`` for vectors.
    extraction
        Definition of a single static factor. ``"eigenvector"``: one mode of the static part.
        ``"coordinate"``: one latent coordinate of it.
    threshold
        Dynamic eigenvalues with a larger real part are penalized.
    weights
        Of the losses.

    Attributes
    ----------
    operator_ : Tensor
        The operator of all training sequences, ``(1, k, k)``. SKD uses it, so that the factors of a sequence
        do not depend on the other sequences of a batch.
    history_ : dict
        Losses by epoch, and those of the validation part.
    best_epoch_ : int
        The epoch of the final weights.
    """

    def fit(
        self,
        sequences: Any,
        epochs: int = 140,
        seed: int = 0,
        *,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        validation: Any = None,
        device: str | torch.device | None = None,
        precision: str = "float32",
        compiled: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Train encoder and decoder; operators are solved for in every batch.

        Parameters
        ----------
        sequences
            Array or tensor ``(N, T, width)`` or ``(N, T, channels, height, width)``, a list of sequences of
            differing lengths, or :class:`~repdyn.paths.RepresentationPaths`, whose depth is then time.
        epochs
            Largest number of epochs.
        seed
            Of weights, batches, dropout and the validation part.
        batch_size
            Sequences in a batch.
        learning_rate
            Of Adam. It is multiplied by .5623 where the validation loss stops improving; training then
            continues from the best weights so far.
        validation
            Sequences that select the epoch; default: a tenth of ``sequences``.
        device
            Device of the training; default: the model's current device, the CPU before the first fit.
        precision
            ``"bfloat16"`` trains the networks of frames in mixed precision. Weights, latents and the
            validation loss stay in float32, operators in float64.
        compiled
            Compile the networks of frames with ``torch.compile``. The first steps take a minute.
        checkpoint
            Folder for the state of the fit, which is saved about once a minute. A fit that was killed and is
            called again with the same arguments goes on from there and ends with the same numbers. A finished
            one goes on if ``epochs`` is larger.

        Returns
        -------
        StructuredKoopman
            Itself.

        Raises
        ------
        RepdynError
            On settings out of range (``static_dim`` above ``latent_dim``), sequences of one frame,
            values that are not finite, or a checkpoint of another fit.
        """
        training.fit(
            self,
            sequences,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation=validation,
            device=device,
            precision=precision,
            compiled=compiled,
            checkpoint=checkpoint,
        )
        return self

    @torch.no_grad()
    def encode(self, sequences: Any) -> Any:
        """Latents of sequences, shape ``(N, T, k)``; padding is zero.

        A tensor gives a tensor of its device and dtype, everything else a float32 array.
        """
        data = self.read(sequences)
        parts = []
        for start in range(0, len(data), TRAINING.batch):
            batch = data.take(slice(start, start + TRAINING.batch))
            x, mask = self.standardize(to(batch.values, self.device)), to(batch.mask, self.device)
            parts.append(as_array(self.encoder_(x, None if batch.full else mask) * mask[..., None]))
        return as_given(np.concatenate(parts), sequences)

    @torch.no_grad()
    def decode(self, z: Any) -> Any:
        """Sequences ``(N, T, …)`` from latents ``(N, T, k)``; those of paths in the shared state space.

        A tensor gives a tensor of its device and dtype, everything else a float32 array.
        """
        self._check_fitted()
        rows = torch.as_tensor(as_array(z), dtype=torch.float32)
        parts = [
            as_array(self.restore_scale(self.decoder_(to(rows[start : start + TRAINING.batch], self.device))))
            for start in range(0, len(rows), TRAINING.batch)
        ]
        return as_given(np.concatenate(parts), z)

    def reconstruct(self, sequences: Any) -> Any:
        """Sequences after :meth:`encode` and :meth:`decode`."""
        return self.decode(self.encode(sequences))

    def predict(self, sequences: Any) -> Any:
        """Sequences ``(N, T, …)`` whose frames, except the first, are predicted from the previous true
        ones."""
        data = self.read(sequences)
        z = torch.from_numpy(self.encode(data))
        return as_given(self.decode(as_array(one_step(z, self.operators(z, data.mask)))), sequences)

    def operators(self, z: Tensor, mask: Tensor) -> Tensor:
        """The operators of latents: one of each sequence, or that of the training set; ``(B or 1, k, k)``."""
        self._check_fitted()
        return (
            double(to(self.operator_, z.device))
            if self.operator == "batch"
            else operators_of(z, mask, "sequence")
        )

    def factors(self, sequences: Any) -> Factors:
        """Static and dynamic part of the latents of each sequence, and the single static factors.

        Parameters
        ----------
        sequences
            As in :meth:`fit`.

        Returns
        -------
        Factors
            Parts whose sum is the result of :meth:`encode`.
        """
        data = self.read(sequences)
        z = torch.from_numpy(self.encode(data))
        operators = self.operators(z, data.mask)
        return split(as_array(z), as_array(data.mask), operators, self.static_dim, self.extraction)

    def swap(self, first: Any, second: Any, factors: str | Sequence[int] = "static") -> swaps.Swap:
        """Exchange parts of two sets of sequences, pair by pair, and decode both.

        Parameters
        ----------
        first, second
            The same number of sequences in each, all of one length.
        factors
            ``"static"``, ``"dynamic"``, or the numbers of single static factors.

        Returns
        -------
        Swap
            ``first`` with the parts of ``second``, and ``second`` with those of ``first``.
        """
        return swaps.swap(self, first, second, factors)

    def sample(
        self, sequences: Any, count: int = 1, resample: str | Sequence[int] = "static", seed: int = 0
    ) -> NDArray[np.float32]:
        """New sequences: parts are replaced by convex mixes of the same parts of two other sequences.

        See :func:`repdyn.disentangle.swaps.resample`, which has the same arguments.
        """
        parts = self.factors(sequences)
        rows = np.random.default_rng(seed).integers(len(parts), size=count)
        sampled: NDArray[np.float32] = self.decode(swaps.resample(parts, resample, seed=seed, rows=rows))
        return sampled

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights to a folder, ``config.json`` and ``model.safetensors``."""
        self._check_fitted()
        save_artifact(path, "disentangle", *_describe(self))

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote, onto ``device``; default: the CPU.

        ``path`` is a folder, or ``"user/name"`` on the Hugging Face Hub; ``revision`` is its branch, tag or
        commit, and ``token`` that of an account.

        Raises
        ------
        RepdynError
            If the folder holds something else, another of the two models, or weights that do not match.
        """
        artifact = load_artifact(repository(path, revision, token), "disentangle")
        return to(_restore(cls, artifact.config, artifact.tensors, path), device)

    def read(self, sequences: Any) -> SequenceBatch:
        """Checked sequences, whose frames have the shape that this model was fitted to."""
        self._check_fitted()
        # A copy, since `to` would move the submodule of the model.
        frames = None if self.frames_ is None else to(copy.deepcopy(self.frames_), "cpu")
        data = read_sequences(sequences, frames)
        if data.frame != self.frame_:
            raise RepdynError(f"frames have shape {data.frame}, this model was fitted to {self.frame_}")
        return data

    @property
    def place(self) -> torch.device:
        """Old name of ``device``."""
        warnings.warn("place was renamed device", DeprecationWarning, stacklevel=2)
        return self.device

    def standardise(self, x: Tensor) -> Tensor:
        """Old name of :meth:`standardize`."""
        warnings.warn("standardise was renamed standardize", DeprecationWarning, stacklevel=2)
        return self.standardize(x)


class SKD(StructuredKoopman):
    """Structured Koopman disentanglement: one operator per batch, several static eigenvalues.

    Parameters are those of :class:`StructuredKoopman`, with the published values for Sprites as defaults.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((24, 5, 3)).astype("float32")
    >>> model = SKD(static_dim=2, latent_dim=4, hidden=8).fit(x, epochs=2)
    >>> model.swap(x[:3], x[3:6], "static").first.shape
    (3, 5, 3)

    References
    ----------
    Berman, N., Naiman, I. and Azencot, O. (2023). Multifactor sequential disentanglement via structured
    Koopman autoencoders. ICLR.
    """

    operator = "batch"

    def __init__(
        self,
        static_dim: int = 8,
        latent_dim: int = 40,
        hidden: int = 80,
        channels: Sequence[int] | None = None,
        extraction: str = "eigenvector",
        threshold: float = 0.5,
        weights: LossWeights | None = None,
    ) -> None:
        published = LossWeights(15.0, 1.0, 1.0) if weights is None else weights
        super().__init__(static_dim, latent_dim, hidden, channels, extraction, threshold, published)


class SSMSKD(StructuredKoopman):
    """Single static mode SKD: one operator per sequence, with one eigenvalue at one.

    Parameters are those of :class:`StructuredKoopman`, with the published values for Sprites as defaults.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((24, 6, 3)).astype("float32")
    >>> model = SSMSKD(latent_dim=4, hidden=8).fit(x, epochs=2)
    >>> parts = model.factors(x)
    >>> bool(np.allclose(parts.static + parts.dynamic, model.encode(x), atol=1e-5))
    True

    References
    ----------
    Hason, A. (2024). Single static mode structured Koopman disentanglement. MSc thesis, Ben-Gurion
    University.
    """

    operator = "sequence"

    def __init__(
        self,
        static_dim: int = 1,
        latent_dim: int = 15,
        hidden: int = 170,
        channels: Sequence[int] | None = None,
        extraction: str = "coordinate",
        threshold: float = 0.75,
        weights: LossWeights | None = None,
    ) -> None:
        published = LossWeights() if weights is None else weights
        super().__init__(static_dim, latent_dim, hidden, channels, extraction, threshold, published)


def _describe(model: StructuredKoopman) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and weights of a fitted model, as JSON values and named arrays."""
    config = {
        "model": type(model).__name__,
        "static_dim": model.static_dim,
        "latent_dim": model.latent_dim,
        "hidden": model.hidden,
        "channels": None if model.channels is None else list(model.channels),
        "extraction": model.extraction,
        "threshold": model.threshold,
        "weights": asdict(model.weights),
        "frame": list(model.frame_),
        "widths": None if model.frames_ is None else list(model.frames_.widths.items()),
        "history": model.history_,
        "best_epoch": model.best_epoch_,
    }
    return config, {name: as_array(value) for name, value in model.state_dict().items()}


def _restore(
    kind: type[Model], config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: Any
) -> Model:
    """The model that :func:`_describe` recorded.

    Parameters
    ----------
    kind
        Its class.
    config, tensors
        As :func:`_describe` gives them.
    path
        Their folder, for error messages.

    Raises
    ------
    RepdynError
        If they belong to another model, or do not match.
    """
    if config.get("model") != kind.__name__:
        raise RepdynError(f"{path}: holds a {config.get('model')!r}; load it with that class")
    try:
        check_values(config, **_SAVED)
        weights, widths = LossWeights(**config["weights"]), config["widths"]
        check_types(weights)
        own = None if widths is None else dict(widths)
        check_values({"widths": own}, widths=dict[str, int] | None)
        check_sizes(
            tensors,
            latent_dim=config["latent_dim"],
            hidden=config["hidden"],
            channels=config["channels"],
            widths=None if own is None else list(own.values()),
        )
        model = kind(
            static_dim=config["static_dim"],
            latent_dim=config["latent_dim"],
            hidden=config["hidden"],
            channels=config["channels"],
            extraction=config["extraction"],
            threshold=config["threshold"],
            weights=weights,
        )
        model.build(config["frame"], own, seed=0)
        model.history_, model.best_epoch_ = config["history"], config["best_epoch"]
    except (KeyError, TypeError, ValueError) as error:
        raise RepdynError(f"{path}: its config.json is not that of a {kind.__name__} ({error})") from None
    load_weights(model, tensors, path)
    return model.eval()
