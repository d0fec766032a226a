"""A store is continued with the same samples, labels, preparation, pooling and settings only."""

from __future__ import annotations

import importlib.util
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing.identity import Unhashable, fingerprint, sample_digest, settings_digest
from repdyn.tracing.spec import digest

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 70, 4)).astype(np.float32)


def mlp(eps=1e-5, activation=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3, eps), activation or nn.Tanh(), nn.Linear(3, 2))


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


class Lazy:
    """A sequence that is no list: read one by one."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


KINDS = {
    "array": np.asarray,
    "tensor": torch.from_numpy,
    "list of arrays": list,
    "list of tensors": lambda x: [torch.from_numpy(row) for row in x],
    "lists of numbers": lambda x: x.tolist(),
    "data set": Rows,
    "sequence": Lazy,
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_samples_are_not_taken_for_the_same(kind, tmp_path):
    make, out = KINDS[kind], tmp_path / "a.paths"
    first = repdyn.trace(mlp(), make(A), out=out)
    again = repdyn.trace(mlp(), make(A.copy()), out=out)
    np.testing.assert_array_equal(np.asarray(first["3"]), np.asarray(again["3"]))
    with pytest.raises(RepdynError, match="holds another trace"):
        repdyn.trace(mlp(), make(B), out=out)
    changed = A.copy()
    changed[69, 3] += 1e-6
    with pytest.raises(RepdynError, match="holds another trace"):
        repdyn.trace(mlp(), make(changed), out=out)


def prepare_one(rows):
    return torch.from_numpy(np.stack(rows)) * SCALE


def prepare_two(rows):
    return torch.from_numpy(np.stack(rows)) * 3.0


SCALE = 2.0


def scaled(factor):
    return lambda rows: torch.from_numpy(np.stack(rows) * factor)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"labels": [0] * 70}, {"labels": [0] * 69 + [1]}),
        ({"labels": ["a"] * 70}, {"labels": ["b"] * 70}),
        ({"labels": [0] * 70}, {}),
        ({"pool": lambda t: t.values[:, 0]}, {"pool": lambda t: t.values[:, 0] * 2}),
        ({"prepare": prepare_one}, {"prepare": prepare_two}),
        ({"prepare": scaled(2.0)}, {"prepare": scaled(3.0)}),
        ({"prepare": scaled(np.ones(1))}, {"prepare": scaled(np.ones(1) * 3)}),
        ({"model": mlp()}, {"model": mlp(eps=1e-3)}),
        ({"model": mlp(activation=nn.LeakyReLU(0.1))}, {"model": mlp(activation=nn.LeakyReLU(0.2))}),
        ({"head": scaled(1.0)}, {"head": scaled(2.0)}),
    ],
)
def test_each_part_of_the_identity_counts(one, other, tmp_path):
    def run(model=None, prepare=None, head=None, **rest):
        head = head and (lambda x, head=head: head([x.numpy()])[0])
        wrapped = repdyn.wrap(model or mlp(), prepare, head)
        return repdyn.trace(wrapped, A, out=tmp_path / "a.paths", **rest)

    run(**one)
    run(**one)
    with pytest.raises(RepdynError, match="different"):
        run(**other)


def test_a_global_that_a_function_refers_to_counts(tmp_path, monkeypatch):
    repdyn.trace(repdyn.wrap(mlp(), prepare_one), A, out=tmp_path / "a.paths")
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    with pytest.raises(RepdynError, match="prepare is different"):
        repdyn.trace(repdyn.wrap(mlp(), prepare_one), A, out=tmp_path / "a.paths")


def test_what_cannot_be_hashed_is_traced_but_not_continued(tmp_path):
    lock = threading.Lock()

    def prepare(rows):
        with lock:
            return torch.from_numpy(np.stack(rows))

    model = repdyn.wrap(mlp(), prepare)
    assert len(repdyn.trace(model, A, out=tmp_path / "a.paths")) == 70
    with pytest.raises(RepdynError, match=r"its prepare cannot be compared .*lock"):
        repdyn.trace(model, A, out=tmp_path / "a.paths")

    class Sample:
        def __init__(self, row):
            self.row, self.lock = row, threading.Lock()

    items = [Sample(row) for row in A]
    model = repdyn.wrap(mlp(), lambda rows: torch.from_numpy(np.stack([row.row for row in rows])))
    assert len(repdyn.trace(model, items, out=tmp_path / "b.paths")) == 70
    with pytest.raises(RepdynError, match=r"cannot be compared .*sample '0'.*lock"):
        repdyn.trace(model, items, out=tmp_path / "b.paths")


def test_samples_that_are_names_of_files_count_with_what_is_in_the_files(tmp_path):
    names = []
    for number, row in enumerate(A[:5]):
        np.save(tmp_path / f"{number}.npy", row)
        names.append(str(tmp_path / f"{number}.npy"))
    model = repdyn.wrap(mlp(), lambda rows: torch.from_numpy(np.stack([np.load(row) for row in rows])))
    repdyn.trace(model, names, out=tmp_path / "a.paths")
    repdyn.trace(model, names, out=tmp_path / "a.paths")
    np.save(tmp_path / "3.npy", B[3])
    with pytest.raises(RepdynError, match="holds another trace"):
        repdyn.trace(model, names, out=tmp_path / "a.paths")


def test_pictures_count_by_their_pixels():
    one = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
    assert sample_digest(one) == sample_digest(one.copy())
    assert sample_digest(one) != sample_digest(one.transpose(Image.Transpose.ROTATE_90))
    assert sample_digest(one) != sample_digest(Image.fromarray(np.ones((2, 3, 3), np.uint8)))


def test_a_store_of_an_earlier_version_is_read_but_not_continued(tmp_path):
    paths = repdyn.trace(mlp(), A)
    meta = {key: value for key, value in paths.meta.items() if key != "identity"}
    repdyn.RepresentationPaths.from_arrays({point: paths[point] for point in paths.points}, meta=meta).save(
        tmp_path / "a.paths"
    )
    assert len(repdyn.open_paths(tmp_path / "a.paths")) == 70
    with pytest.raises(RepdynError, match="no digests of its samples"):
        repdyn.trace(mlp(), A, out=tmp_path / "a.paths")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_the_digest_follows_the_weights_and_sees_packed_ones():
    module = mlp()
    model = repdyn.wrap(module)
    before = model.digest
    module[0].weight.data.mul_(2)
    assert model.digest != before

    class Packed(nn.Module):
        """Keeps its weights as torch's quantised layers do: packed in a state that is no tensor."""

        def __init__(self, weight):
            super().__init__()
            self.weight = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)

        def get_extra_state(self):
            return (self.weight, None)

        def set_extra_state(self, state):
            self.weight = state[0]

    with torch.no_grad():
        assert digest(Packed(torch.ones(3))) == digest(Packed(torch.ones(3)))
        assert digest(Packed(torch.ones(3))) != digest(Packed(torch.ones(3) * 2))


