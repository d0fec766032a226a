from __future__ import annotations

from repdyn.progress import listening, track


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
