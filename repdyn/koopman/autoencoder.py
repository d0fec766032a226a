"""The Koopman autoencoder: an encoder to observables, a linear operator on them, a decoder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.devices import as_given, device_of, to
from repdyn.errors import RepdynError, nearest_names
from repdyn.fields import LatentField
from repdyn.hub import repository
from repdyn.koopman import training
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.editing import forget
from repdyn.koopman.frames import Lift, PointDecoder, PointEncoder, PointFrames
from repdyn.koopman.interfaces import AUTOENCODERS, described, restored
from repdyn.koopman.operators import OPERATORS, Operator, Piecewise, advance
from repdyn.koopman.phases import change_points
from repdyn.koopman.readout import Fidelity, measure
from repdyn.koopman.settings import FitSettings
from repdyn.koopman.spectrum import KoopmanSpectrum, spectrum
from repdyn.koopman.states import point_number
from repdyn.koopman.training import Plan, Weights
from repdyn.paths import RepresentationPaths, nearby
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.seeding import drawing

__all__ = ["KoopmanAutoencoder"]

_SUPERVISION = ("all", "last")
_SETTINGS = FitSettings()
AUTO = "auto"
_ROUNDING = 1e-9  # a last interval of re-encoding shorter than this is rounding


class KoopmanAutoencoder(nn.Module, HubMixin):
    """Linear dynamics of representations through depth, in a learned space of observables.

    ``x_t ≈ D(E(x_s) K^(t-s) + b)`` for any depths ``s, t`` of a representation path, ``K^t = expm(t G)``.
    A fixed frame maps the points into a state space (:class:`~repdyn.koopman.frames.PointFrames`): the same
    one for all points if they have one width. One encoder, one decoder and one operator serve all points. The
    fit starts at the closed-form solution (:mod:`repdyn.koopman.start`) and is never behind it on the
    validation part.

    Parameters
    ----------
    latent_dim
        Number of observables; default: as many linear ones as the state space is wide, at most 576, and as
        many nonlinear ones, at most 192; fewer for few samples.
    hidden
        Widths of the encoder's hidden layers, mirrored in the decoder. An empty sequence makes both linear.
        Default: one layer of 256, 1024 or 2048 units, chosen on the validation part; 256 in the decoder.
    operator
        ``"generator"``: one generator for the whole path. ``"per_step"``: one for each step.
        ``"piecewise"``: one for each phase, a run of steps; the change points are found from the training
        paths (:func:`~repdyn.koopman.phases`), which need at least four points.
        ``"low_rank"``: a shared one with a low-rank correction for each step. ``"least_squares"``: one
        operator, solved for by ridge regression on every batch. ``"direct"``: one map from the first point
        to each later one, solved for by ridge regression. Default, ``"auto"``: ``"generator"`` if it is
        nearly as good on the validation part as ``"direct"``, else ``"direct"``.
    isometry
        Weight of the isometry loss, which preserves distances between samples. The other three losses have
        weight one. All are in units of their target's variance.
    supervise
        ``"all"``: every later point is a target. ``"last"``: only the last one, as published.

    Attributes
    ----------
    chosen_ : str
        The kind of operator.
    phase_starts_ : tuple of int
        Number of the first step of each phase: ``(0,)`` except with ``operator="piecewise"``.
    points_ : tuple of str
        Points of the training paths, in order of depth.
    widths_ : dict
        Width of each point.
    latent_dim_ : int
        Number of observables.
    history_ : dict
        Losses by epoch. ``"start"`` is the share of variance that the closed-form solution leaves
        unexplained, ``"start_samples"`` the number of samples that it was fitted on; of more than 60 000
        states, some are drawn.
    best_epoch_ : int
        The epoch whose weights were kept; -1 for the closed-form start.
    training_paths_ : RepresentationPaths or None
        The training paths (not saved); :meth:`fidelity` fits probes and controls on them.

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

    latent_dim_: int
    frames_: PointFrames
    encoder_: Lift
    decoder_: Lift
    operator_: Operator
    chosen_: str
    phase_starts_: tuple[int, ...]
    points_: tuple[str, ...]
    widths_: dict[str, int]
    history_: Mapping[str, list[float]]
    best_epoch_: int

    def __init__(
        self,
        latent_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        operator: str = AUTO,
        isometry: float = 1.0,
        supervise: str = "all",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.hidden = None if hidden is None else tuple(hidden)
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
        """Fit encoder, operator and decoder to training paths.

        A tenth of the paths is held out for early stopping. Up to 512 MiB of lifted representations are held
        on the device; larger data are read batch by batch.

        Parameters
        ----------
        paths
            Pooled paths of at least two points.
        epochs
            Maximum number of epochs, which the learning-rate schedule spans.
        seed
            Seed of the weights, the batches and the held-out part.
        batch_size
            Samples per batch; default: an eighth of the paths, at least 32 and at most 512.
        learning_rate
            Highest learning rate of the schedule.
        schedule
            ``"cosine"``: a warm-up, then cosine decay. ``"plateau"``: lowered when the validation loss stops
            improving, for fits of unknown length.
        patience
            Epochs without improvement after which to stop; default: a quarter of ``epochs``, at least ten.
        checkpoint
            File that stores the state of the fit. If it exists, the fit resumes from it and ends with the
            same numbers as without the interruption.
        fabric
            A launched ``lightning_fabric.Fabric``: its processes share every batch, in its precision.
        device
            Device of the fit; default: the current device (the CPU before the first fit), or Fabric's.

        Returns
        -------
        KoopmanAutoencoder
            The fitted autoencoder itself.

        Raises
        ------
        RepdynError
            If a setting is out of range, the paths have one point, a constant point, fewer than ten samples,
            or values that are not finite.
        """
        plan = Plan(
            epochs=whole("epochs", epochs),
            batch_size=min(max(len(paths) // 8, _SETTINGS.min_batch), _SETTINGS.max_batch)
            if batch_size is None
            else whole("batch_size", batch_size),
            learning_rate=learning_rate,
            schedule=schedule,
            supervise=self.supervise,
            patience=patience,
        )
        self._check_settings(fabric)
        plan.check()
        training.check_paths_to_fit(paths)
        current = device_of(self)
        given, paths = paths, nearby(paths, plan.memory)
        widths = {point: paths.widths[point] for point in paths.points}
        found = max(1, len(paths) * (len(widths) - 1) // _SETTINGS.pairs_per_observable)
        own, mirrored = (
            (_SETTINGS.hidden[-1:], _SETTINGS.hidden[:1]) if self.hidden is None else (self.hidden, None)
        )
        automatic = ("generator", "direct") if self.supervise == "all" else ("generator",)
        names = automatic if self.operator == AUTO else (self.operator,)
        starts = change_points(paths, seed=seed) if names[0] == "piecewise" else (0,)
        self.build(widths, seed, own, mirrored, names[0], observables=found, starts=starts)
        self.train()
        operators = [self.operator_, *self._operators(names[1:], seed)]
        self.operator_, self.history_, self.best_epoch_ = training.fit(
            self.frames_,
            self.encoder_,
            self.decoder_,
            operators,
            paths,
            Weights(isometry=self.isometry),
            plan,
            seed=seed,
            device=device or (current if fabric is None else fabric.device),
            checkpoint=checkpoint,
            fabric=fabric,
            widths=_SETTINGS.hidden if self.hidden is None else (),
        )
        self.chosen_ = names[operators.index(self.operator_)]
        self.training_paths_ = given
        self.eval()
        return self

    def encode(self, x: Any, point: str) -> Any:
        """Observables of representations at a point.

        Parameters
        ----------
        x
            Shape ``(…, width)``, an array or a tensor. The result has the same kind.
        point
            Name of the point.

        Returns
        -------
        Shape ``(…, latent_dim)``.
        """
        number = point_number(point, self._fitted_points())

        def encoded(rows: Tensor) -> Tensor:
            z: Tensor = self.encoder_(self.frames_.lift(rows, number))
            return z

        return self._apply_to(x, encoded, self.widths_[point])

    def decode(self, z: Any, point: str) -> Any:
        """Representations ``(…, width)`` at a point from observables ``(…, latent_dim)``."""
        number = point_number(point, self._fitted_points())

        def decoded(rows: Tensor) -> Tensor:
            return self.frames_.lower(self.decoder_(rows.to(self.frames_.scale.dtype)), number)

        return self._apply_to(z, decoded, self.latent_dim_)

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
            Name of a point, or any depth between the first and the last. Between two points the result is in
            the coordinates of the nearest one (a fixed frame relates them to the shared state space).
        reencode_every
            Steps of depth after which the observables are decoded and encoded again (periodic re-encoding,
            Fathi et al. 2023, arXiv 2310.15386), which keeps the states near the training data. Default:
            never.

        Returns
        -------
        Shape ``(…, width of the target)``.

        Raises
        ------
        RepdynError
            If a depth lies outside the path, the source lies between points, or ``reencode_every`` is not
            positive.
        """
        start, end = self._depth_of(source), self._depth_of(target)
        before, after = round(start), round(end)
        if before != start:
            raise RepdynError(f"source depth {source} lies between points; give representations of a point")
        if reencode_every is not None and not reencode_every > 0:
            raise RepdynError(f"reencode_every must be positive, got {reencode_every}")
        depths = _reencoding_depths(start, end, reencode_every)

        def propagated(rows: Tensor) -> Tensor:
            u = self.frames_.lift(rows, before)
            for low, high in pairwise(depths):
                u = self.decoder_(advance(self.encoder_(u), self.operator_.flow(low, high)))
            return self.frames_.lower(u, after, rows.dtype)

        return self._apply_to(x, propagated, self.widths_[self.points_[before]])

    def fidelity(
        self,
        paths: RepresentationPaths,
        head: Callable[[Any], Any] | None = None,
        *,
        train: RepresentationPaths | None = None,
        seed: int = 0,
    ) -> Fidelity:
        """Prediction error on test paths, of this autoencoder and of its controls.

        Parameters
        ----------
        paths
            Test paths.
        head, seed
            As in :func:`repdyn.koopman.readout.measure`.
        train
            Training paths of controls and probes; default: those of :meth:`fit`.
        """
        self._fitted_points()
        train = train if train is not None else self.training_paths_
        if train is None:
            raise RepdynError("fidelity: give train=, the training paths, which no saved autoencoder holds")
        return measure(self, paths, train, head=head, seed=seed)

    def spectrum(
        self,
        paths: RepresentationPaths,
        *,
        threshold: float = 0.1,
        resamples: int = 100,
        phase: int | None = None,
        seed: int = 0,
    ) -> KoopmanSpectrum:
        """Eigenvalues of one step of depth, each with an interval and a certificate.

        The arguments are those of :func:`repdyn.koopman.spectrum.spectrum`.
        """
        return spectrum(self, paths, threshold=threshold, resamples=resamples, phase=phase, seed=seed)

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
        """Redirect targeted inputs by a closed-form edit of the operator.

        The arguments are those of :func:`repdyn.koopman.editing.forget`. This autoencoder is not changed. The
        edited one has a ``.report`` with accuracy on targeted and retained samples, and drift.
        """
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
            The point at which observables are decoded.
        """
        number = point_number(point, self._fitted_points())
        return LatentField.from_autoencoder(
            PointEncoder(self.frames_, self.encoder_, number),
            PointDecoder(self.frames_, self.decoder_, number),
        )

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write settings and weights to a folder, ``config.json`` and ``model.safetensors``."""
        self._fitted_points()
        config, tensors = self.describe()
        save_artifact(path, "koopman", config, tensors)

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> KoopmanAutoencoder:
        """Read a folder that :meth:`save_pretrained` wrote.

        Parameters
        ----------
        path, revision, token
            The folder; or ``"user/name"`` on the Hugging Face Hub, its revision, and an account's token.
        device
            Device of the weights; default: the CPU.

        Raises
        ------
        RepdynError
            If the folder holds another kind of result, or weights that do not match its settings.
        """
        saved = load_artifact(repository(path, revision, token), "koopman")
        return to(cls.restore(saved.config, saved.tensors, path), device)

    def describe(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings as JSON values, and weights as named arrays."""
        return described(self)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: Any) -> Self:
        """The autoencoder from the values of :meth:`describe`.

        Parameters
        ----------
        config, tensors
            Settings and weights.
        path
            Folder that they were read from, for the error message.

        Raises
        ------
        RepdynError
            If the values belong to something else, or do not match each other.
        """
        kae: Self = restored(cls, config, tensors, path)
        return kae

    def build(
        self,
        widths: dict[str, int],
        seed: int,
        hidden: Sequence[int] | None = None,
        mirrored: Sequence[int] | None = None,
        operator: str | None = None,
        observables: int | None = None,
        common: bool | None = None,
        starts: Sequence[int] = (0,),
    ) -> None:
        """Create untrained modules for points of these widths; called by :meth:`fit` and :meth:`restore`.

        Parameters
        ----------
        widths
            Width of each point.
        seed
            Seed of the weights.
        hidden, mirrored
            Widths of the hidden layers of the encoder, and of the decoder if they are not the same reversed;
            default: those of the constructor.
        operator
            Kind of the operator; default: that of the constructor.
        observables
            The largest number of observables where none was asked for; default: any.
        common
            Whether all points share one frame; default: where all widths are equal.
        starts
            Number of the first step of each phase, for a piecewise operator.
        """
        if hidden is None:
            hidden = _SETTINGS.hidden[:1] if self.hidden is None else self.hidden
        operator = operator or ("generator" if self.operator == AUTO else self.operator)
        self.points_, self.widths_ = tuple(widths), widths
        self.frames_ = PointFrames(
            widths, common=len(set(widths.values())) == 1 if common is None else common
        )
        width = self.frames_.width
        usual = min(width, _SETTINGS.max_linear) + (min(width, _SETTINGS.max_nonlinear) if hidden else 0)
        self.latent_dim_ = self.latent_dim or min(usual, observables or usual)
        with drawing(seed):
            self.encoder_ = Lift(width, self.latent_dim_, hidden)
            self.decoder_ = Lift(self.latent_dim_, width, hidden[::-1] if mirrored is None else mirrored)
        self.phase_starts_ = tuple(starts)
        (self.operator_,), self.chosen_ = self._operators((operator,), seed), operator

    def _operators(self, names: Sequence[str], seed: int) -> list[Operator]:
        """New operators of these kinds."""
        sizes = self.latent_dim_, len(self.points_) - 1
        with drawing(seed):
            return [
                Piecewise(*sizes, self.phase_starts_) if name == "piecewise" else OPERATORS[name](*sizes)
                for name in names
            ]

    def check_paths(self, paths: RepresentationPaths) -> None:
        """Raise :class:`RepdynError` if the paths have other points or widths than the training paths."""
        points = self._fitted_points()
        if paths.points != points:
            raise RepdynError(
                f"the paths have points {paths.points}, this autoencoder was fitted to {points}"
            )
        for point, width in self.widths_.items():
            if paths.widths[point] != width:
                raise RepdynError(
                    f"point {point!r} is {paths.widths[point]} wide, this autoencoder was fitted to {width}: "
                    "the paths are those of another model"
                )

    def _fitted_points(self) -> tuple[str, ...]:
        """The points, or :class:`RepdynError` before the first fit."""
        if not hasattr(self, "points_"):
            raise RepdynError("this KoopmanAutoencoder is not fitted yet; call fit(paths) first")
        return self.points_

    def _depth_of(self, point: str | float) -> float:
        """Depth of a point by name, or a depth that is checked to lie within the path."""
        points = self._fitted_points()
        if isinstance(point, str):
            return float(point_number(point, points))
        if not 0 <= point <= len(points) - 1:
            raise RepdynError(
                f"depth must lie between 0 and {len(points) - 1} (the path's points), got {point}"
            )
        return float(point)

    def _apply_to(self, x: Any, function: Callable[[Tensor], Tensor], width: int) -> Any:
        """Apply a function of rows on this device and in this dtype to an array or tensor ``(…, width)``.

        A tensor keeps its gradient, and its result is on its device in its dtype. An array gives an array.
        Float64 stays float64, because differences to stored means may be small.
        """
        given = x if isinstance(x, Tensor) else None
        rows = given if given is not None else torch.as_tensor(as_array(x))
        if rows.ndim == 0 or rows.shape[-1] != width:
            raise RepdynError(
                f"the last axis must have {width} entries, got an array of shape {tuple(rows.shape)}"
            )
        scale = self.frames_.scale
        moved = to(rows, scale.device, torch.float64 if rows.dtype == torch.float64 else scale.dtype)
        if given is not None:
            return as_given(function(moved), given)
        with torch.no_grad():
            return as_array(function(moved))

    def _check_settings(self, fabric: Any) -> None:
        """Raise :class:`RepdynError` for settings out of range, by name."""
        if self.latent_dim is not None:
            self.latent_dim = whole("latent_dim", self.latent_dim)
        if self.hidden is not None:
            self.hidden = tuple(whole("hidden", width) for width in self.hidden)
        if (self.latent_dim is not None and self.latent_dim < 1) or any(w < 1 for w in self.hidden or ()):
            raise RepdynError(
                f"latent_dim and hidden widths must be positive, got {self.latent_dim} and {self.hidden}"
            )
        if self.operator not in (*OPERATORS, AUTO):
            raise RepdynError(
                f"there is no operator {self.operator!r}; {nearest_names(self.operator, (*OPERATORS, AUTO))}"
            )
        if self.supervise not in _SUPERVISION:
            raise RepdynError(f"supervise must be one of {_SUPERVISION}, got {self.supervise!r}")
        if not self.isometry >= 0:
            raise RepdynError(f"isometry must not be negative, got {self.isometry}")
        if self.operator in ("least_squares", "direct", "piecewise") and self.supervise == "last":
            raise RepdynError(
                f"operator={self.operator!r} is solved for on single steps, which supervise='last' leaves "
                "out; use operator='generator'"
            )
        if self.operator == "least_squares" and fabric is not None and fabric.world_size > 1:
            raise RepdynError(
                "operator='least_squares' is solved for on whole batches and cannot be split over "
                f"{fabric.world_size} processes; use another operator, or one process"
            )


AUTOENCODERS["koopman"] = KoopmanAutoencoder


def _reencoding_depths(start: float, end: float, every: float | None) -> list[float]:
    """Depths at which observables are decoded: ``start``, every ``every`` steps, and ``end``."""
    if every is None:
        return [start, end]
    count = max(1, math.ceil(abs(end - start) / every - _ROUNDING))
    sign = 1.0 if end >= start else -1.0
    return [start + sign * every * number for number in range(count)] + [end]
