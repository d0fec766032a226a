from __future__ import annotations

import json

import numpy as np

from repdyn.paths import RepresentationPaths


def test_two_models_and_two_depths_are_compared(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(150, 5))
    RepresentationPaths.from_arrays({"stem": x, "head": np.tanh(x)}).save("a.paths")
    np.save("b.npy", x @ generator.normal(size=(5, 7)))
    status, out, err = command("compare", "a.paths", "b.npy", "--out", "ab", "--json", "-", "--strict")
    assert status == 0, err
    told = json.loads(out)["compare"]
    assert told["verdict"] == "found"
    assert np.array(told["depths"]["CKA"]["values"]).shape == (2, 1)
    assert "calibrated" in err  # the table, on stderr
    status, out, _ = command("compare", "a.paths", "a.paths", "--points", "stem", "head")
    assert status == 0
    assert "Comparison on 150 samples, verdict 'found'" in out
    assert command("report", "ab", "--out", "r.html")[0] == 0
    np.save("c.npy", generator.normal(size=(150, 7)))
    status, _, err = command("compare", "a.paths", "c.npy", "--strict")
    assert status == 1
    status, _, err = command("compare", "a.paths", "c.npy", "--points", "stem", "x")
    assert status == 2
    assert "nearest" in err
