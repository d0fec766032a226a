# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Attractors and memorization
# **Question.** Encode a picture, decode it, encode the result, and so on. Where does this iteration lead? If
# it led to training pictures, the autoencoder would have memorized them.
#
# **What you need.** A pretrained variational autoencoder of MNIST and MNIST itself, in the folder
# `REPDYN_DATA`: `models/vae_mnist.safetensors`, the weights of
# [YannDubs/disentangling-vae](https://github.com/YannDubs/disentangling-vae) (`results/VAE_mnist`,
# MIT) saved as safetensors, and `images/mnist.npz` with arrays `x_train`, `x_test` of 28 × 28 bytes,
# as `torchvision.datasets.MNIST` gives them. This code makes both files, in that folder:
#
#     import numpy, torch, torchvision
#     from safetensors.torch import save_file
#
#     save_file(torch.load("model.pt", weights_only=True), "models/vae_mnist.safetensors")
#     parts = [torchvision.datasets.MNIST(".", train, download=True).data for train in (True, False)]
#     numpy.savez("images/mnist.npz", x_train=parts[0].numpy(), x_test=parts[1].numpy())
#
# Then `export REPDYN_DATA=FOLDER`. About a minute, no network.

# %%
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

import repdyn

data = Path(os.environ["REPDYN_DATA"])
weights = load_file(data / "models" / "vae_mnist.safetensors")
with np.load(data / "images" / "mnist.npz") as arrays:
    train, test = arrays["x_train"], arrays["x_test"]


def pictures(bytes_, count, seed=0):
    """Some pictures as the network was trained on them: 32 × 32, between 0 and 1."""
    some = np.random.default_rng(seed).choice(len(bytes_), count, replace=False)
    x = torch.from_numpy(bytes_[some])[:, None].float() / 255
    return functional.interpolate(x, size=32, mode="bilinear", align_corners=False)


# %% [markdown]
# The network has ten latents. Its encoder computes a mean and a variance for each, and we iterate the
# mean. The network is defined here because the weights come without code.


# %%
def encode(x):
    """Pictures to means of the ten latents."""
    for name in ("conv1", "conv2", "conv3"):
        x = torch.relu(
            functional.conv2d(x, weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"], 2, 1)
        )
    x = x.flatten(1)
    for name in ("lin1", "lin2"):
        x = torch.relu(
            functional.linear(x, weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"])
        )
    name = "encoder.mu_logvar_gen"
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]).view(-1, 10, 2)[..., 0]


def decode(z):
    """Latents to pictures."""
    for name in ("lin1", "lin2", "lin3"):
        z = torch.relu(
            functional.linear(z, weights[f"decoder.{name}.weight"], weights[f"decoder.{name}.bias"])
        )
    z = z.view(-1, 32, 4, 4)
    for name in ("convT1", "convT2", "convT3"):
        z = functional.conv_transpose2d(
            z, weights[f"decoder.{name}.weight"], weights[f"decoder.{name}.bias"], 2, 1
        )
        z = torch.relu(z) if name != "convT3" else torch.sigmoid(z)
    return z


seen, unseen = pictures(train, 1000), pictures(test, 1000)
with torch.no_grad():
    error = ((decode(encode(unseen)) - unseen) ** 2).mean().item()
print(f"squared error {error:.4f}; of the mean picture {((unseen - seen.mean(0)) ** 2).mean().item():.4f}")

# %% [markdown]
# The latent vector field is \(V(z) = E(D(z)) - z\). Every search ends with a status. Only verified
# limits that attract their neighbors are called attractors: all multipliers of the map there lie inside
# the unit circle.

# %%
field = repdyn.LatentField.from_autoencoder(encode, decode)
with torch.no_grad():
    starts = encode(unseen[:40])
found = field.attractors(starts, max_steps=500, seed=0)
print(found)

# %%
found.plot(field)

# %% [markdown]
# Are they memories? The coefficient is the mean cosine between a decoded attractor and its nearest
# training picture. **The control** is the same cosine for unseen pictures, because any
# digit is near *some* digit.

# %%
from repdyn.fields import memorization


def flat_encode(x):
    """Rows of pixels to latents."""
    return encode(x.view(-1, 1, 32, 32))


def flat_decode(z):
    """Latents to rows of pixels."""
    return decode(z).flatten(1)


flat = repdyn.LatentField.from_autoencoder(flat_encode, flat_decode)
memory = memorization(flat, seen.flatten(1), unseen.flatten(1), max_starts=40, max_steps=500, seed=0)
print(memory)

# %% [markdown]
# ## What was not found
# No memorization. A high cosine is not evidence, because digits are near each other: compare the first line
# with the *null* below it. On the run printed here its interval does not lie above the null's. A decoded
# attractor is no nearer to a training picture than an unseen picture is. Ten latents cannot store sixty
# thousand digits; the networks for which memorization was reported were trained on a
# few dozen pictures.
#
# Nor is there a small number of attractors that would classify the digits. Forty starts reached two dozen,
# and more starts reach more, so their number depends on the length of the search. Starts with the status
# "slow point" or "max_steps reached" are not counted, because they may still be moving. Starts on an
# "invariant circle" never reach a point. The picture is a projection of ten dimensions, whose share of the
# variance it states, so it draws no arrows of the velocity: trajectories that cross in the projection do
# not meet.
