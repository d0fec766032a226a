"""Device cases of translation, tracing and shortening."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import repdyn
from repdyn import devices
from repdyn.translation import LinearTranslation
from tests.device_cases.shared import case, network, normal


@case("LinearTranslation.pull", "LinearTranslation.push")
def a_translation(device: str) -> Any:
    t = LinearTranslation(2 * np.eye(3), np.zeros(3), np.ones(3))
    x = normal(4, 3).to(device)
    assert t(x.bfloat16()).dtype == torch.bfloat16
    assert t.push(x.bfloat16()).dtype == torch.bfloat16
    return t(x), t.inverse(x), t.push(x), t.pull(x)


@case("trace", "wrap", "TracedModel.run_from", "TracedModel.patched")
def a_traced_model(device: str) -> Any:
    model = repdyn.wrap(network(4, 5, 6, 3).to(device))
    found = repdyn.trace(model, list(normal(9, 4)))
    point = found.points[0]
    x = torch.as_tensor(np.asarray(found[point])).to(device)
    inputs = model.prepare(list(normal(9, 4)))
    return (
        *(np.asarray(found[p]) for p in found.points),
        model.run_from(point, x, devices.to(inputs, device)),
        model.patched({point: torch.zeros_like})(devices.to(inputs, device)),
    )


@case(
    "LinearTranslation.as_module",
    "StitchedModel.forward",
    "StitchedModel.predict",
    "StitchedModel.translate",
    "stitch",
)
def a_stitched_model(device: str) -> Any:
    a, b = (
        repdyn.wrap(network(4, 5, 5, 3, seed=s).to(device), head=network(3, 2, seed=s).to(device))
        for s in (1, 2)
    )
    model = repdyn.stitch(a, LinearTranslation(np.eye(3), np.zeros(3), np.ones(3)), b).to(device)
    x = normal(6, 4)
    own = LinearTranslation(np.eye(3), np.zeros(3), np.ones(3)).as_module().to(device)
    return model.predict(list(x)), model.translate(normal(2, 3).to(device)), own(normal(2, 3).to(device))


@case("TracedModel.read", "TracedModel.reader", "TracedModel.to", "Reader.prepared", "Reader.attached")
def a_reader(device: str) -> Any:
    model = repdyn.wrap(network(4, 5, 6, 3)).to(device)
    assert model.device.type == device
    x = normal(9, 4)
    with model.reader(grad=True) as read:
        found = read.prepared(x, 9)  # of the host: moved, once
        point = next(iter(found))
        (slope,) = torch.autograd.grad(found[point].sum(), model.module[0].bias)
    return {point: value.detach() for point, value in found.items()}, slope, dict(model.read(list(x)))


@case("shorten", tolerance=1e-3)
def a_shortened_model(device: str) -> Any:
    module = nn.Sequential(*(nn.Sequential(network(4, 4, seed=s)) for s in range(4)))
    short = repdyn.shorten(repdyn.wrap(module.to(device)), normal(200, 4), remove=2)
    assert all(p.device.type == device for p in short.module.parameters())
    found = short.shortening
    return short.module(normal(9, 4).to(device)), found.expected.value, found.dropped.value
