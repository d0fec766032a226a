import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
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
