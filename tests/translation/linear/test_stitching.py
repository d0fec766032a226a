from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing import Point
from repdyn.translation import LinearTranslation, stitch


def model(seed: int, width: int, head: nn.Module | None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width))
    return repdyn.wrap(body, head=head)


def translation(d_a: int, d_b: int) -> LinearTranslation:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(d_a, d_b, generator=generator, dtype=torch.float64).numpy()
    return LinearTranslation(matrix, matrix.sum(1), matrix.sum(0), verdict="found")


@pytest.fixture
def head() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return nn.Linear(5, 4)


def test_stitched_is_body_then_translation_then_head(head: nn.Module) -> None:
    a, b, t = model(0, 6, None), model(1, 5, head), translation(6, 5)
    stitched = stitch(a, t, b)
    inputs = torch.linspace(-1, 1, 30).reshape(10, 3)
    with torch.no_grad():
        last = a.module(inputs)
        expected = head(torch.as_tensor(t(last.double().numpy()), dtype=torch.float32))
    assert torch.allclose(stitched(last), expected, atol=1e-4)
    assert torch.allclose(stitched.predict(list(inputs)), expected, atol=1e-4)
    assert stitched.verdict == "found"


def test_gradients_reach_the_body_and_the_translation_is_in_the_state(head: nn.Module) -> None:
    stitched = stitch(model(0, 6, None), translation(6, 5), model(1, 5, head))
    x = torch.zeros(2, 6, requires_grad=True)
    stitched(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert {"matrix", "offset_a", "offset_b"} <= set(stitched.state_dict())


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(RepdynError, match="no head"):
        stitch(model(0, 6, None), translation(6, 5), model(1, 5, None))


def middle(layout: str, module: nn.Module) -> SimpleNamespace:
    """A model as far as stitching into its middle needs one; continues through ``module``."""

    def run_from(point: str, x: torch.Tensor, inputs: object) -> torch.Tensor:
        assert point == "body"
        return module(x) * (1 if inputs is None else 2)

    return SimpleNamespace(
        name="b", head=None, points={"body": Point("body", layout)}, run_from=run_from, prepare=list
    )


def test_every_token_is_translated_on_the_way_into_a_middle_layer(head: nn.Module) -> None:
    a, t = model(0, 6, None), translation(6, 5)
    a = replace(a, points={"2": replace(a.points["2"], layout="NLC")})
    stitched = stitch(a, t, middle("NLC", head), points=("2", "body"))
    inputs = torch.linspace(-1, 1, 4 * 7 * 3).reshape(4, 7, 3)
    with torch.no_grad():
        tokens = a.module(inputs)
        expected = head(torch.as_tensor(t(tokens.double().numpy()), dtype=torch.float32))
    assert torch.allclose(stitched(tokens), expected, atol=1e-4)
    assert torch.allclose(stitched.predict(list(inputs)), 2 * expected, atol=1e-4)


def test_the_rest_of_b_answers_from_its_middle(planted) -> None:
    """B is A in turned coordinates, so that the true map into its middle gives B's own answers."""
    turn = torch.as_tensor(planted.rotation(6, 1), dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body, rest, turned, after = (nn.Linear(*widths) for widths in 2 * ((3, 6), (6, 4)))
    with torch.no_grad():
        turned.weight.copy_(turn.T @ body.weight)
        turned.bias.copy_(body.bias @ turn)
        after.weight.copy_(rest.weight @ turn)
        after.bias.copy_(rest.bias + 1)
    a, b = (repdyn.wrap(nn.Sequential(*parts)) for parts in ((body, rest), (turned, after)))
    t = LinearTranslation(planted.rotation(6, 1), np.zeros(6), np.zeros(6))
    inputs = torch.linspace(-1, 1, 15).reshape(5, 3)
    stitched = stitch(a, t, b, points=("0", "0"))
    with torch.no_grad():
        assert torch.allclose(stitched.predict(list(inputs)), b.module(inputs), atol=1e-5)
        assert torch.allclose(b.module(inputs), a.module(inputs) + 1, atol=1e-5)


def test_channels_are_translated_where_they_stand_second() -> None:
    t = translation(6, 5)
    stitched = stitch(
        middle("NCHW", nn.Identity()), t, middle("NCHW", nn.Identity()), points=("body", "body")
    )
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.as_tensor(t(x.movedim(1, -1).double().numpy()), dtype=torch.float32).movedim(-1, 1)
    assert torch.allclose(stitched(x), expected, atol=1e-4)


def test_points_that_do_not_fit_are_refused(head: nn.Module) -> None:
    t = translation(6, 5)
    with pytest.raises(RepdynError, match="no point"):
        stitch(middle("NLC", head), t, middle("NLC", head), points=("bdy", "body"))
    with pytest.raises(RepdynError, match="one layout"):
        stitch(middle("NLC", head), t, middle("NCHW", head), points=("body", "body"))
    without = middle("NLC", head)
    del without.run_from
    with pytest.raises(RepdynError, match="run_from"):
        stitch(middle("NLC", head), t, without, points=("body", "body"))
    with pytest.raises(RepdynError, match="width 6"):
        stitch(middle("NLC", head), t, middle("NLC", head), points=("body", "body"))(torch.zeros(2, 7, 4))