def test_sparse_buffers_have_a_digest():
    module = nn.Linear(3, 3)
    module.register_buffer("graph", torch.eye(3).to_sparse())
    before = digest(module)
    module.graph = (2 * torch.eye(3)).to_sparse()
    assert digest(module) != before


def test_settings_see_what_the_weights_do_not():
    module = mlp()
    before = settings_digest(module)
    assert settings_digest(mlp()) == before
    module[1].eps = 0.1
    assert settings_digest(module) != before
    module = mlp()
    module[0].register_buffer("mask", torch.ones(3), persistent=False)
    masked = settings_digest(module)
    module[0].mask = torch.zeros(3)
    assert len({before, masked, settings_digest(module)}) == 3
    module = mlp()
    module[0].register_forward_hook(lambda part, args, output: output * 2)
    assert settings_digest(module) != before


def test_fingerprints_are_of_content():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1})
    assert fingerprint([1]) != fingerprint([1.0])
    assert fingerprint(["a", "b"]) != fingerprint(["ab"])
    assert fingerprint(np.zeros(2, np.float32)) != fingerprint(np.zeros(1, np.float64))
    loop: list = []
    loop.append(loop)
    assert fingerprint(loop)
    with pytest.raises(Unhashable):
        fingerprint(iter([1, 2]).__length_hint__ and threading.Lock())


