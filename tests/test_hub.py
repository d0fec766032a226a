"""Saved results on the Hugging Face Hub: what comes back, what the card says, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import repdyn
from repdyn import fields
from repdyn.disentangle import SKD, SSMSKD
from repdyn.errors import RepdynError
from repdyn.fields import EnergyField, SurrogateAutoencoder
from repdyn.hub import repository
from repdyn.koopman import KoopmanAutoencoder
from repdyn.ood import KNNDetector, PathDetector, UnionDetector, load_detector
from repdyn.topology import FlowAutoencoder
from repdyn.translation import LinearTranslation
from tests.device_cases.shared import fitted_koopman, normal, some_paths
from tests.hub_stand_in import READS, Repo, StandIn

FOLDERS = Path(__file__).parent / "data" / "schema1"


def translation(**given: Any) -> LinearTranslation:
    draw = np.random.default_rng(3)
    return LinearTranslation(draw.normal(size=(6, 5)), draw.normal(size=6), draw.normal(size=5), **given)


def surrogate() -> SurrogateAutoencoder:
    return SurrogateAutoencoder(2, (8,), penalty=0.1, epochs=1).fit(some_paths(), "p1")


# What is pushed, and figures that it and its copy give alike: to the last bit.
PUSHED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "KoopmanAutoencoder": (
        lambda: fitted_koopman("cpu"),
        lambda found: found.propagate(np.asarray(some_paths()["p0"]), "p0", 1.5),
    ),
    "EditedKoopman": (
        lambda: fitted_koopman("cpu").forget(some_paths(), label=1),
        lambda found: found.predict(np.asarray(some_paths()["p0"])),
    ),
    "SKD": (
        lambda: SKD(latent_dim=4, static_dim=1, hidden=8).fit(normal(24, 5, 4), epochs=1),
        lambda found: found.swap(normal(3, 5, 4), normal(3, 5, 4).flip(0), "static").first,
    ),
    "SSMSKD": (
        lambda: SSMSKD(latent_dim=3, hidden=8).fit(normal(24, 5, 4), epochs=1),
        lambda found: found.swap(normal(3, 5, 4), normal(3, 5, 4).flip(0), "static").first,
    ),
    "SurrogateAutoencoder": (
        surrogate,
        lambda found: found.field().velocity(found.encode(np.asarray(some_paths()["p1"]))),
    ),
    "EnergyField": (
        lambda: EnergyField(sigma=0.3).fit(np.asarray(some_paths()["p1"])[:25]),
        lambda found: found.bank_,
    ),
    "FlowAutoencoder": (
        lambda: FlowAutoencoder(2, layers=2, hidden=(8,)).fit(
            np.asarray(some_paths()["p1"]), steps=1, start_steps=1
        ),
        lambda found: found.encode(np.asarray(some_paths()["p1"])),
    ),
    "PathDetector": (
        lambda: PathDetector().fit(some_paths()),
        lambda found: found.score_samples(some_paths()),
    ),
    "KNNDetector": (
        lambda: KNNDetector(k=3).fit(some_paths()),
        lambda found: found.score_samples(some_paths()),
    ),
    "UnionDetector": (
        lambda: UnionDetector().fit(some_paths()),
        lambda found: found.score_samples(some_paths()),
    ),
    "LinearTranslation": (translation, lambda found: found(normal(7, 6))),
}


@pytest.mark.filterwarnings("ignore::repdyn.fields.SurrogateWarning")
@pytest.mark.parametrize("name", PUSHED)
def test_what_comes_back_predicts_the_same_to_the_last_bit(name: str, hub: StandIn, tmp_path: Path) -> None:
    make, figures = PUSHED[name]
    pushed = make()
    address = pushed.push_to_hub("ada/pushed", commit_message="what was fitted")
    assert address.startswith(f"{hub.url}/ada/pushed/commit/")
    assert hub.model("ada/pushed").messages == ["initial commit", "what was fitted"]
    save = pushed.save_pretrained if hasattr(pushed, "save_pretrained") else pushed.save
    save(tmp_path / "local")
    there = hub.model("ada/pushed").files
    assert set(there) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    for file in ("config.json", "model.safetensors"):
        assert there[file] == (tmp_path / "local" / file).read_bytes()
    expected = torch.as_tensor(figures(pushed))
    for found in (
        type(pushed).from_pretrained("ada/pushed"),
        repdyn.load_result("hf://ada/pushed"),
        repdyn.load_result(Path("hf://ada/pushed@main")),
    ):
        assert type(found) is type(pushed)
        assert torch.equal(torch.as_tensor(figures(found)), expected)
    card = there["README.md"].decode()
    assert f"{name}.from_pretrained('ada/pushed')" in card
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "repdyn"


@pytest.mark.parametrize("name", sorted(folder.name for folder in FOLDERS.iterdir() if folder.is_dir()))
def test_a_folder_of_any_kind_is_pushed_as_it_is(name: str, hub: StandIn) -> None:
    repdyn.push_folder(FOLDERS / name, "ada/folder")
    there = hub.model("ada/folder").files
    for file in ("config.json", "model.safetensors"):
        assert there[file] == (FOLDERS / name / file).read_bytes()
    assert repr(repdyn.load_result("hf://ada/folder")) == repr(repdyn.load_result(FOLDERS / name))


def test_results_within_a_folder_their_verdicts_and_the_command(hub: StandIn, tmp_path: Path) -> None:
    kae = fitted_koopman("cpu")
    kae.save_pretrained(tmp_path / "a.kae")
    fidelity = kae.fidelity(some_paths(), seed=0)
    fidelity.save(tmp_path / "a.kae" / "fidelity")
    command = f"repdyn koopman fit {tmp_path}/a.paths --out a.kae --seed 7"
    made = {"command": command, "seed": 7, "repdyn": "0.1.0"}
    (tmp_path / "a.kae" / "command.json").write_text(json.dumps(made))
    (tmp_path / "a.kae" / "notes.txt").write_text("not ours")
    repdyn.push_folder(tmp_path / "a.kae", "ada/kae")
    there = hub.model("ada/kae").files
    assert "notes.txt" not in there
    assert repr(repdyn.load_result("hf://ada/kae/fidelity")) == repr(fidelity)
    card = there["README.md"].decode()
    assert repr(fidelity) in card
    assert fidelity.verdict in card
    assert "| seed | 7 |" in card
    assert "repdyn koopman fit a.paths" in card
    assert str(tmp_path) not in card
    # A later push without it leaves no verdict of the earlier weights.
    kae.push_to_hub("ada/kae")
    assert set(hub.model("ada/kae").files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
    }
    hub.model("ada/kae").commit("main", {**hub.model("ada/kae").files, "LICENSE": b"mine"}, "by hand")
    kae.push_to_hub("ada/kae")
    assert hub.model("ada/kae").files["LICENSE"] == b"mine"


def test_the_card_escapes_what_results_hold(hub: StandIn, tmp_path: Path) -> None:
    hostile = f"](javascript:alert(1)) <script>x</script> |a| ``` **b** {tmp_path}/secret\n# Heading"
    pushed = translation(verdict="found", reason=hostile, evidence={hostile: 1.0})
    pushed.push_to_hub("ada/hostile", private=True)
    card = hub.model("ada/hostile").files["README.md"].decode()
    assert hub.model("ada/hostile").private
    assert str(tmp_path) not in card
    prose, fences = [], []
    fence = ""
    for line in card.split("---\n", 2)[2].splitlines():
        found = re.match(r"`{3,}", line)
        if found and (not fence or line == fence):
            fence = "" if fence else found[0]
            fences.append(line)
        elif not fence:
            prose.append(line)
    assert not fence
    assert fences[0].startswith("````"), "longer than the backticks within"
    text = "\n".join(prose)
    assert "<script>" not in text
    assert "](" not in text
    assert [line for line in prose if line.startswith("# ")] == ["# hostile"]
    assert all(line.count("|") == 3 for line in prose if line.startswith("|"))


def test_revisions_tokens_and_branches(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = translation(), translation(verdict="found", reason="newer")
    first.push_to_hub("ada/t", private=True)
    commit = hub.model("ada/t").branches["main"]
    hub.model("ada/t").branches["next"] = commit
    second.push_to_hub("ada/t", branch="next")
    assert LinearTranslation.from_pretrained("ada/t").reason == first.reason
    assert LinearTranslation.from_pretrained("ada/t", revision="next").reason == "newer"
    assert LinearTranslation.load("hf://ada/t@next").reason == "newer"
    second.push_to_hub("ada/t")
    assert LinearTranslation.from_pretrained("ada/t").reason == "newer"
    assert LinearTranslation.from_pretrained("ada/t", revision=commit).reason == first.reason
    with pytest.raises(
        RepdynError, match=r"hf://ada/t@gone: the repository has no branch, tag or commit 'gone'"
    ):
        LinearTranslation.from_pretrained("ada/t", revision="gone")
    with pytest.raises(RepdynError, match="'nowhere'"):
        second.push_to_hub("ada/t", branch="nowhere")
    with pytest.raises(RepdynError, match="names another revision"):
        repository("hf://ada/t@next", "main")
    monkeypatch.delenv("HF_TOKEN")
    _empty_cache(hub, monkeypatch)
    with pytest.raises(RepdynError, match="or it is private"):
        LinearTranslation.from_pretrained("ada/t")
    assert LinearTranslation.from_pretrained("ada/t", token=READS).reason == "newer"


def _empty_cache(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-other")


def _one_line(caught: pytest.ExceptionInfo[RepdynError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


def test_without_credentials_and_with_those_of_a_reader(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepdynError) as caught:
        translation().push_to_hub("ada/t")
    assert "run `hf auth login`, or set HF_TOKEN" in _one_line(caught)
    with pytest.raises(RepdynError) as caught:
        translation().push_to_hub("ada/t", token=READS)
    assert "this token may not do that; give one that may write" in _one_line(caught)
    assert not hub.repos


def test_offline_the_cache_is_read_and_nothing_is_asked(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    translation().push_to_hub("ada/t")
    LinearTranslation.from_pretrained("ada/t")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert np.array_equal(LinearTranslation.from_pretrained("ada/t").matrix, translation().matrix)
    with pytest.raises(RepdynError) as caught:
        LinearTranslation.from_pretrained("ada/other")
    assert "HF_HUB_OFFLINE keeps from asking the Hub; unset it" in _one_line(caught)
    with pytest.raises(RepdynError, match="HF_HUB_OFFLINE"):
        translation().push_to_hub("ada/t")
    assert not hub.requests


@pytest.mark.parametrize("nowhere", ["http://127.0.0.1:9", "http://no.such.host.invalid"])
def test_without_a_network(hub: StandIn, monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr("time.sleep", lambda _: None)  # it tries several times
    for call in (
        lambda: LinearTranslation.from_pretrained("ada/t"),
        lambda: translation().push_to_hub("ada/t"),
    ):
        with pytest.raises(RepdynError) as caught:
            call()
        assert "the Hub cannot be reached" in _one_line(caught)


def test_a_server_that_fails(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.down = True
    with pytest.raises(RepdynError) as caught:
        LinearTranslation.from_pretrained("ada/t")
    assert "status 500" in _one_line(caught)


def test_names_that_are_no_repository(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RepdynError) as caught:
        KoopmanAutoencoder.from_pretrained("ada/nothing")
    assert "hf://ada/nothing: there is no such folder, and no such repository on the Hub" in _one_line(caught)
    hub.requests.clear()
    monkeypatch.chdir(tmp_path)
    for local in (Path("ada/t"), "a.kae", "./ada/t", "/ada/t", "runs/old/a.kae"):
        with pytest.raises(RepdynError, match="there is no such file or folder"):
            KoopmanAutoencoder.from_pretrained(local)
    with pytest.raises(RepdynError, match="there is no such file or folder"):
        LinearTranslation.load("ada/t")  # load opens folders, and addresses that say hf://
    with pytest.raises(RepdynError, match="open_paths opens a store"):
        repdyn.load_result("hf://datasets/ada/t")
    with pytest.raises(RepdynError, match="is no address of a repository"):
        repdyn.load_result("hf://ada")
    assert not hub.requests
    with pytest.raises(RepdynError, match="is no name of a repository"):
        translation().push_to_hub("ada/t/u")
    # A folder of that name is meant, if there is one.
    translation().save(tmp_path / "ada" / "t")
    assert isinstance(LinearTranslation.from_pretrained("ada/t"), LinearTranslation)
    with pytest.raises(RepdynError, match="is a folder of this machine"):
        LinearTranslation.from_pretrained("ada/t", revision="main")
    assert not [one for one in hub.requests if "resolve" in one]


class Trap:
    """Ends the test if it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


