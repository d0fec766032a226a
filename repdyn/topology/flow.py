"""A flow autoencoder: a few latent dimensions with known density, and Gaussian noise in all others."""

from __future__ import annotations

import math
import os
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_sizes, check_values
from repdyn.deprecation import old_method
from repdyn.devices import as_given, device_of, to
from repdyn.errors import RepdynError
from repdyn.hub import repository
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.seeding import drawing
from repdyn.topology.flow_network import (
    FlowNetwork,
    Prior,
    marginal_log_density,
    pad,
    start_at_geodesics,
    train,
)
from repdyn.topology.neighbors import as_points
from repdyn.topology.settings import FLOW
from repdyn.topology.tree import LevelSetTree

__all__ = ["FlowAutoencoder"]

_SAVED: dict[str, Any] = {
    "latent_dim": int | None,
    "prior": Literal["free", "mixture", "gaussian"],
    "volume": Literal["preserved", "tracked"],
    "components": int,
    "layers": int,
    "hidden": list[int],
    "augmented": bool,
    "fitted": int,
    "scale": float,
    "held_out": dict[str, float],
}
Points = TypeVar("Points", torch.Tensor, NDArray[np.float64])


class FlowAutoencoder(HubMixin):
    r"""An invertible map of data to a few free dimensions and Gaussian noise in all others.

    .. math:: f(x) = (u, w), \quad
        \log p(x) = \log p(u) + \log \mathcal{N}(w; 0, \operatorname{diag} s^2) + \log |\det Df(x)|

    is maximized. With ``volume="preserved"`` the determinant is one, in units of the scale of the data. The
    superlevel sets of p(x) and of p(u) then have the same tree, since they differ by a contractible noise
    ball. An invertible map of the points alone cannot undo a knot, nor flatten a curved set beyond the room
    in its space. Points are therefore *augmented* by coordinates of known Gaussian noise *e*, as many as the
    latent has: :math:`p(x, e) = p(x) \, p(e)` has the tree of p(x), and the map of both can be any
    autoencoder. Training starts from geodesic distances (Isomap), which do not depend on knots. The prior
    p(u) limits the topology of the latent:

    - ``"free"``: no limit. p(u) is the nearest-neighbor density of the latents, within the batch during
      training. Maximum likelihood then only requires Gaussian noise that is independent of u.
    - ``"mixture"``: a Gaussian mixture, known in closed form.
    - ``"gaussian"``: one Gaussian, whose superlevel sets are balls. It is the control, which must fail for
    all other
      data.

    Parameters
    ----------
    latent_dim
        Number of free dimensions. None: dimensions are added until the next one improves the held-out
        log-likelihood by less than .4 nats per point.
    prior
        Prior of the latent.
    volume
        ``"preserved"`` (additive couplings and rotations) or ``"tracked"`` (affine couplings).
    components
        Number of components of a mixture prior.
    layers, hidden
        Number of couplings, and the widths of their networks.
    augmented
        Whether noise is added. Without it, :meth:`log_density` is exact in closed form, not a mean over
        noise, but the latent is limited by invertible maps of the points. More layers help.

    Attributes
    ----------
    latent_dim_ : int
        Free dimensions.
    noise_ : (D,) or (D - latent_dim_,) array
        Standard deviation of each noise dimension, in units of the data; D of them when augmented.
    held_out_ : dict of int to float
        Mean held-out log-likelihood for each number of dimensions that was tried; empty if the number was
        given.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 3)) * [3.0, 2.0, 0.1]
    >>> model = FlowAutoencoder(latent_dim=2, layers=2).fit(x, steps=20)
    >>> model.encode(x).shape
    (300, 2)

    References
    ----------
    Dinh, L., Krueger, D. and Bengio, Y. (2015). NICE: non-linear independent components estimation. ICLR.
    Huang, C.-W., Dinh, L. and Courville, A. (2020). Augmented normalizing flows. arXiv 2002.07101.
    Tenenbaum, J., de Silva, V. and Langford, J. (2000). A global geometric framework for nonlinear
    dimensionality reduction. Science 290.
    Kozachenko, L. F. and Leonenko, N. N. (1987). Sample estimate of the entropy of a random vector.
    """

    latent_dim_: int
    noise_: NDArray[np.float64]
    held_out_: dict[int, float]

    def __init__(
        self,
        latent_dim: int | None = None,
        prior: Prior = "free",
        volume: Literal["preserved", "tracked"] = "preserved",
        components: int = 32,
        layers: int = 2,
        hidden: tuple[int, ...] = (128, 128),
        augmented: bool = True,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.volume = volume
        self.components = components
        self.layers = layers
        self.hidden = hidden
        self.augmented = augmented

    def fit(
        self,
        x: ArrayLike,
        steps: int = 200,
        start_steps: int = 300,
        batch_size: int = 512,
        learning_rate: float = 5e-3,
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
    ) -> FlowAutoencoder:
        """Train on points.

        Parameters
        ----------
        x
            Shape ``(N, D)``, D of 2 or more; an array, or a tensor of any device.
        steps
            Gradient steps of maximum likelihood, for each number of dimensions.
        start_steps
            Earlier steps, in which an augmented map learns geodesic coordinates.
        batch_size
            Points per step. A free prior resolves no detail finer than the neighbors in a batch.
        learning_rate
            Learning rate at the start; it falls to 0 along a cosine.
        seed
            Of weights, batches and noise.
        device
            Device of the training and of the fitted model; default: the device of ``x``.

        Returns
        -------
        FlowAutoencoder

        Raises
        ------
        RepdynError
            On a wrong shape or setting, values that are not finite, or too few points.
        """
        where = device_of(x) if device is None else device
        points = as_points(x, "FlowAutoencoder.fit")
        self._check(points)
        width = points.shape[1]
        self._center = points.mean(axis=0)
        self._scale = float(np.sqrt(np.mean((points - self._center) ** 2))) or 1.0
        # Leading axes first. The last ones, with the smallest variance, start as the noise.
        _, _, axes = np.linalg.svd(points - self._center, full_matrices=width > len(points))
        self._axes = axes
        table = torch.from_numpy(((points - self._center) @ axes.T / self._scale).astype(np.float32))
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(table), generator=generator)
        few = 0 if self.latent_dim else max(1, int(FLOW.held_out * len(table)))
        held_out, used = (to(table[rows], where) for rows in (shuffled[:few], shuffled[few:]))
        self.held_out_ = {}
        kept: FlowNetwork | None = None
        best: torch.Tensor | None = None
        for dimension in [self.latent_dim] if self.latent_dim else range(1, width):
            network = to(self._network(width, dimension, seed), where)
            if self.augmented:
                start_at_geodesics(network, used, start_steps, generator)
            network.start_prior(pad(used, network.padding, generator), seed)
            train(network, used, steps, batch_size, learning_rate, generator)
            if self.latent_dim is None:
                score = marginal_log_density(network, held_out, pad(used, network.padding, generator), seed)
                self.held_out_[dimension] = float(score.mean()) - width * math.log(self._scale)
                if best is not None and not _better(score, best):
                    break
                best = score
            kept = network
        assert kept is not None  # the loop runs at least once: width is 2 or more
        self._keep(kept, pad(used, kept.padding, generator))
        return self

    def encode(self, x: Points) -> Points:
        """Map points ``(n, D)`` to latents ``(n, latent_dim_)``, array to array, tensor to tensor."""
        return self._through(lambda tensor: self._split(tensor)[0], x)

    def decode(self, u: Points) -> Points:
        """Map latents to points at zero noise."""

        def back(latents: torch.Tensor) -> torch.Tensor:
            """Points ``(n, D)`` of latents at zero noise."""
            noise = latents.new_zeros(len(latents), len(self.noise_))
            points = self._network_.inverse(torch.cat([latents, noise], dim=1))
            inner = points[:, self._network_.padding :] * self._scale
            return inner @ _like(latents, self._axes) + _like(latents, self._center)

        return self._through(back, u)

    def noise(self, x: Points) -> Points:
        """Noise coordinates of points in units of their standard deviations; as many as :attr:`noise_`."""
        return self._through(lambda tensor: self._split(tensor)[1] / self._network_.noise_scale(), x)

    def log_density(self, x: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
        r"""Log-density at points ``(n, D)``, which :meth:`LevelSetTree.fit` takes as ``density``.

        It is exact for a plain map. For an augmented map the joint density of point and noise is exact, and
        the result is a mean over draws of the noise, unbiased on the scale of densities:

        .. math:: p(x) = \int p(x, e) \, de = \mathbb{E}_{e \sim q} \left[ p(x, e) / q(e) \right]

        Parameters
        ----------
        x
            Points.
        seed
            Of the draws.
        """
        self._fitted()
        inner = self._inner(self._on_device(as_points(x, "log_density")))
        density = marginal_log_density(self._network_, inner, self._reference, seed)
        return as_array(density, np.float64) - len(self._center) * math.log(self._scale)

    def latent_log_density(self, u: ArrayLike) -> NDArray[np.float64]:
        """Log-density of the latent at ``u`` ``(n, latent_dim_)``."""
        latents = self._on_device(as_points(u, "latent_log_density"))
        known = self._network_.split(self._reference)[0]
        return as_array(self._network_.prior_log_density(latents, known), np.float64)

    def tree(
        self, neighbors: int = 30, persistence: float | None = None, samples: int = 4000, seed: int = 0
    ) -> LevelSetTree:
        """Level-set tree of the latent density.

        Parameters
        ----------
        neighbors, persistence
            As in :meth:`LevelSetTree.fit`. Default for a known density: 0.5, because the graph of its
            samples, not its values, is uncertain.
        samples
            Number of samples of a mixture or a Gaussian. On the data alone, a gap between points would count
            as a saddle.
        seed
            Of the samples.
        """
        drawn = self.sample_latents(samples, seed)
        if self.prior == "free":
            return LevelSetTree.fit(drawn, "knn", neighbors, persistence)
        simplified = FLOW.known_persistence if persistence is None else persistence
        return LevelSetTree.fit(drawn, self.latent_log_density, neighbors, simplified)

    def sample_latents(self, samples: int = 4000, seed: int = 0) -> NDArray[np.float64]:
        """Points of the latent density ``(samples, latent_dim_)``.

        A free latent is known at the training points only; all of them are returned.
        """
        self._fitted()
        if self.prior == "free":
            drawn = self._network_.split(self._reference)[0]
        else:
            drawn = self._network_.sample_prior(samples, seed)
        return as_array(drawn, np.float64)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a folder (kind ``"flow"``)."""
        self._fitted()
        settings = ("latent_dim", "prior", "volume", "components", "layers", "hidden", "augmented")
        config: dict[str, Any] = {name: getattr(self, name) for name in settings}
        config |= {"fitted": self.latent_dim_, "scale": self._scale}
        config["held_out"] = {str(dimension): score for dimension, score in self.held_out_.items()}
        tensors = {f"network.{name}": as_array(value) for name, value in self._network_.state_dict().items()}
        tensors |= {"centre": self._center, "axes": self._axes, "reference": as_array(self._reference)}
        save_artifact(path, "flow", config, tensors)

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> FlowAutoencoder:
        """Read what :meth:`save_pretrained` wrote, onto ``device``; default: the CPU.

        ``path`` is a folder, or ``"user/name"`` on the Hugging Face Hub; ``revision`` is its branch, tag or
        commit, and ``token`` that of an account.
        """
        artifact = load_artifact(repository(path, revision, token), "flow")
        config, tensors = artifact.config, artifact.tensors
        try:
            check_values(config, **_SAVED)
            width = check_arrays(tensors, True, centre="D", axes="D D", reference="N K")["D"]
            check_sizes(tensors, hidden=config["hidden"])
            if not 1 <= config["fitted"] < width or not 1 <= config["layers"] <= len(tensors):
                raise RepdynError(f"{path}: is not a complete saved flow; save it again")
            if config["prior"] == "mixture":
                check_sizes(tensors, components=config["components"])
            fitted, scale = int(config.pop("fitted")), float(config.pop("scale"))
            held_out = {int(name): float(score) for name, score in config.pop("held_out").items()}
            model = cls(**{**config, "hidden": tuple(config["hidden"])})
            model.held_out_, model._scale = held_out, scale
            model._center, model._axes = tensors["centre"], tensors["axes"]
            reference = torch.from_numpy(tensors["reference"])
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: is not a complete saved flow ({error}); save it again") from None
        network = model._network(len(model._center), fitted, 0)
        fresh = {name: held.clone() for name, held in network.named_buffers() if name.endswith("mask")}
        prefix = "network."
        network.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(value)
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        )
        if any(not torch.equal(mask, fresh[name]) for name, mask in network.named_buffers() if name in fresh):
            raise RepdynError(f"{path}: the masks are not those of its layers; save it again")
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise RepdynError(f"{path}: its weights are not finite; save it again")
        model._keep(to(network, device), to(reference, device))
        return model

    save = old_method("save", "save_pretrained")
    load = classmethod(old_method("load", "from_pretrained"))

    def __repr__(self) -> str:
        settings = f"prior={self.prior!r}, volume={self.volume!r}"
        if not hasattr(self, "latent_dim_"):
            return f"FlowAutoencoder(latent_dim={self.latent_dim}, {settings}), not fitted"
        tried = ", ".join(f"{d}: {score:.3f}" for d, score in self.held_out_.items())
        held_out = f"; held-out log-likelihood by dimensions {tried}" if tried else ""
        return (
            f"FlowAutoencoder(latent_dim={self.latent_dim_}, {settings}): {len(self._center)} dimensions, "
            f"noise [{', '.join(f'{one:.4g}' for one in self.noise_)}]{held_out}"
        )

    def _fitted(self) -> None:
        """Raise an error for a model that is not fitted."""
        if not hasattr(self, "latent_dim_"):
            raise RepdynError("FlowAutoencoder: not fitted; call fit first")

    def _check(self, points: NDArray[np.float64]) -> None:
        """Raise an error that names a setting or a shape out of range."""
        count, width = points.shape
        if width < 2 or count < 20:
            raise RepdynError(
                f"FlowAutoencoder.fit: x has shape {points.shape}; "
                "expected at least 20 points of 2 dimensions"
            )
        if self.latent_dim is not None:
            self.latent_dim = whole("FlowAutoencoder: latent_dim", self.latent_dim)
        if self.latent_dim is not None and not 1 <= self.latent_dim < width:
            raise RepdynError(
                f"FlowAutoencoder: latent_dim={self.latent_dim} with {width} dimensions; "
                f"expected 1 to {width - 1}, or None"
            )
        if self.prior not in ("free", "mixture", "gaussian"):
            raise RepdynError(
                f"FlowAutoencoder: prior={self.prior!r}; expected 'free', 'mixture' or 'gaussian'"
            )
        if self.volume not in ("preserved", "tracked"):
            raise RepdynError(f"FlowAutoencoder: volume={self.volume!r}; expected 'preserved' or 'tracked'")

    def _network(self, width: int, dimension: int, seed: int) -> FlowNetwork:
        """An untrained network for points of this width."""
        with drawing(seed):
            return FlowNetwork(
                width,
                dimension,
                self.prior,
                self.volume,
                self.components,
                self.layers,
                self.hidden,
                self.augmented,
            )

    def _keep(self, network: FlowNetwork, reference: torch.Tensor) -> None:
        """Keep a trained network, and the points at which a free latent is known."""
        self._network_ = network.eval().requires_grad_(False)
        self._reference = reference
        self.latent_dim_ = network.dimension
        self.noise_ = as_array(network.noise_scale(), np.float64) * self._scale

    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        """Points ``(n, D)`` in the units and axes of the network."""
        return (x - _like(x, self._center)) @ _like(x, self._axes).T / self._scale

    def _on_device(self, x: NDArray[np.float64]) -> torch.Tensor:
        """An array as a tensor on the device of the network."""
        return to(torch.from_numpy(x), device_of(self._network_), torch.float32)

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``(n, d)`` and noise of points ``(n, D)``."""
        # An augmented map encodes a point at zero noise.
        padded = torch.cat([x.new_zeros(len(x), self._network_.padding), self._inner(x)], dim=1)
        latents, noise, _ = self._network_.split(padded)
        return latents, noise

    def _through(self, function: Any, x: Points) -> Points:
        """Apply a function of tensors to arrays or tensors; the result is of the same kind."""
        self._fitted()
        if isinstance(x, torch.Tensor):
            moved = to(x, device_of(self._network_), torch.float32)
            return as_given(function(moved), x)
        return as_array(function(self._on_device(as_points(x, "FlowAutoencoder"))), np.float64)


def _like(x: torch.Tensor, known: NDArray[np.float64]) -> torch.Tensor:
    """An array as a tensor of the device and type of ``x``."""
    return to(torch.from_numpy(known.astype(np.float64, copy=False)), x.device, x.dtype)


def _better(score: torch.Tensor, best: torch.Tensor) -> bool:
    """Whether held-out log-likelihoods ``(n,)`` are better than the best before, significantly and enough."""
    gain = score - best
    return float(gain.mean()) > max(
        FLOW.least_gain, FLOW.least_errors * float(gain.std()) / math.sqrt(len(gain))
    )
