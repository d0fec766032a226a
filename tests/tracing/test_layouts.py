"""Which axis holds the channels belongs to a point: it is read off the module's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import repdyn

X = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)


class Mixing(nn.Module):
    """Tokens in, tokens out, with a convolution along them between."""

    def __init__(self):
        super().__init__()
        self.along = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + self.along(x.transpose(1, 2)).transpose(1, 2))


def test_a_block_with_a_convolution_that_gives_tokens():
    module = nn.Sequential(Mixing(), Mixing())
    x = np.random.default_rng(0).normal(size=(4, 9, 6)).astype(np.float32)
    found = repdyn.trace(module, x)
    with torch.no_grad():
        own = module(torch.from_numpy(x)).mean(1)
    np.testing.assert_allclose(np.asarray(found["1"]), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "points", "last"),
    [
        ("convnext_tiny", "stages.0.blocks.0.mlp", False),
        ("convnext_atto", "stages.0.blocks.0", True),
        ("gcvit_xxtiny", "stages.1", True),
    ],
)
def test_points_of_one_family_differ(name, points, last):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
    x = (
        X
        if "gcvit" not in name
        else np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    )
    found = repdyn.trace(module, x, points=points)
    kept = {}
    handle = module.get_submodule(points).register_forward_hook(lambda _, __, value: kept.update(value=value))
    with torch.no_grad():
        module(torch.from_numpy(x))
    handle.remove()
    own = kept["value"].mean((2, 3) if last else (1, 2))
    np.testing.assert_allclose(np.asarray(found[points]), own, rtol=1e-4, atol=1e-5)


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def own_mean(module, name, x, axes):
    """The mean over some axes of what a module gives: plain torch."""
    kept = {}
    handle = module.get_submodule(name).register_forward_hook(
        lambda _, __, value: kept.update(v=value.clone())
    )
    with torch.no_grad():
        module.eval()(torch.from_numpy(x))
    handle.remove()
    return kept["v"].mean(axes).numpy()


class Wider(nn.Module):
    """Its last layer in order has as many features as there are tokens, and is not what it gives."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 7)
        self.other = nn.Linear(5, 5)

    def forward(self, x):
        return self.out(x) + 0 * self.other(torch.zeros(1, 5)).sum()


def picture_layers():
    return [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]


@pytest.mark.parametrize(
    ("layers", "shape", "point", "axes"),
    [
        ([Mixing(), nn.Identity()], (4, 6, 6), "0", 1),  # as many tokens as channels
        ([Wider(), nn.Identity()], (4, 5, 8), "0", 1),
        ([Wider(), nn.Identity()], (1, 5, 8), "0", 1),  # a single sample is run as two
        (picture_layers(), (4, 8, 8, 8), "1", (2, 3)),  # no layer with weights, all axes equal
        (picture_layers(), (4, 8, 8, 8), "2", (2, 3)),
        ([nn.Conv1d(6, 6, 3, padding=1), nn.ReLU()], (4, 6, 6), "1", 2),
    ],
)
def test_equal_axes_are_told_apart_by_another_size(layers, shape, point, axes):
    module, x = nn.Sequential(*layers), numbers(*shape)
    found = repdyn.trace(module, x, points=[point])
    np.testing.assert_allclose(
        np.asarray(found[point]), own_mean(module, point, x, axes), rtol=1e-4, atol=1e-5
    )


class OneSize(nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, tokens, 8))
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, x):
        return self.block(x + self.positions)


def test_what_stays_ambiguous_is_refused_and_can_be_declared():
    with pytest.raises(repdyn.RepdynError, match=r"point 'block'.*which axis holds the channels.*'NLC'"):
        repdyn.trace(OneSize(8), numbers(4, 8, 8), points=["block"])
    module, x = OneSize(8), numbers(4, 8, 8)
    declared = repdyn.trace(repdyn.wrap(module, points={"block": "NLC"}), x)
    np.testing.assert_allclose(
        np.asarray(declared["block"]), own_mean(module, "block", x, 1), rtol=1e-4, atol=1e-5
    )
    # Its own layers tell where the axes differ, and flattened all entries are kept whatever they mean.
    module, x = OneSize(5), numbers(4, 5, 8)
    np.testing.assert_allclose(
        np.asarray(repdyn.trace(module, x, points=["block"])["block"]),
        own_mean(module, "block", x, 1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert repdyn.trace(OneSize(8), numbers(4, 8, 8), points=["block"], pool="flatten")["block"].shape == (
        4,
        64,
    )


@pytest.mark.parametrize(
    ("name", "point", "axes"),
    [
        ("swin_t", "features.1.0.mlp", (1, 2)),
        ("swin_t", "permute", (2, 3)),
        ("vgg11", "features.1", (2, 3)),
        ("vgg11", "avgpool", (2, 3)),
        ("alexnet", "features.1", (2, 3)),
        ("convnext_tiny", "features.1.0.block.3", (1, 2)),
    ],
)
def test_points_of_torchvision(name, point, axes):
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)()
    x = numbers(2, 3, 64, 64)
    found = repdyn.trace(module, x, points=[point])
    np.testing.assert_allclose(
        np.asarray(found[point]), own_mean(module, point, x, axes), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_convolutions_that_are_overwritten_are_kept_as_they_were(name):
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)().eval()
    x = numbers(2, 3, 64, 64)
    found = repdyn.trace(module, x, points=["features.0"], pool="none")
    with torch.no_grad():
        own = module.features[0](torch.from_numpy(x)).flatten(2).transpose(1, 2)
    np.testing.assert_allclose(np.asarray(found["features.0"]), own, rtol=1e-4, atol=1e-5)


def test_a_probe_changes_no_value_and_costs_one_sample():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU())
            self.samples = []

        def forward(self, x):
            self.samples.append(len(x))
            return self.block(x)

    module = Counted()
    repdyn.trace(module, numbers(9, 4, 16), points=["block"], batch_size=4)
    assert [count for count in module.samples if count > 1] == [4, 4]
    declared = Counted()
    repdyn.trace(repdyn.wrap(declared, points={"block": "NCL"}), numbers(9, 4, 16), batch_size=4)
    assert declared.samples == [4, 4, 1]  # the batches, and nothing else


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_blocks_with_a_letter_after_their_number_are_one_chain(name):
    """GoogLeNet's default was two classifiers for training, which never run; Inception's 3 of 11 blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)(init_weights=False, num_classes=4).eval()
        x = torch.randn(2, 3, 96, 96)
    seen, handles = {}, []
    for part, inner in module.named_children():
        if part.startswith(("inception", "Mixed_")):
            keep = lambda _m, _a, out, part=part: seen.update({part: out.mean((2, 3))})  # noqa: E731
            handles.append(inner.register_forward_hook(keep))
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    paths = repdyn.trace(module, x)
    assert paths.points == tuple(seen)
    assert len(seen) == (9 if name == "googlenet" else 11)
    for point, value in seen.items():
        np.testing.assert_allclose(np.asarray(paths[point]), value.numpy(), rtol=1e-4, atol=1e-5)
