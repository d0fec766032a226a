"""What SKD and SSM-SKD share: autoencoders of sequences with linear latent dynamics, split by spectrum."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.devices import as_given, double, to
from repdyn.disentangle.checks import check_fitted, check_settings
from repdyn.disentangle.factors import Factors, split
from repdyn.disentangle.losses import Weights, operators_of
from repdyn.disentangle.networks import SequenceDecoder, SequenceEncoder
from repdyn.disentangle.operators import one_step
from repdyn.disentangle.pretrained import describe, restore
from repdyn.disentangle.sequences import Sequences as SequenceBatch
from repdyn.disentangle.sequences import read_sequences
from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames
from repdyn.reading import as_array
from repdyn.seeding import drawing

if TYPE_CHECKING:
    from repdyn.disentangle.swaps import Swap

__all__ = ["StructuredKoopman"]

_BATCH = 256  # sequences that pass through the networks at a time when reading


class StructuredKoopman(nn.Module):
    """What SKD and SSM-SKD share: everything but whose transitions an operator is solved from.

    Frames are encoded to latents ``z_t``; an operator with ``z_(t+1) ≈ z_t K`` is solved for by ridge; the
    spectral loss draws ``static_dim`` of its eigenvalues to one and the others away. What the spectral
    projector of the static eigenvalues keeps is the static part of a sequence, the rest is the dynamic part.

    Parameters
    ----------
    static_dim
        Size s of the static set.
    latent_dim
        k.
    hidden
        Width of the decoder's LSTM.
    channels
        Widths of the convolutions (or of the perceptron, for vectors). By default 32, 64, 128, 256 for clips,
        as published, and ``hidden`` for vectors.
    extraction
        What a single static factor is. ``"eigenvector"``: one mode of the static part. ``"coordinate"``: one
        latent coordinate of it.
    threshold
        Dynamic eigenvalues above this real part are penalised.
    weights
        Of the losses.

    Attributes
    ----------
    operator_ : Tensor
        The operator of all training sequences, ``(1, k, k)``; SKD reads with it, so that a sequence's factors
        do not depend on which others are beside it.
    history_ : dict
        Losses by epoch, and those of the validation part.
    best_epoch_ : int
        The epoch whose weights were kept.
    """

    operator: ClassVar[str]

    def __init__(
        self,
        static_dim: int,
        latent_dim: int,
        hidden: int,
        channels: Sequence[int] | None,
        extraction: str,
        threshold: float,
        weights: Weights,
    ) -> None:
        super().__init__()
        self.static_dim = static_dim
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.channels = None if channels is None else tuple(channels)
        self.extraction = extraction
        self.threshold = threshold
        self.weights = weights

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
    ) -> Self:
        """Learn encoder and decoder; operators are solved for in every batch.

        Parameters
        ----------
        sequences
            Array or tensor ``(N, T, width)`` or ``(N, T, channels, height, width)``, a list of sequences of
            differing lengths, or :class:`~repdyn.paths.RepresentationPaths`, whose depth is then time.
        epochs
            At most so many.
        seed
            Of weights, batches, dropout and the part set aside.
        batch_size
            Sequences in a batch.
        learning_rate
            Of Adam; multiplied by .5623 where the validation loss stops improving, and the best weights so
            far are taken up again.
        validation
            Sequences to select the epoch by; default: a tenth of ``sequences``.
        device
            Where to train; default: where it is, the CPU for one that was never fitted.

        Returns
        -------
        StructuredKoopman
            Itself.

        Raises
        ------
        RepdynError
            On settings that make no sense (``static_dim`` above ``latent_dim``), sequences of one frame, or
            values that are not finite.
        """
        from repdyn.disentangle.training import fit

        fit(
            self,
            sequences,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation=validation,
            device=device,
        )
        return self

    @torch.no_grad()
    def encode(self, sequences: Any) -> Any:
        """Latents of sequences, shape ``(N, T, k)``; frames that are padding are zero.

        A tensor is answered by a tensor on its device in its type, all else by a float32 array.
        """
        found = self.read(sequences)
        parts = []
        for start in range(0, len(found), _BATCH):
            batch = found.take(slice(start, start + _BATCH))
            x, mask = self.standardise(to(batch.values, self.place)), to(batch.mask, self.place)
            parts.append(as_array(self.encoder_(x, mask) * mask[..., None]))
        return as_given(np.concatenate(parts), sequences)

    @torch.no_grad()
    def decode(self, z: Any) -> Any:
        """Sequences ``(N, T, …)`` from latents ``(N, T, k)``; those of paths in the shared state space.

        A tensor is answered by a tensor on its device in its type, all else by a float32 array.
        """
        check_fitted(self)
        rows = torch.as_tensor(as_array(z), dtype=torch.float32)
        parts = [
            as_array(self.restore_scale(self.decoder_(rows[start : start + _BATCH].to(self.place))))
            for start in range(0, len(rows), _BATCH)
        ]
        return as_given(np.concatenate(parts), z)

    def reconstruct(self, sequences: Any) -> Any:
        """What :meth:`decode` makes of what :meth:`encode` found."""
        return self.decode(self.encode(sequences))

    def predict(self, sequences: Any) -> Any:
        """Sequences in which every frame but the first is predicted from the one before, ``(N, T, …)``."""
        found = self.read(sequences)
        z = torch.from_numpy(self.encode(found))
        return as_given(self.decode(as_array(one_step(z, self.operators(z, found.mask)))), sequences)

    def operators(self, z: Tensor, mask: Tensor) -> Tensor:
        """The operators that read latents: of each sequence, or the training set's; ``(B or 1, k, k)``."""
        check_fitted(self)
        return (
            double(self.operator_.to(z.device))
            if self.operator == "batch"
            else operators_of(z, mask, "sequence")
        )

    def factors(self, sequences: Any) -> Factors:
        """Static and dynamic part of each sequence's latents, and the static part's single factors.

        Parameters
        ----------
        sequences
            As in :meth:`fit`.

        Returns
        -------
        Factors
            Latents whose parts sum to what :meth:`encode` gives.
        """
        found = self.read(sequences)
        z = torch.from_numpy(self.encode(found))
        operators = self.operators(z, found.mask)
        return split(as_array(z), as_array(found.mask), operators, self.static_dim, self.extraction)

    def swap(self, first: Any, second: Any, factors: str | Sequence[int] = "static") -> Swap:
        """Exchange parts of two sets of sequences, pair by pair, and decode both.

        Parameters
        ----------
        first, second
            As many sequences in each, of one length.
        factors
            ``"static"``, ``"dynamic"``, or the numbers of single static factors.

        Returns
        -------
        Swap
            ``first`` with the parts of ``second``, and the other way round.
        """
        from repdyn.disentangle.swaps import swap

        return swap(self, first, second, factors)

    def sample(
        self, sequences: Any, count: int = 1, resample: str | Sequence[int] = "static", seed: int = 0
    ) -> NDArray[np.float32]:
        """New sequences: parts replaced by convex mixes of two other sequences' parts.

        See :func:`repdyn.disentangle.swaps.resample`, whose arguments these are.
        """
        from repdyn.disentangle.swaps import resample as drawn

        parts = self.factors(sequences)
        rows = np.random.default_rng(seed).integers(len(parts), size=count)
        sampled: NDArray[np.float32] = self.decode(drawn(parts, resample, seed=seed, rows=rows))
        return sampled

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights to a folder, ``config.json`` and ``model.safetensors``."""
        check_fitted(self)
        save_artifact(path, "disentangle", *describe(self))

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote, onto ``device``; default: the CPU.

        Raises
        ------
        RepdynError
            If the folder holds something else, another of the two models, or weights that do not match.
        """
        found = load_artifact(path, "disentangle")
        return to(restore(cls, found.config, found.tensors, path), device)  # type: ignore[no-any-return]

    frame_: tuple[int, ...]
    encoder_: SequenceEncoder
    decoder_: SequenceDecoder
    frames_: PointFrames | None
    operator_: Tensor
    mean_: Tensor
    scale_: Tensor
    history_: Mapping[str, list[float]]
    best_epoch_: int

    def build(self, frame: Sequence[int], widths: Mapping[str, int] | None, seed: int) -> None:
        """Lay out the untrained modules for frames of a shape; :meth:`fit` and loading call it."""
        check_settings(self, frame)
        self.frame_ = tuple(frame)
        default = (32, 64, 128, 256) if len(frame) == 3 else (self.hidden,)
        channels = default if self.channels is None else self.channels
        with drawing(seed):
            self.encoder_ = SequenceEncoder(self.frame_, self.latent_dim, channels)
            self.decoder_ = SequenceDecoder(self.frame_, self.latent_dim, self.hidden, channels)
        self.frames_ = None if widths is None else PointFrames(widths)
        self.register_buffer(
            "operator_", torch.zeros(1, self.latent_dim, self.latent_dim, dtype=torch.float64)
        )
        self.register_buffer("mean_", torch.zeros(self.frame_))
        self.register_buffer("scale_", torch.ones(()))

    @property
    def place(self) -> torch.device:
        """The device of the weights."""
        return self.mean_.device

    def read(self, sequences: Any) -> SequenceBatch:
        """Sequences, checked, with frames of the shape this model was fitted to."""
        check_fitted(self)
        # A copy: the model stays where it is.
        frames = None if self.frames_ is None else copy.deepcopy(self.frames_).to("cpu")
        found = read_sequences(sequences, frames)
        if found.frame != self.frame_:
            raise RepdynError(f"frames have shape {found.frame}, this model was fitted to {self.frame_}")
        return found

    def standardise(self, x: Tensor) -> Tensor:
        """Data in the units the networks work in: pixels as they are, vectors centred and scaled."""
        return (x - self.mean_) / self.scale_

    def restore_scale(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        return x * self.scale_ + self.mean_
