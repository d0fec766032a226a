"""A contractive autoencoder fitted to one point of a frozen network, so that its features have a field.

:class:`SurrogateAutoencoder` fits one for each penalty of a sweep; :func:`try_field` measures the field of
each, and :func:`choose_trial` selects one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_sizes, check_types, check_values
from repdyn.deprecation import old_method
from repdyn.devices import as_given, double, to
from repdyn.errors import RepdynError, nearest_names
from repdyn.fields.field import LatentField
from repdyn.fields.map import as_tensor, to_index
from repdyn.fields.settings import SURROGATE, SurrogateSettings
from repdyn.hub import repository
from repdyn.intervals import Estimate, ratio_interval
from repdyn.paths import drawn_rows
from repdyn.progress import track
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.seeding import drawing

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["SurrogateAutoencoder", "SurrogateWarning", "Trial", "choose_trial", "try_field"]

_SAVED: dict[str, Any] = {
    "latent_dim": int,
    "hidden": list[int],
    "penalty": float | None,
    "noise": float,
    "epochs": int,
    "seed": int,
    "point": str,
    "width": int,
    "penalty_taken": float,
    "notes": list[str],
    "sweep": list[dict[str, Any]],
    "reconstruction": dict[str, float],
}


class SurrogateWarning(UserWarning):
    """A surrogate whose attractors do not distinguish samples: it expands, has one attractor, or one per
    start."""


class SurrogateAutoencoder(HubMixin):
    r"""An autoencoder of a frozen network's features that contracts enough for its map to be iterated.

    .. math:: \min_{E, D}\ \frac{\lVert u - D(E(u + \epsilon)) \rVert^2}{\operatorname{tr} \Sigma_u}
              + \lambda\, \mathbb E_v \lVert J_{E \circ D}(E(u))\, v \rVert^2,
              \qquad \lVert v \rVert = 1

    on features scaled to unit length and standardized. Without the first step, the norm of a feature decides
    the result. Without a penalty up to a sixth of the samples diverge; with a strong penalty a single
    attractor is left. The penalty is therefore chosen on held-out samples by a sweep that reports
    convergence, number of attractors and reconstruction (``sweep_``). If no penalty of the sweep is
    acceptable, the interval between the last that is too weak and the first that leaves a single attractor is
    halved, at most four times.

    Parameters
    ----------
    latent_dim
        Width of the code.
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    penalty
        Weight :math:`\lambda` of the squared gain. None: chosen by a sweep.
    noise
        Standard deviation of :math:`\epsilon` in standardized units. Noise contracts as well.
    epochs
        Passes over the samples, for each penalty.
    seed
        Of weights, batches, noise and the held-out part.
    settings
        Settings of training and of the sweep.

    Attributes
    ----------
    reconstruction_
        Fraction of variance unexplained on held-out samples (of unit-length, standardized features).
    sweep_
        A :class:`Trial` for each penalty.
    penalty_
        The chosen penalty.
    notes_
        Warnings.
    samples_
        Samples that were fitted and evaluated on, and of all; ``None`` if saved by version 0.1.

    References
    ----------
    Rifai, Vincent, Muller, Glorot, Bengio (2011). Contractive auto-encoders. ICML, equation 2. Fumero et al.
    (2025), arXiv 2505.22785, section 6.
    """

    samples_: tuple[int, int] | None = None

    def __init__(
        self,
        latent_dim: int = 32,
        hidden: Sequence[int] = (256,),
        *,
        penalty: float | None = None,
        noise: float = 0.0,
        epochs: int = 40,
        seed: int = 0,
        settings: SurrogateSettings = SURROGATE,
    ) -> None:
        self.settings = settings
        self.latent_dim, self.hidden = latent_dim, tuple(hidden)
        self.penalty, self.noise, self.epochs, self.seed = penalty, noise, epochs, seed

    def fit(
        self, paths: RepresentationPaths, point: str, *, device: torch.device | str | None = None
    ) -> SurrogateAutoencoder:
        """Fit to one point of traced paths.

        Of a point of more than 512 MiB in float32, as many samples as fit are drawn; ``samples_`` has the
        number.

        Parameters
        ----------
        paths
            Traced paths.
        point
            The point, whose representations must be pooled: shape ``(N, D)``.
        device
            Where to train, and where the networks stay; default: the CPU.

        Raises
        ------
        RepdynError
            On an unknown point, representations that are not ``(N, D)`` or not finite, or fewer than 20.

        Warns
        -----
        SurrogateWarning
            If more than one sample in a thousand diverges, or if there is one attractor, none, or about as
            many as starts. The attractors then do not distinguish the samples.
        """
        for name in ("latent_dim", "epochs"):
            setattr(self, name, whole(name, getattr(self, name)))
            if getattr(self, name) < 1:
                raise RepdynError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if point not in paths.points:
            raise RepdynError(f"point: there is no {point!r}; {nearest_names(point, paths.points)}")
        column = paths.column(point)
        if column.ndim != 2:
            raise RepdynError(f"{point}: representations must be pooled to (N, D), got {column.shape}")
        drawn = drawn_rows(len(paths), max(20, self.settings.held_bytes // (4 * column.width)), self.seed)
        x = np.asarray(column) if drawn is None else column.take(drawn)
        broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(broken):
            sample = broken[0] if drawn is None else drawn[broken[0]]
            raise RepdynError(f"{point}: sample {sample} is not finite ({len(broken)} are not)")
        if len(x) < 20:
            raise RepdynError(
                f"{point}: {len(x)} samples are too few to fit and evaluate on; give at least 20"
            )
        generator = np.random.default_rng(self.seed)
        # Equal samples stay on one side: a copy of a fitted sample is no held-out sample.
        held, rest = parted_by_group(
            groups_of_equal_rows(x), max(4, int(self.settings.held_out * len(x))), generator
        )
        unit = to(_unit(torch.from_numpy(np.ascontiguousarray(x))), device)
        fitted = unit[to_index(rest, unit)]
        self.point_, self.width_, self.samples_ = point, x.shape[1], (len(x), len(paths))
        self.shift_ = fitted.mean(dim=0)
        # Division by the spread of a constant feature would amplify rounding errors: a larger spread replaces
        # it.
        spread = fitted.std(dim=0)
        # A constant coordinate has no spread of its own; divided by rounding it would dominate the loss.
        self.spread_ = torch.where(spread > 1e-6 * spread.max(), spread, spread.max().clamp_min(1e-12))
        train = (fitted - self.shift_) / self.spread_
        test = (unit[to_index(held, unit)] - self.shift_) / self.spread_

        settings = self.settings
        trials: list[Trial] = []
        networks: list[tuple[nn.Sequential, nn.Sequential]] = []

        def attempt(penalty: float) -> tuple[int, tuple[str, ...]]:
            """Fit and try one penalty; the best trial so far and its warnings."""
            encoder, decoder = self._train(train, penalty)
            trials.append(try_field(encoder, decoder, test, penalty, seed=self.seed, settings=settings))
            networks.append((encoder, decoder))
            return choose_trial(trials, settings)

        penalties = settings.penalties if self.penalty is None else (self.penalty,)
        for penalty in track(penalties, f"fitting a surrogate to {point}"):
            best, notes = attempt(penalty)
        for _ in track(
            range(settings.refinements if notes and self.penalty is None else 0),
            "halving the interval of penalties",
        ):
            between = _between(trials, settings)
            if between is None or not notes:
                break
            best, notes = attempt(between)
        self.encoder_, self.decoder_ = networks[best]
        self.sweep_: tuple[Trial, ...] = tuple(sorted(trials, key=lambda trial: trial.penalty))
        self.penalty_, self.notes_ = trials[best].penalty, notes
        self.reconstruction_ = self._reconstruction(test)
        for note in notes:
            warnings.warn(f"surrogate of {point}: {note}", SurrogateWarning, stacklevel=2)
        return self

    def encode(self, x: Any) -> Tensor:
        """Codes ``(N, latent_dim)`` of representations ``(N, D)`` as traced."""
        self._check_fitted()
        rows = as_tensor(x)
        if rows.ndim != 2 or rows.shape[1] != self.width_:
            raise RepdynError(f"x: fitted on shape (N, {self.width_}), got {tuple(rows.shape)}")
        with torch.no_grad():
            code: Tensor = self.encoder_(self._standardize(to(rows, self.shift_.device)))
        return to(code, rows.device) if isinstance(x, Tensor) else code

    def decode(self, z: Any) -> Tensor:
        """Representations ``(N, D)`` from codes; their length, which the encoder ignores, is about one."""
        self._check_fitted()
        with torch.no_grad():
            code = to(as_tensor(z), self.shift_.device, torch.float32)
            rows: Tensor = self.decoder_(code) * self.spread_ + self.shift_
        return to(rows, z.device) if isinstance(z, Tensor) else rows

    def field(self) -> LatentField:
        """The latent field, in standardized features: decoded ones are not scaled to unit length again."""
        self._check_fitted()
        return LatentField.from_autoencoder(self.encoder_, self.decoder_)

    def residual(self, x: Any) -> Tensor:
        """Length of the first step from each code, shape ``(N,)``; small close to the training samples."""
        length: Tensor = self.field().velocity(self.encode(x)).norm(dim=1)
        return length

    def _check_fitted(self) -> None:
        """Refuse to go on without networks."""
        if not hasattr(self, "sweep_"):
            raise RepdynError("SurrogateAutoencoder: is not fitted; call fit(paths, point) first")

    def __repr__(self) -> str:
        if not hasattr(self, "sweep_"):
            return f"SurrogateAutoencoder(latent_dim={self.latent_dim}, hidden={self.hidden}), not fitted"
        drawn = ""
        if self.samples_ is not None and self.samples_[0] < self.samples_[1]:
            drawn = f", {self.samples_[0]} samples drawn from {self.samples_[1]}"
        lines = [
            f"SurrogateAutoencoder of {self.point_}: {self.width_} to {self.latent_dim}{drawn}, "
            f"held-out variance unexplained {self.reconstruction_}",
            "  penalty  unexplained  first step  converged  diverged  attractors    gain",
        ]
        for trial in self.sweep_:
            taken = "*" if trial.penalty == self.penalty_ else " "
            lines.append(
                f" {taken}{trial.penalty:7.3g}  {trial.unexplained:11.3f}  {trial.first_step:10.3f}  "
                f"{trial.converged:9.1%}  {trial.diverged:8.1%}  {trial.attractors:10d}  {trial.gain:6.3f}"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes_])

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"surrogate"``."""
        self._check_fitted()
        tensors = {"shift": as_array(self.shift_), "spread": as_array(self.spread_)}
        for name, network in (("encoder", self.encoder_), ("decoder", self.decoder_)):
            tensors |= {f"{name}.{key}": as_array(value) for key, value in network.state_dict().items()}
        config = {
            "latent_dim": self.latent_dim,
            "hidden": list(self.hidden),
            "penalty": self.penalty,
            "noise": self.noise,
            "epochs": self.epochs,
            "seed": self.seed,
            "point": self.point_,
            "width": self.width_,
            "penalty_taken": self.penalty_,
            "notes": list(self.notes_),
            "sweep": [trial.to_dict() for trial in self.sweep_],
            "reconstruction": self.reconstruction_.to_dict(),
            "samples": None if self.samples_ is None else list(self.samples_),
        }
        save_artifact(path, "surrogate", {"surrogate": config}, tensors)

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> SurrogateAutoencoder:
        """Read what :meth:`save_pretrained` wrote, onto ``device``; default: the CPU.

        ``path`` is a folder, or ``"user/name"`` on the Hugging Face Hub; ``revision`` is its branch, tag or
        commit, and ``token`` that of an account.
        """
        artifact = load_artifact(repository(path, revision, token), "surrogate")
        config = artifact.config["surrogate"]
        check_values(config, **_SAVED)
        width = int(config["width"])
        check_arrays(artifact.tensors, True, shift=f"{width}", spread=f"{width}")
        check_sizes(artifact.tensors, latent_dim=config["latent_dim"], hidden=config["hidden"])
        keys = ("latent_dim", "hidden", "penalty", "noise", "epochs", "seed")
        surrogate = cls(**{key: config[key] for key in keys})
        surrogate.point_, surrogate.width_ = config["point"], config["width"]
        surrogate.penalty_, surrogate.notes_ = config["penalty_taken"], tuple(config["notes"])
        surrogate.sweep_ = tuple(Trial(**_present_names(trial)) for trial in config["sweep"])
        surrogate.reconstruction_ = Estimate(**config["reconstruction"])
        if config.get("samples") is not None:  # not saved by version 0.1
            check_values(config, samples=list[int])
            used, known = config["samples"]
            surrogate.samples_ = used, known
        for figure in (*surrogate.sweep_, surrogate.reconstruction_):
            check_types(figure)
        tensors = {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
        surrogate.shift_, surrogate.spread_ = tensors["shift"].float(), tensors["spread"].float()
        surrogate.encoder_, surrogate.decoder_ = surrogate._networks()
        for name, network in (("encoder", surrogate.encoder_), ("decoder", surrogate.decoder_)):
            start = f"{name}."
            state = {
                key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)
            }
            network.load_state_dict(state)
            if not all(parameter.isfinite().all() for parameter in network.parameters()):
                raise ValueError(f"the weights of the {name} are not finite")
            to(network.eval().requires_grad_(False), device)
        surrogate.shift_, surrogate.spread_ = to((surrogate.shift_, surrogate.spread_), device)
        return surrogate

    save = old_method("save", "save_pretrained")
    load = classmethod(old_method("load", "from_pretrained"))

    def _standardize(self, rows: Tensor) -> Tensor:
        """Features ``(N, D)`` scaled to unit length and standardized."""
        standard: Tensor = (_unit(rows) - self.shift_) / self.spread_
        return standard

    def _networks(self) -> tuple[nn.Sequential, nn.Sequential]:
        """An untrained encoder and decoder."""
        sizes = (self.width_, *self.hidden, self.latent_dim)
        with drawing(self.seed):
            return _mlp(sizes), _mlp(sizes[::-1])

    def _train(self, train: Tensor, penalty: float) -> tuple[nn.Sequential, nn.Sequential]:
        """Fit an encoder and a decoder to standardized features ``(N, D)`` under one penalty."""
        settings = self.settings
        encoder, decoder = (to(network, train.device) for network in self._networks())
        generator = torch.Generator().manual_seed(self.seed)
        # Fused, because steps of these small networks are a fifth of the time otherwise.
        weights = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.Adam(weights, settings.learning_rate, fused=True)
        smallest, largest = settings.batches
        batches = max(1, len(train) // min(max(len(train) // 16, smallest), largest))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 3 * settings.learning_rate, total_steps=batches * self.epochs
        )
        variance = train.var(dim=0, correction=0).sum()
        for _ in range(self.epochs):
            order = torch.randperm(len(train), generator=generator)
            for batch in to(order, train.device).chunk(batches):
                clean = train[batch]
                noisy = clean
                if self.noise:
                    noisy = clean + self.noise * as_given(
                        torch.randn(clean.shape, generator=generator), clean
                    )
                code = encoder(noisy)
                rebuilt = decoder(code)
                loss = (rebuilt - clean).square().sum(dim=1).mean() / variance
                if penalty:
                    direction = as_given(torch.randn(code.shape, generator=generator), code)
                    width = settings.gain_width * code.detach().std()
                    direction = width * direction / direction.norm(dim=1, keepdim=True)
                    moved = encoder(decoder(code + direction)) - encoder(rebuilt)
                    loss = loss + penalty * moved.square().sum(dim=1).mean() / width**2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False)

    def _reconstruction(self, test: Tensor) -> Estimate:
        """Fraction of variance unexplained of standardized features ``(M, D)``."""
        error = (self.decoder_(self.encoder_(test)) - test).square().sum(dim=1)
        spread = (test - test.mean(dim=0)).square().sum(dim=1)
        return ratio_interval(as_array(error), as_array(spread), seed=self.seed)


