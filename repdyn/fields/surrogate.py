"""A contractive auto-encoder fitted to one point of a frozen network, so that its features have a field."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_sizes, check_types, check_values
from repdyn.devices import double, to
from repdyn.errors import RepdynError, nearest_names
from repdyn.fields.field import LatentField
from repdyn.fields.penalty import DIVERGED, PENALTIES, Trial, choose_trial, try_field
from repdyn.fields.starts import as_tensor, to_index
from repdyn.intervals import Estimate, ratio_interval
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.seeding import drawing

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["SurrogateAutoencoder", "SurrogateWarning"]

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
LEARNING_RATE = 1e-3
BATCHES = (32, 256)
"""Smallest and largest batch: a sixteenth of the samples, so that few samples still make many steps."""
HELD_OUT = 0.2
"""Share of the samples that no weight is fitted on; they judge the penalty and the reconstruction."""
REFINED = 4
"""Penalties tried between two of the sweep, which are a factor of three apart; the last differ by 7 %."""
REACH = 0.1
"""Width, relative to the codes' spread, over which gains are differenced while training."""


class SurrogateWarning(UserWarning):
    """A surrogate whose field tells little: it expands, or has one attractor, or about one for each start."""


class SurrogateAutoencoder:
    r"""An auto-encoder of a frozen network's features, contracting enough for its map to be iterated.

    .. math:: \min_{E, D}\ \frac{\lVert u - D(E(u + \epsilon)) \rVert^2}{\operatorname{tr} \Sigma_u}
              + \lambda\, \mathbb E_v \lVert J_{E \circ D}(E(u))\, v \rVert^2,
              \qquad \lVert v \rVert = 1

    on features scaled to unit length and standardised: without the first, the norm of a feature decides
    everything. Contraction is not given, and bought dearly: without penalty up to a sixth of the samples
    diverge, with a strong one a single attractor is left. The penalty is therefore chosen on held-out samples
    by a sweep that shows convergence, number of attractors and reconstruction together (``sweep_``). Where no
    penalty of the sweep will do, the gap between the last that is too weak and the first that leaves a single
    attractor is halved, at most four times.

    Parameters
    ----------
    latent_dim
        Width of the code.
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    penalty
        Weight :math:`\lambda` of the squared gain; None sweeps :data:`repdyn.fields.penalty.PENALTIES`.
    noise
        Standard deviation of :math:`\epsilon` in standardised units: the other way to contraction.
    epochs
        Passes over the samples, for each penalty.
    seed
        Of weights, batches, noise and the held-out part.

    Attributes
    ----------
    reconstruction_
        Fraction of variance unexplained on held-out samples (of unit-length, standardised features).
    sweep_
        A :class:`repdyn.fields.penalty.Trial` for each penalty tried.
    penalty_
        The one that was taken.
    notes_
        What was warned of.

    References
    ----------
    Rifai, Vincent, Muller, Glorot, Bengio (2011). Contractive auto-encoders. ICML, equation 2. Fumero et al.
    (2025), arXiv 2505.22785, section 6.
    """

    def __init__(
        self,
        latent_dim: int = 32,
        hidden: Sequence[int] = (256,),
        *,
        penalty: float | None = None,
        noise: float = 0.0,
        epochs: int = 40,
        seed: int = 0,
    ) -> None:
        self.latent_dim, self.hidden = latent_dim, tuple(hidden)
        self.penalty, self.noise, self.epochs, self.seed = penalty, noise, epochs, seed

    def fit(
        self, paths: RepresentationPaths, point: str, *, device: torch.device | str | None = None
    ) -> SurrogateAutoencoder:
        """Fit to one point of traced paths.

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
            If more than one sample in a thousand diverges, if there is one attractor or none, or about as
            many as starts: the field then tells little of the samples.
        """
        if point not in paths.points:
            raise RepdynError(f"point: there is no {point!r}; {nearest_names(point, paths.points)}")
        x = np.asarray(paths[point])
        if x.ndim != 2:
            raise RepdynError(f"{point}: representations must be pooled to (N, D), got {x.shape}")
        broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(broken):
            raise RepdynError(f"{point}: sample {broken[0]} is not finite ({len(broken)} are not)")
        if len(x) < 20:
            raise RepdynError(f"{point}: {len(x)} samples are too few to fit and judge on; give at least 20")
        generator = np.random.default_rng(self.seed)
        # Equal samples are on one side: a copy of a fitted one says nothing of new ones.
        held, rest = parted_by_group(groups_of_equal_rows(x), max(4, int(HELD_OUT * len(x))), generator)
        unit = to(_unit(torch.from_numpy(np.ascontiguousarray(x))), device)
        fitted = unit[to_index(rest, unit)]
        self.point_, self.width_ = point, x.shape[1]
        self.shift_ = fitted.mean(dim=0)
        # Constant features would be blown up by their rounding; they get the spread of a typical one.
        spread = fitted.std(dim=0)
        self.spread_ = torch.where(spread > 1e-6 * spread.max(), spread, spread.max().clamp_min(1e-12))
        train = (fitted - self.shift_) / self.spread_
        test = (unit[to_index(held, unit)] - self.shift_) / self.spread_

        trials: list[Trial] = []
        networks: list[tuple[nn.Sequential, nn.Sequential]] = []

        def attempt(penalty: float) -> tuple[int, tuple[str, ...]]:
            encoder, decoder = self._train(train, penalty)
            trials.append(try_field(encoder, decoder, test, penalty, seed=self.seed))
            networks.append((encoder, decoder))
            return choose_trial(trials)

        penalties = PENALTIES if self.penalty is None else (self.penalty,)
        for penalty in track(penalties, f"fitting a surrogate to {point}"):
            best, notes = attempt(penalty)
        for _ in track(range(REFINED if notes and self.penalty is None else 0), "halving the gap"):
            between = _between(trials)
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
        rows = as_tensor(x)
        if rows.ndim != 2 or rows.shape[1] != self.width_:
            raise RepdynError(f"x: fitted on shape (N, {self.width_}), got {tuple(rows.shape)}")
        with torch.no_grad():
            code: Tensor = self.encoder_(self._standardise(to(rows, self.shift_.device)))
        return code.to(rows.device) if isinstance(x, Tensor) else code

    def decode(self, z: Any) -> Tensor:
        """Representations ``(N, D)`` from codes; their length, which the encoder ignores, is about one."""
        with torch.no_grad():
            code = to(as_tensor(z), self.shift_.device, torch.float32)
            rows: Tensor = self.decoder_(code) * self.spread_ + self.shift_
        return rows.to(z.device) if isinstance(z, Tensor) else rows

    def field(self) -> LatentField:
        """The latent field, in standardised features: decoded ones are not scaled to unit length again."""
        return LatentField.from_autoencoder(self.encoder_, self.decoder_)

    def residual(self, x: Any) -> Tensor:
        """Length of the first step from each code, shape ``(N,)``: small where the training samples were."""
        length: Tensor = self.field().velocity(self.encode(x)).norm(dim=1)
        return length

    def __repr__(self) -> str:
        if not hasattr(self, "sweep_"):
            return f"SurrogateAutoencoder(latent_dim={self.latent_dim}, hidden={self.hidden}), not fitted"
        lines = [
            f"SurrogateAutoencoder of {self.point_}: {self.width_} to {self.latent_dim}, "
            f"held-out variance unexplained {self.reconstruction_}",
            "  penalty  unexplained  first step  settled  diverged  attractors    gain",
        ]
        for trial in self.sweep_:
            taken = "*" if trial.penalty == self.penalty_ else " "
            lines.append(
                f" {taken}{trial.penalty:7.3g}  {trial.unexplained:11.3f}  {trial.first_step:10.3f}  "
                f"{trial.settled:7.1%}  {trial.diverged:8.1%}  {trial.attractors:10d}  {trial.gain:6.3f}"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes_])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"surrogate"``."""
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
        }
        save_artifact(path, "surrogate", {"surrogate": config}, tensors)

    @classmethod
    @refuses_damage
    def load(
        cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> SurrogateAutoencoder:
        """Read what :meth:`save` wrote, onto ``device``; default: the CPU."""
        artifact = load_artifact(path, "surrogate")
        config = artifact.config["surrogate"]
        check_values(config, **_SAVED)
        width = int(config["width"])
        check_arrays(artifact.tensors, True, shift=f"{width}", spread=f"{width}")
        check_sizes(artifact.tensors, latent_dim=config["latent_dim"], hidden=config["hidden"])
        keys = ("latent_dim", "hidden", "penalty", "noise", "epochs", "seed")
        surrogate = cls(**{key: config[key] for key in keys})
        surrogate.point_, surrogate.width_ = config["point"], config["width"]
        surrogate.penalty_, surrogate.notes_ = config["penalty_taken"], tuple(config["notes"])
        surrogate.sweep_ = tuple(Trial(**trial) for trial in config["sweep"])
        surrogate.reconstruction_ = Estimate(**config["reconstruction"])
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
            network.eval().requires_grad_(False).to(device)
        surrogate.shift_, surrogate.spread_ = to((surrogate.shift_, surrogate.spread_), device)
        return surrogate

    def _standardise(self, rows: Tensor) -> Tensor:
        standard: Tensor = (_unit(rows) - self.shift_) / self.spread_
        return standard

    def _networks(self) -> tuple[nn.Sequential, nn.Sequential]:
        sizes = (self.width_, *self.hidden, self.latent_dim)
        with drawing(self.seed):
            return _mlp(sizes), _mlp(sizes[::-1])

    def _train(self, train: Tensor, penalty: float) -> tuple[nn.Sequential, nn.Sequential]:
        encoder, decoder = (network.to(train.device) for network in self._networks())
        generator = torch.Generator().manual_seed(self.seed)
        # Fused: a step over all weights at once; the networks are small, so steps are a fifth of the time.
        weights = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(weights, LEARNING_RATE, fused=True)
        batches = max(1, len(train) // min(max(len(train) // 16, BATCHES[0]), BATCHES[1]))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 3 * LEARNING_RATE, total_steps=batches * self.epochs
        )
        variance = train.var(dim=0, correction=0).sum()
        for _ in range(self.epochs):
            order = torch.randperm(len(train), generator=generator)
            for batch in order.to(train.device).chunk(batches):
                clean = train[batch]
                noisy = clean
                if self.noise:
                    noisy = clean + self.noise * torch.randn(clean.shape, generator=generator).to(clean)
                code = encoder(noisy)
                rebuilt = decoder(code)
                loss = (rebuilt - clean).square().sum(dim=1).mean() / variance
                if penalty:
                    direction = torch.randn(code.shape, generator=generator).to(code)
                    width = REACH * code.detach().std()
                    direction = width * direction / direction.norm(dim=1, keepdim=True)
                    moved = encoder(decoder(code + direction)) - encoder(rebuilt)
                    loss = loss + penalty * moved.square().sum(dim=1).mean() / width**2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        return encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False)

    def _reconstruction(self, test: Tensor) -> Estimate:
        error = (self.decoder_(self.encoder_(test)) - test).square().sum(dim=1)
        spread = (test - test.mean(dim=0)).square().sum(dim=1)
        return ratio_interval(as_array(error), as_array(spread), seed=self.seed)


def _between(trials: Sequence[Trial]) -> float | None:
    """The penalty half-way, in logarithms, from the last that is too weak to the first that is too strong."""
    weak = [t.penalty for t in trials if t.diverged > DIVERGED or (t.settled < 0.5 and t.attractors != 1)]
    strong = [t.penalty for t in trials if t.diverged <= DIVERGED and t.attractors == 1]
    low = max(weak, default=float("inf"))
    high = min((penalty for penalty in strong if penalty > low), default=None)
    if high is None:
        return None
    return (low * high) ** 0.5 if low > 0 else high / 3  # the sweep goes on downwards


def _unit(rows: Tensor) -> Tensor:
    """Rows of length one, float32, whatever their size; a row of zeros stays one."""
    rows = double(rows)
    peak = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.where(peak > 0, peak, 1.0)
    length = rows.norm(dim=1, keepdim=True)
    return (rows / torch.where(length > 0, length, 1.0)).float()


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
