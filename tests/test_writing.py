from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from repdyn import writing
from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.writing import earlier_of, scratch_folder, sweep_scratch, whole_file


def _python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stderr=-1)


def _killed_save(target: Path, step: str, exchange: bool) -> None:
    """Save ``{"k": 2}`` in another process that kills itself before a step."""
    code = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np, safetensors.numpy
    from repdyn import artifacts, writing
    target, step, exchange = sys.argv[1:]
    def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
    if exchange == "False": writing._exchange = lambda one, other: False
    if step == "write": safetensors.numpy.save_file = die
    if step == "replace": artifacts.replace_folder = die
    if step == "between":
        rename = Path.rename
        Path.rename = lambda self, to: die() if str(to) == target else rename(self, to)
    if step == "remove": writing.shutil.rmtree = die
    artifacts.save_artifact(target, "tree", {"k": 2}, {"a": np.ones(3)})
    """
    process = _python(code, target, step, exchange)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()


@pytest.mark.parametrize(
    ("step", "exchange"),
    [("write", True), ("replace", True), ("remove", True), ("between", False), ("remove", False)],
)
def test_a_kill_at_any_moment_leaves_a_whole_result_and_the_next_save_cleans_up(tmp_path, step, exchange):
    target = tmp_path / "x"
    save_artifact(target, "tree", {"k": 1}, {"a": np.zeros(3)})
    _killed_save(target, step, exchange)
    found = load_artifact(target)
    assert found.config["k"] == found.tensors["a"][0] + 1  # one result, not half of each
    assert found.config["k"] == (2 if step == "remove" else 1)
    save_artifact(target, "tree", {"k": 3}, {"a": np.full(3, 2.0)})
    assert load_artifact(target).config == {"k": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_rename_that_fails_leaves_the_earlier_result(tmp_path, monkeypatch, exchange):
    save_artifact(tmp_path / "x", "tree", {"k": 1}, {"a": np.zeros(1)})
    if exchange:

        def refuse(*_: object) -> bool:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writing, "_exchange", refuse)
    else:
        monkeypatch.setattr(writing, "_exchange", lambda *_: False)
        rename = Path.rename

        def fails(self: Path, to: Path) -> Path:
            if Path(to).name == "x" and not self.name.endswith(".earlier"):
                raise OSError(5, "Input/output error")
            return rename(self, to)

        monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(RepdynError, match="cannot be written"):
        save_artifact(tmp_path / "x", "tree", {"k": 2}, {"a": np.zeros(1)})
    assert load_artifact(tmp_path / "x").config == {"k": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("exchange", [True, False])
def test_processes_that_save_one_result_all_succeed(tmp_path, exchange):
    code = """
    import sys
    import numpy as np
    from repdyn import artifacts, writing
    if sys.argv[3] == "False": writing._exchange = lambda one, other: False
    for n in range(60):
        k = int(sys.argv[2]) * 1000 + n
        artifacts.save_artifact(sys.argv[1], "tree", {"k": k}, {"a": np.array([k])})
    """
    processes = [_python(code, tmp_path / "x", k, exchange) for k in (1, 2, 3)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    found = load_artifact(tmp_path / "x")
    assert found.config["k"] == found.tensors["a"][0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_scratch_that_is_in_use_and_what_only_looks_like_it_is_kept(tmp_path):
    (tmp_path / ".x.repdyn-notes").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "thesis.txt").write_text("years")
    (tmp_path / ".x.repdyn-abcdefgh").symlink_to(tmp_path / "far")
    with scratch_folder(tmp_path / "x") as mine:
        sweep_scratch(tmp_path / "x")
        assert mine.is_dir()
    assert {p.name for p in tmp_path.iterdir()} == {".x.repdyn-notes", ".x.repdyn-abcdefgh", "far"}
    assert (tmp_path / "far" / "thesis.txt").read_text() == "years"
    assert earlier_of(tmp_path / "x") is None


def test_a_result_behind_a_link_is_replaced_where_it_is(tmp_path):
    save_artifact(tmp_path / "real", "tree", {"k": 1}, {"a": np.zeros(1)})
    (tmp_path / "link").symlink_to("real")
    save_artifact(tmp_path / "link", "tree", {"k": 2}, {"a": np.zeros(1)})
    assert (tmp_path / "link").is_symlink()
    assert load_artifact(tmp_path / "real").config == {"k": 2}


def test_a_file_is_replaced_at_the_end_or_not_at_all(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("earlier")
    with pytest.raises(IsADirectoryError), whole_file(target) as scratch:
        (scratch.write_text("half"), tmp_path.write_text(""))
    assert target.read_text() == "earlier"
    with whole_file(target) as scratch:
        scratch.write_text("whole")
        assert target.read_text() == "earlier"
    assert target.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.csv"]
    assert target.stat().st_mode & 0o044  # as readable as any file


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "p")
    process = _python("import sys; print(open(sys.argv[1]).read(), file=sys.stderr)", tmp_path / "p")
    with whole_file(tmp_path / "p") as scratch:
        scratch.write_text("rows")
    assert process.communicate()[1] == b"rows\n"
    assert (tmp_path / "p").is_fifo()