@dataclass(frozen=True)
class Trial:
    """The field under one penalty, measured on held-out samples.

    Attributes
    ----------
    penalty
        Weight of the squared gain.
    unexplained
        Fraction of variance unexplained by the reconstruction.
    first_step
        Mean length of the first step, relative to the spread of the codes.
    converged, diverged
        Shares of the starts that reached an attractor, and that diverged.
    attractors, starts
        Number of attractors, and of starts.
    gain
        Root mean square factor by which the map stretches a random direction at the codes.
    """

    penalty: float
    unexplained: float
    first_step: float
    converged: float
    diverged: float
    attractors: int
    starts: int
    gain: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)

    @property
    def settled(self) -> float:
        """Old name of ``converged``."""
        warnings.warn("Trial.settled was renamed converged", DeprecationWarning, stacklevel=2)
        return self.converged


def _present_names(trial: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved trial; version 0.1 saved ``converged`` as ``settled``."""
    return {"converged" if name == "settled" else name: value for name, value in trial.items()}


def try_field(
    encoder: nn.Module,
    decoder: nn.Module,
    test: Tensor,
    penalty: float,
    *,
    seed: int = 0,
    settings: SurrogateSettings = SURROGATE,
) -> Trial:
    """Measure the field of an autoencoder from held-out samples ``(M, D)``."""
    field = LatentField.from_autoencoder(encoder, decoder)
    with torch.no_grad():
        codes = encoder(test)
        error = (decoder(codes) - test).square().sum() / (test - test.mean(dim=0)).square().sum()
    # Not with solver="trapping": in nearly marginal fields, a long orbit that does not converge within
    # max_steps would absorb other starts.
    reached = field.attractors(
        codes[: settings.trial_starts],
        max_steps=settings.trial_steps,
        tol=settings.trial_tolerance,
        seed=seed,
    )
    direction = as_given(torch.randn(codes.shape, generator=torch.Generator().manual_seed(seed)), codes)
    direction = direction / direction.norm(dim=1, keepdim=True)
    gain = field.jvp(codes, direction)[1].square().sum(dim=1).mean().sqrt()
    step = field.velocity(codes).norm(dim=1).mean() / reached.scale
    return Trial(
        penalty=penalty,
        unexplained=float(error),
        first_step=float(step),
        converged=float((reached.basin >= 0).mean()),
        diverged=float((reached.status == "diverged").mean()),
        attractors=len(reached),
        starts=len(reached.basin),
        gain=float(gain),
    )


def choose_trial(
    trials: Sequence[Trial], settings: SurrogateSettings = SURROGATE
) -> tuple[int, tuple[str, ...]]:
    """The index of the best trial, and warnings about it.

    A field is acceptable if it hardly diverges, has more than one attractor but not one per start, and at
    least half of the starts converge. Of the acceptable fields, the one with the best reconstruction is
    chosen. If none is acceptable, the criteria decide in this order: divergence, number of attractors,
    convergence.

    Parameters
    ----------
    trials
        At least one.
    settings
        Thresholds.

    Returns
    -------
    index, notes
    """

    def failings(trial: Trial) -> tuple[bool, bool, bool, float, float]:
        """Criteria that a trial fails, worst first, then how badly it fails, then its reconstruction."""
        diverges, moving = trial.diverged > settings.max_diverged, trial.converged < settings.min_converged
        uninformative = trial.attractors <= 1 or trial.attractors >= settings.crowded * trial.starts
        degree = trial.diverged if diverges else -trial.converged if moving else 0.0
        return diverges, uninformative, moving, degree, trial.unexplained

    best = min(range(len(trials)), key=lambda i: failings(trials[i]))
    chosen, notes = trials[best], []
    if chosen.diverged > settings.max_diverged:
        notes.append(f"the map expands: {chosen.diverged:.1%} of held-out samples diverge; raise the penalty")
    if chosen.attractors == 0:
        notes.append("no attractor was reached within the allowed steps")
    if chosen.attractors == 1:
        notes.append("there is one attractor, which does not distinguish samples; lower the penalty")
    if chosen.attractors >= settings.crowded * chosen.starts:
        notes.append(f"there are about as many attractors as starts ({chosen.attractors})")
    if chosen.attractors > 0 and chosen.converged < settings.min_converged:
        notes.append(f"only {chosen.converged:.0%} of held-out samples reach an attractor")
    return best, tuple(notes)


def _between(trials: Sequence[Trial], settings: SurrogateSettings) -> float | None:
    """The geometric mean of the last penalty that is too weak and the first one that is too strong, or
    None."""
    weak = [
        t.penalty
        for t in trials
        if t.diverged > settings.max_diverged or (t.converged < settings.min_converged and t.attractors != 1)
    ]
    strong = [t.penalty for t in trials if t.diverged <= settings.max_diverged and t.attractors == 1]
    low = max(weak, default=float("inf"))
    high = min((penalty for penalty in strong if penalty > low), default=None)
    if high is None:
        return None
    return (low * high) ** 0.5 if low > 0 else high / 3  # the sweep continues below its smallest penalty


def _unit(rows: Tensor) -> Tensor:
    """Rows ``(N, D)`` scaled to unit length, float32; rows of zeros stay zero."""
    rows = double(rows)
    peak = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.where(peak > 0, peak, 1.0)
    length = rows.norm(dim=1, keepdim=True)
    return (rows / torch.where(length > 0, length, 1.0)).float()


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with SiLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
