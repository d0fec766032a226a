"""Stitching where the layout of a point is not declared: it is found out, or refused."""

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.translation import LinearTranslation, stitch

WIDTH = 8


class Tokens(nn.Module):
    """Convolves and gives (N, L, C), which a module that convolves is not taken to do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, WIDTH, 1)

    def forward(self, x):
        return self.conv(x).transpose(1, 2)


class Channels(nn.Module):
    """Does not convolve and gives (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, WIDTH)

    def forward(self, x):
        return self.linear(x.transpose(1, 2)).transpose(1, 2)


class Rest(nn.Module):
    def __init__(self, second: bool) -> None:
        super().__init__()
        self.second = second
        self.linear = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.linear(x.transpose(1, 2) if self.second else x)


def two(kind, other=None):
    found = []
    for number, one in enumerate((kind, other or kind)):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            found.append(repdyn.wrap(nn.Sequential(one(), Rest(one is Channels)), points=["0", "1"]))
    return found


def translation() -> LinearTranslation:
    rng = np.random.default_rng(0)
    return LinearTranslation(rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=WIDTH), rng.normal(size=WIDTH))


def expected(a, b, t, x, second):
    with torch.no_grad():
        read = a.module[0](x).double().numpy()
        moved = t(read.swapaxes(1, 2)).swapaxes(1, 2) if second else t(read)
        return b.module[1](torch.as_tensor(moved, dtype=torch.float32))


@pytest.mark.parametrize("positions", [WIDTH, 5])
@pytest.mark.parametrize("kind", [Tokens, Channels])
def test_the_axis_of_channels_is_found(kind, positions):
    (a, b), t = two(kind), translation()
    x = torch.randn(6, 3, positions, generator=torch.Generator().manual_seed(1))
    found = stitch(a, t, b, points=("0", "0")).predict(list(x))
    torch.testing.assert_close(found, expected(a, b, t, x, kind is Channels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Tokens, Channels])
def test_one_representation_alone(kind):
    (a, b), t = two(kind), translation()
    stitched = stitch(a, t, b, points=("0", "0"))
    for positions in (5, WIDTH):
        x = torch.randn(6, 3, positions, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            read = a.module[0](x)
            if positions == WIDTH:
                with pytest.raises(RepdynError, match="call predict with inputs once"):
                    stitched(read, x)
                stitched.predict(list(x))
            found = stitched(read, x)
        torch.testing.assert_close(found, expected(a, b, t, x, kind is Channels), rtol=1e-4, atol=1e-4)


def test_points_of_two_layouts_are_refused_once_that_is_known():
    (a, b), t = two(Tokens, Channels), translation()
    x = torch.randn(6, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    with pytest.raises(RepdynError, match="choose points of one layout"):
        stitch(a, t, b, points=("0", "0")).predict(list(x))
