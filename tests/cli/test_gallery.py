from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from repdyn.artifacts import save_artifact
from repdyn.cli.gallery import _READERS, open_result
from repdyn.errors import RepdynError


@pytest.mark.parametrize("kind", _READERS)
def test_every_kind_has_a_reader_that_plots(kind):
    room, name, _ = _READERS[kind]
    result = getattr(import_module(room), name)
    assert callable(result.load)
    assert callable(result.plot)


def test_a_result_without_a_picture_says_what_to_give_instead(tmp_path):
    save_artifact(tmp_path / "a.detector", "detector", {}, {"x": np.zeros(1)})
    with pytest.raises(RepdynError, match="'detector' has no picture of its own"):
        open_result(tmp_path / "a.detector")


def test_a_foreign_file_is_told_apart(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RepdynError, match="not a repdyn result"):
        open_result(tmp_path / "notes.txt")
