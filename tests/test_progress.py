from __future__ import annotations

import sys
import types

from repdyn import progress
from repdyn.progress import _Cell, cell_listener, listening, track


def test_nothing_listens_nothing_happens():
    assert list(track(range(3), "counting")) == [0, 1, 2]


def test_a_listener_hears_start_every_step_and_resumption():
    heard = []
    with listening(lambda *event: heard.append(event)):
        list(track(["a", "b"], "reading", start=5))
    assert heard == [("reading", 5, 7), ("reading", 6, 7), ("reading", 7, 7)]
    list(track([1], "after"))
    assert len(heard) == 3


def test_a_detail_follows_every_step():
    heard, losses = [], iter(["loss 2", "loss 1"])
    with listening(lambda *event: heard.append(event)):
        list(track(range(2), "fitting", detail=lambda: next(losses)))
    assert heard == [("fitting", 0, 2), ("fitting | loss 2", 1, 2), ("fitting | loss 1", 2, 2)]


class Notebook:
    """What IPython gives a kernel: a shell with a kernel, and outputs that can be changed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def show(self, text: str):
        self.shown.append(text)
        return self.shown.append


def test_a_bar_lives_in_its_cell_and_is_removed():
    now = iter([0.0, 0.1, 1.5, 1.6, 3.0])
    notebook = Notebook()
    cell = _Cell(notebook.show, lambda: next(now))
    for done in range(4):
        cell("tracing <b>", done, 10)  # at .1, 1.5, 1.6 and 3 seconds
    cell.close()
    first, second, last = notebook.shown
    assert "tracing &lt;b&gt;: 1 of 10" in first
    assert "value='3' max='10'" in second
    assert "7 s left" in second
    assert last == ""


def test_short_loops_and_terminals_show_nothing(monkeypatch):
    assert cell_listener() is None  # pytest runs in no notebook
    quick = Notebook()
    cell = _Cell(quick.show, lambda: 0.0)
    cell("a", 1, 2)
    cell.close()
    assert quick.shown == []
    terminal = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert cell_listener() is None
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert isinstance(cell_listener(), _Cell)
    assert list(track(range(3), "counting")) == [0, 1, 2]


def test_a_bar_is_removed_where_the_loop_is_left(monkeypatch):
    notebook = Notebook()
    now = iter([0.0, 2.0, 4.0, 6.0])
    monkeypatch.setattr(progress, "cell_listener", lambda: _Cell(notebook.show, lambda: next(now)))
    loop = track(range(9), "counting")
    next(loop)
    next(loop)
    loop.close()
    assert notebook.shown[-1] == ""
    assert len(notebook.shown) > 1