def test_repositories_that_hold_something_else(hub: StandIn) -> None:
    hub.repos["models", "ada/pickle"] = pickled = Repo()
    pickled.commit(
        "main", {"pytorch_model.bin": pickle.dumps(Trap()), "model.pkl": pickle.dumps(Trap())}, "x"
    )
    with pytest.raises(RepdynError) as caught:
        KoopmanAutoencoder.from_pretrained("ada/pickle")
    assert "holds no result of repdyn (config.json and model.safetensors)" in _one_line(caught)
    hub.repos["models", "ada/bert"] = foreign = Repo()
    foreign.commit("main", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x" * 100}, "x")
    with pytest.raises(RepdynError) as caught:
        PathDetector.from_pretrained("ada/bert")
    assert "hf://ada/bert: is not a repdyn result" in _one_line(caught)
    assert not [one for one in hub.requests if "model.safetensors" in one or ".bin" in one or "pkl" in one]
    for name in ("ada/bert", "ada/pickle"):
        before = hub.model(name).files
        if name == "ada/bert":
            with pytest.raises(RepdynError, match=r"holds 'config.json', which repdyn did not write"):
                translation().push_to_hub(name)
            assert hub.model(name).files == before
        else:
            translation().push_to_hub(name)
            assert before.items() <= hub.model(name).files.items()
    translation().push_to_hub("ada/t")
    for other, line in (
        (KoopmanAutoencoder, "hf://ada/t: holds a 'translation', expected a 'koopman'"),
        (SKD, "hf://ada/t: holds a 'translation', expected a 'disentangle'"),
        (UnionDetector, "hf://ada/t: holds a 'translation', expected a 'detector'"),
        (fields.Attractors, "hf://ada/t: holds a 'translation', expected a 'attractors'"),
    ):
        with pytest.raises(RepdynError) as caught:
            other.from_pretrained("ada/t")
        assert line in _one_line(caught)
    KNNDetector(k=3).fit(some_paths()).push_to_hub("ada/knn")
    with pytest.raises(RepdynError, match="hf://ada/knn: holds a KNNDetector, expected a PathDetector"):
        PathDetector.from_pretrained("ada/knn")
    assert isinstance(load_detector("hf://ada/knn"), KNNDetector)


def test_what_was_changed_on_the_hub_is_refused(hub: StandIn) -> None:
    translation().push_to_hub("ada/t")
    files = dict(hub.model("ada/t").files)
    changed = bytearray(files["model.safetensors"])
    changed[-1] ^= 1
    hub.model("ada/t").commit("main", {**files, "model.safetensors": bytes(changed)}, "changed")
    with pytest.raises(RepdynError) as caught:
        LinearTranslation.from_pretrained("ada/t")
    assert "hf://ada/t: was damaged or changed after it was saved" in _one_line(caught)
    del files["model.safetensors"]
    hub.model("ada/t").commit("main", files, "lost")
    with pytest.raises(RepdynError, match="holds no result of repdyn"):
        LinearTranslation.from_pretrained("ada/t")


def test_a_program_of_its_own(hub: StandIn, tmp_path: Path) -> None:
    """The command line of another process, which knows the Hub by its environment."""
    translation().push_to_hub("ada/t")
    x = normal(5, 6).numpy()
    np.save(tmp_path / "x.npy", x)
    given = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    words = ["translate", "x.npy", "--apply", "hf://ada/t", "--out", "y.npy"]
    done = subprocess.run(
        [sys.executable, "-c", "from repdyn.cli import main; main()", *words],
        cwd=tmp_path,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), translation()(x), rtol=1e-5)
