"""The Koopman autoencoder: an encoder to observables, a linear operator on them, a decoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.koopman.checks import check_fitted, check_same_model, training_paths
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.networks import Lift, PointDecoder, PointEncoder
from repdyn.koopman.operators import OPERATORS, Operator
from repdyn.koopman.pretrained import describe, restore
from repdyn.koopman.propagation import propagate, through
from repdyn.koopman.reading import point_number
from repdyn.paths import RepresentationPaths
from repdyn.seeding import drawing

if TYPE_CHECKING:
    from repdyn.fields import LatentField
    from repdyn.koopman.edited import EditedKoopman
    from repdyn.koopman.fidelity import Fidelity
    from repdyn.koopman.spectrum import KoopmanSpectrum

__all__ = ["KoopmanAutoencoder"]

_MOST_OBSERVABLES = 256  # by default; the exponential of a larger generator dominates the time of a fit


class KoopmanAutoencoder(nn.Module):
    """Linear dynamics of representations through depth, in a space that is learned for it.

    ``x_t ≈ D(E(x_s) K^(t-s))`` for any depths ``s, t`` of a representation path, with ``K^t = expm(t G)``.
    Each point is carried by a fixed frame (:class:`~repdyn.koopman.frames.PointFrames`) into a shared
    state space; one encoder, one decoder and one operator serve all points.

    Parameters
    ----------
    latent_dim
        Number of observables; by default twice the width of the state space, at most 256.
    hidden
        Widths of the encoder's hidden layers, mirrored in the decoder. None leaves both linear.
    operator
        ``"generator"``: one generator for the whole path. ``"per_step"``: one for each step.
        ``"low_rank"``: a shared one and a correction of low rank for each step. ``"least_squares"``: one
        operator, solved for by ridge on every batch instead of trained. Where prediction is all that is
        asked, ``"per_step"`` did best or as well on all data tried; only the spectrum of ``"generator"`` is
        that of depth.
    isometry
        Weight of the isometry loss, which keeps distances between samples; the other three losses have
        weight one. All are in units of their target's variance.
    supervise
        ``"all"``: every later point, each at its own depth. ``"last"``: the last alone, as published; the
        points between are then what the model makes of them.

    Attributes
    ----------
    points_ : tuple of str
        Points of the paths it was fitted to, in order of depth.
    widths_ : dict
        Their widths.
    latent_dim_ : int
        Number of observables.
    history_ : dict
        Losses by epoch.
    best_epoch_ : int
        The epoch whose weights were kept.
    training_paths_ : RepresentationPaths or None
        The paths it was fitted to (not saved); :meth:`fidelity` fits probes and controls on them.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).standard_normal((200, 4)).astype("float32")
    >>> paths = RepresentationPaths.from_arrays({"a": x, "b": x @ np.diag([1, 1, 0.5, 2]).astype("float32")})
    >>> kae = KoopmanAutoencoder(latent_dim=4, hidden=(8,)).fit(paths, epochs=2)
    >>> kae.propagate(x, "a", 0.5).shape
    (200, 4)

    References
    ----------
    Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (256,),
        operator: str = "generator",
        isometry: float = 1.0,
        supervise: str = "all",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.hidden = tuple(hidden)
        self.operator = operator
        self.isometry = isometry
        self.supervise = supervise
        self.training_paths_: RepresentationPaths | None = None

    def fit(
        self,
        paths: RepresentationPaths,
        epochs: int = 60,
        seed: int = 0,
        *,
        batch_size: int | None = None,
        learning_rate: float = 5e-3,
        schedule: str = "cosine",
        patience: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        fabric: Any = None,
        device: str | torch.device | None = None,
    ) -> KoopmanAutoencoder:
        """Learn encoder, operator and decoder from training paths.

        A tenth of them is set aside for early stopping. Lifted representations of up to 512 MiB
        are held on the device; of more, batches are read from the paths.

        Parameters
        ----------
        paths
            Pooled paths of at least two points.
        epochs
            At most so many; the learning rate's schedule spans them.
        seed
            Of the weights, the batches and the part set aside.
        batch_size
            Samples in a batch; by default an eighth of the paths, at least 32 and at most 512.
        learning_rate
            The highest of the schedule.
        schedule
            ``"cosine"``: up, then down along a cosine. ``"plateau"``: lowered where the validation loss
            stops improving, for fits whose length is not known.
        patience
            Epochs without improvement after which to stop; a quarter of ``epochs``, at least ten, unless
            told.
        checkpoint
            A file that the fit is kept in while it runs; where it is there already, the fit goes on from
            it and ends with the same numbers as if it had never been interrupted.
        fabric
            A launched ``lightning_fabric.Fabric``: its processes share every batch, in its precision.
        device
            Where to train; default: where it is, the CPU for one that was never fitted, or Fabric's.

        Returns
        -------
        KoopmanAutoencoder
            Itself.

        Raises
        ------
        RepdynError
            On settings that make no sense, one point only, a point that does not vary, fewer than ten
            samples, or values that are not finite.
        """
        from repdyn.koopman.fitting import fit

        return fit(
            self,
            paths,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            patience=patience,
            checkpoint=checkpoint,
            fabric=fabric,
            device=device,
        )

    def encode(self, x: Any, point: str) -> Any:
        """Observables of representations at a point.

        Parameters
        ----------
        x
            Shape ``(…, width)``; array or tensor, and the answer is of the same kind.
        point
            Name of the point.

        Returns
        -------
        Shape ``(…, latent_dim)``.
        """
        number = point_number(point, check_fitted(self))
        return through(
            self, x, lambda rows: self.encoder_(self.frames_.lift(rows, number)), self.widths_[point]
        )

    def decode(self, z: Any, point: str) -> Any:
        """Representations at a point from observables, shape ``(…, latent_dim)`` to ``(…, width)``."""
        number = point_number(point, check_fitted(self))

        def lowered(rows: Any) -> Any:
            return self.frames_.lower(self.decoder_(rows.to(self.frames_.scale.dtype)), number)

        return through(self, z, lowered, self.latent_dim_)

    def propagate(
        self, x: Any, source: str | float, target: str | float, *, reencode_every: float | None = None
    ) -> Any:
        """Representations at another depth: ``D(E(x) K^(target - source))``.

        Parameters
        ----------
        x
            Representations at ``source``, shape ``(…, width)``; array or tensor.
        source
            Name of a point, or its depth.
        target
            Name of a point, or any depth between the first and the last. Between two points the answer is
            in the coordinates of the nearest one (of the shared state space they differ by a fixed frame).
        reencode_every
            Steps of depth after which the observables are decoded and encoded anew (periodic re-encoding,
            Fathi et al. 2023, arXiv 2310.15386): a rollout that stays near what was trained on. Never,
            unless told.

        Returns
        -------
        Shape ``(…, width of the target)``.
        """
        return propagate(self, x, source, target, reencode_every)

    def fidelity(
        self,
        paths: RepresentationPaths,
        head: Callable[[Any], Any] | None = None,
        *,
        train: RepresentationPaths | None = None,
        seed: int = 0,
    ) -> Fidelity:
        """How well ``paths`` (tests) are predicted from their first point, beside the controls.

        ``train`` are the paths that controls and probes are fitted on, those of :meth:`fit` unless told;
        all else as in :func:`repdyn.koopman.fidelity.measure`.
        """
        from repdyn.koopman.fidelity import measure

        return measure(self, paths, training_paths(self, train, "fidelity"), head=head, seed=seed)

    def spectrum(
        self,
        paths: RepresentationPaths,
        *,
        threshold: float = 0.1,
        resamples: int = 100,
        seed: int = 0,
    ) -> KoopmanSpectrum:
        """Eigenvalues of one step of depth, with intervals and a certificate for each.

        See :func:`repdyn.koopman.decomposition.spectrum`, whose arguments these are.
        """
        # scipy is slow to import and only the spectrum needs it.
        from repdyn.koopman.decomposition import spectrum

        return spectrum(self, paths, threshold=threshold, resamples=resamples, seed=seed)

    def forget(
        self,
        paths: RepresentationPaths,
        *,
        label: Any = None,
        mask: NDArray[np.bool_] | None = None,
        redirect: Any = "mean",
        quantile: float | None = None,
        head: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> EditedKoopman:
        """Make some inputs no longer arrive where they did, by a closed-form edit of the operator.

        See :func:`repdyn.koopman.editing.forget`, whose arguments these are. This autoencoder is left as
        it was; the edited one has a ``.report``: forgotten, retained, drift.
        """
        from repdyn.koopman.editing import forget

        return forget(
            self,
            paths,
            label=label,
            mask=mask,
            redirect=redirect,
            quantile=quantile,
            head=head,
            seed=seed,
        )

    def field(self, point: str) -> LatentField:
        """Latent vector field of the encode-decode map at a point, ``V(z) = E(D(z)) - z``.

        Parameters
        ----------
        point
            The point whose coordinates the decoder passes through.
        """
        # Rooms of one floor meet only when asked to.
        from repdyn.fields import LatentField

        number = point_number(point, check_fitted(self))
        return LatentField.from_autoencoder(
            PointEncoder(self.frames_, self.encoder_, number),
            PointDecoder(self.frames_, self.decoder_, number),
        )

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights to a folder, ``config.json`` and ``model.safetensors``."""
        check_fitted(self)
        config, tensors = describe(self)
        save_artifact(path, "koopman", config, tensors)

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> KoopmanAutoencoder:
        """Read what :meth:`save_pretrained` wrote.

        Parameters
        ----------
        path
            The folder.
        device
            Where to put it; default: the CPU.

        Raises
        ------
        RepdynError
            If the folder holds something else, or weights that do not match its settings.
        """
        found = load_artifact(path, "koopman")
        return restore(cls, found.config, found.tensors, path).to(device)

    latent_dim_: int
    frames_: PointFrames
    encoder_: Lift
    decoder_: Lift
    operator_: Operator
    points_: tuple[str, ...]
    widths_: dict[str, int]
    history_: Mapping[str, list[float]]
    best_epoch_: int

    def build(self, widths: dict[str, int], seed: int) -> None:
        """Lay out the untrained modules for points of these widths; :meth:`fit` and loading call it."""
        self.points_, self.widths_ = tuple(widths), widths
        self.frames_ = PointFrames(widths)
        self.latent_dim_ = self.latent_dim or min(2 * self.frames_.width, _MOST_OBSERVABLES)
        with drawing(seed):
            self.encoder_ = Lift(self.frames_.width, self.latent_dim_, self.hidden)
            self.decoder_ = Lift(self.latent_dim_, self.frames_.width, self.hidden[::-1])
            self.operator_ = OPERATORS[self.operator](self.latent_dim_, len(widths) - 1)

    def check_paths(self, paths: RepresentationPaths) -> None:
        """Refuse paths of another model: other points, or other widths."""
        check_same_model(self, paths)
