"""What an energy costs: denoisers that are gradients beside one that is free, and the time of settling.

    python benchmarks/energy_denoisers.py --cache FOLDER --out rows.jsonl

``denoisers``: mean squared error of denoised unseen latents as a share of the noise's variance, at several
noises, of five maps fitted to the same bank: a linear map (Wiener), the bank's posterior mean, a mixture with
a tenth as many atoms, a network whose output is the gradient of a scalar network, and a free network with as
many hidden units. All noises are served by one fit of each.

``settling``: processor seconds until 10 000 starts are at their modes, in all 384 dimensions and in 64, of
the bank itself, through cells, and through a mixture; and the share of 1 000 starts that plain iteration of
the whole batch brings to the same mode. Larger banks are made of jittered copies of the bank's points.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, parser_of, timed
from torch import Tensor, nn
from translation_data import read

from repdyn.fields import EnergyField

SOURCES = ("benchmarks/energy_denoisers.py", "repdyn/fields")
NOISES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.5)
"""In units of the bank's spacing."""

CORPORA = (("minilm-l6", "banking77"), ("minilm-l6", "clinc150"), ("resnet20", "cifar10"))
BANK, UNSEEN = 5000, 2000
WIDE, STEPS, BATCH = 512, 4000, 256


def latents(cache: Path, model: str, corpus: str) -> tuple[Tensor, Tensor]:
    """A bank and unseen latents."""
    paths = read(model, corpus, cache)
    x = np.asarray(paths[paths.points[-1]], dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    bank, unseen = order[:BANK], order[-UNSEEN:]
    return torch.from_numpy(x[bank]), torch.from_numpy(x[unseen])


class Denoiser(nn.Module):
    """A network for all noises, free or the gradient of a scalar.

    Preconditioned as in Karras et al. (2022), Elucidating the design space of diffusion-based generative
    models, Table 1, so that the network's inputs and targets have unit variance.
    """

    def __init__(self, width: int, scale: float, conservative: bool) -> None:
        super().__init__()
        self.scale, self.conservative = scale, conservative
        self.body = nn.Sequential(nn.Linear(width + 1, WIDE), nn.SiLU(), nn.Linear(WIDE, WIDE), nn.SiLU())
        self.head = nn.Linear(WIDE, 1 if conservative else width)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        total = (self.scale**2 + sigma**2).sqrt()
        kept, out = (self.scale / total) ** 2, self.scale * sigma / total
        with torch.enable_grad():
            own = (z / total).requires_grad_(True)
            given = self.head(self.body(torch.cat([own, (sigma / self.scale).log() / 4], dim=1)))
            if self.conservative:
                (given,) = torch.autograd.grad(given.sum(), own, create_graph=self.training)
        return kept * z + out * given


def trained(bank: Tensor, low: float, high: float, conservative: bool) -> Denoiser:
    """A denoiser of noises between two, the average of its last weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Denoiser(bank.shape[1], float(bank.square().mean().sqrt()), conservative)
    average = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        x = bank[torch.randint(len(bank), (BATCH,), generator=generator)]
        sigma = low * (high / low) ** torch.rand(BATCH, 1, generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        # The error's size before training, at any noise, is that of what the network adds.
        weight = (model.scale**2 + sigma**2) / (model.scale * sigma) ** 2
        loss = (weight * (model(x + sigma * noise, sigma) - x).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for mean, now in zip(average.parameters(), model.parameters()):
            mean.data.lerp_(now.data, 1 / min(step + 1, 200))
    return average.eval()


def denoisers(cache: Path, model: str, corpus: str) -> dict[str, Any]:
    bank, unseen = latents(cache, model, corpus)
    found: dict[str, Any] = {}
    fields = {}
    for name, atoms in (("bank", None), ("atoms", BANK // 10)):
        with timed() as spent, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields[name] = EnergyField(unit_length=True, atoms=atoms).fit(bank)
        found[f"{name}, fit"] = spent["processor seconds"]
    field = fields["bank"]
    z, own = field.encode(unseen), field.encode(bank)
    sigmas = [scale * field.spacing_ for scale in NOISES]
    networks = {}
    for name in ("gradient", "free"):
        with timed() as spent:
            networks[name] = trained(own, sigmas[0], sigmas[-1], name == "gradient")
        found[f"{name}, fit"] = spent["processor seconds"]
    center, covariance = own.mean(dim=0), own.T.cov()
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    # The mixture has axes of its own; noise is turned with the points.
    turn = fields["atoms"].axes_.T @ field.axes_
    for sigma in sigmas:
        noisy = z + sigma * noise
        wiener = torch.linalg.solve(covariance + sigma**2 * torch.eye(len(center)), covariance)
        maps = {
            "linear": center + (noisy - center) @ wiener,
            "bank": field.at(sigma).step(noisy),
            "atoms": fields["atoms"].at(sigma).step(noisy @ turn.T) @ turn,
            **{name: net(noisy, torch.full((len(z), 1), sigma)).detach() for name, net in networks.items()},
        }
        for name, x in maps.items():
            found.setdefault(name, []).append(float((x - z).square().mean()) / sigma**2)
    return found


def settling(cache: Path, components: int, size: int, how: str) -> dict[str, Any]:
    bank, unseen = latents(cache, "minilm-l6", "clinc150")
    generator = torch.Generator().manual_seed(0)
    copies = -(-size // len(bank))
    jitter = 0.1 * bank.std() * torch.randn(copies * len(bank), bank.shape[1], generator=generator)
    many = (bank.repeat(copies, 1) + jitter)[:size] if copies > 1 else bank
    given: dict[str, Any] = {"neighbors": 4000} if how == "cells" else {}
    given |= {"atoms": 500} if how == "atoms" else {}
    with timed() as fit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The noise that the bank of 5 000 chooses in 64 dimensions.
        field = EnergyField(0.25, components=components, unit_length=True, **given).fit(many)
    z = field.encode(unseen)
    z = (z.repeat(5, 1) + 0.02 * torch.randn(5 * len(z), z.shape[1], generator=generator))[:10_000]
    with timed() as spent:
        ends = field.settle(z)
    now = z[:1000]
    for _ in range(1000):
        last, now = now, field.step(now)
        if float((now - last).norm(dim=1).max()) < 1e-5 * field.sigma_:
            break
    same = (ends[:1000] - now).norm(dim=1) < 0.3 * field.sigma_
    return {
        "fit": fit["processor seconds"],
        "settle": spent["processor seconds"],
        "same mode": float(same.float().mean()),
        "modes": len(field.basins(z)[1]),
    }


def main() -> None:
    options = parser_of(__doc__, "cache", "out").parse_args()
    rows = Rows(options.out, ("what", "of"), SOURCES)
    torch.set_num_threads(1)
    for model, corpus in CORPORA:
        make = partial(denoisers, options.cache, model, corpus)
        print(model, corpus, rows.once("denoisers", f"{corpus}-{model}", make=make), flush=True)
    for components, size, how in (
        (384, 5000, "bank"), (384, 5000, "atoms"), (64, 100_000, "cells"), (64, 100_000, "atoms"),
        (384, 100_000, "cells"), (64, 100_000, "bank"),
    ):  # fmt: skip
        make = partial(settling, options.cache, components, size, how)
        print(
            components, size, how, rows.once("settling", f"{components}-{size}-{how}", make=make), flush=True
        )


if __name__ == "__main__":
    main()