OFFSET = 1.0


class Shifted(nn.Module):
    """Its values depend on a global, a class attribute and a property, none of which is a weight."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.body = mlp()

    @property
    def slope(self):
        return 1.0

    def forward(self, x):
        return self.body(x * self.factor * self.slope + OFFSET)


class Prepare:
    """A callable object, whose code refers to a global."""

    def __call__(self, rows):
        return torch.from_numpy(np.stack(rows)) * SCALE


CHANGES = {
    "a global of forward": (lambda: repdyn.wrap(Shifted()), "OFFSET", 7.0),
    "a global of __call__": (lambda: repdyn.wrap(mlp(), Prepare()), "SCALE", 7.0),
    "an attribute of the class": (lambda: repdyn.wrap(Shifted()), (Shifted, "factor"), 7.0),
    "a property": (lambda: repdyn.wrap(Shifted()), (Shifted, "slope"), property(lambda self: 7.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_that_a_users_code_refers_to_counts(change, tmp_path, monkeypatch):
    make, place, value = CHANGES[change]
    first = repdyn.trace(make(), A, out=tmp_path / "a.paths")
    again = repdyn.trace(make(), A, out=tmp_path / "a.paths")
    last = first.points[-1]
    np.testing.assert_array_equal(np.asarray(first[last]), np.asarray(again[last]))
    if isinstance(place, str):
        monkeypatch.setitem(globals(), place, value)
    else:
        monkeypatch.setattr(*place, value)
    other = repdyn.trace(make(), A)
    assert not np.allclose(np.asarray(other[last]), np.asarray(first[last]))
    with pytest.raises(RepdynError, match=r"holds another trace, its (settings|prepare)"):
        repdyn.trace(make(), A, out=tmp_path / "a.paths")


def prepare_by_helpers(texts):
    return helpers_of_this_test.read(texts)  # noqa: F821 - set by the test


def prepare_by_import(texts):
    from helpers_of_this_test import read

    return read(texts)


@pytest.mark.parametrize("prepare", [prepare_by_helpers, prepare_by_import])
def test_a_module_of_the_user_counts_with_what_is_in_it(prepare, tmp_path, monkeypatch):
    """The helpers of a project are edited between two runs; texts are the samples."""

    def edited(digits):
        code = f"import torch\nSCALE = {digits}\n\ndef read(texts):\n"
        code += "    return torch.tensor([[float(len(t) * SCALE)] * 4 for t in texts])\n"
        (tmp_path / "helpers_of_this_test.py").write_text(code)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "helpers_of_this_test", raising=False)
        spec = importlib.util.spec_from_file_location(
            "helpers_of_this_test", tmp_path / "helpers_of_this_test.py"
        )
        module = importlib.util.module_from_spec(spec)
        exec(compile(code, spec.origin, "exec"), vars(module))  # not from a cached byte code
        monkeypatch.setitem(sys.modules, "helpers_of_this_test", module)
        monkeypatch.setitem(globals(), "helpers_of_this_test", module)

    texts = ["a", "bb", "ccc"]
    edited(1)
    repdyn.trace(repdyn.wrap(mlp(), prepare), texts, out=tmp_path / "a.paths")
    repdyn.trace(repdyn.wrap(mlp(), prepare), texts, out=tmp_path / "a.paths")
    edited(2)
    with pytest.raises(RepdynError, match="holds another trace, its prepare is different"):
        repdyn.trace(repdyn.wrap(mlp(), prepare), texts, out=tmp_path / "a.paths")
