"""Forgetting without retraining: a closed-form edit of the operator that redirects some inputs.

Observables are rows and the edited map is the operator from the first point to the last,
``z_L = z_0 T``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, bootstrap, bootstrap_mean
from repdyn.koopman.operators import real_power
from repdyn.koopman.pretrained import describe, restore
from repdyn.koopman.probes import LinearProbe
from repdyn.koopman.targets import destination, in_ball, split, targets
from repdyn.paths import RepresentationPaths

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["EditReport", "EditedKoopman", "edit_operator", "forget"]

_PREFIX = "kae."  # of the autoencoder's tensors in a saved edit
_QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_PRESERVE = 1e-4  # ridge on what is kept, relative to its mean eigenvalue
_REDIRECT = 10.0  # a redirected row weighs as much as so many kept ones (the published soft constraint)
_GONE = 0.01  # accuracy at which a class counts as forgotten


@dataclass(frozen=True, eq=False)
class EditReport:
    """What an edit did, on samples that it was not fitted to.

    Attributes
    ----------
    forgotten
        Accuracy on the targeted samples, ``(before, after)``.
    retained
        Macro accuracy on all other samples, ``(before, after)``.
    per_class
        For each class among the others, ``(before, after)``.
    drift
        ``E |x' - x|^2 / var x`` between edited and unedited predictions ``x', x`` of the last point, on the
        samples that were not targeted.
    samples
        Targeted and other samples.
    judge
        ``"head"`` or ``"linear probe"``: what reads the class from the predicted representation.
    """

    forgotten: tuple[Estimate, Estimate]
    retained: tuple[Estimate, Estimate]
    per_class: dict[str, tuple[Estimate, Estimate]]
    drift: Estimate
    samples: tuple[int, int]
    judge: str

    def __repr__(self) -> str:
        lines = [
            f"Edit, judged by the {self.judge}; {self.samples[0]} targeted samples, {self.samples[1]} others",
            f"  targeted  {self.forgotten[0]} -> {self.forgotten[1]}",
            f"  retained  {self.retained[0]} -> {self.retained[1]}",
        ]
        worst = sorted(self.per_class.items(), key=lambda item: item[1][1].value - item[1][0].value)[:5]
        lines += [f"    class {name}: {before} -> {after}" for name, (before, after) in worst]
        lines.append(f"  drift of the others {self.drift}")
        return "\n".join(lines)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> EditReport:
        """The report that :meth:`to_dict` gave."""

        def pair(read: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
            return Estimate(**read["before"]), Estimate(**read["after"])

        return cls(
            pair(found["forgotten"]),
            pair(found["retained"]),
            {name: pair(read) for name, read in found["per_class"].items()},
            Estimate(**found["drift"]),
            (int(found["samples"][0]), int(found["samples"][1])),
            str(found["judge"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""

        def pair(found: tuple[Estimate, Estimate]) -> dict[str, Any]:
            return {"before": found[0].to_dict(), "after": found[1].to_dict()}

        return {
            "forgotten": pair(self.forgotten),
            "retained": pair(self.retained),
            "per_class": {name: pair(found) for name, found in self.per_class.items()},
            "drift": self.drift.to_dict(),
            "samples": list(self.samples),
            "judge": self.judge,
        }


@dataclass(frozen=True, eq=False)
class EditedKoopman:
    """A Koopman autoencoder whose operator from the first point to the last was edited.

    Attributes
    ----------
    kae
        The autoencoder, unchanged.
    matrix
        The edited map ``T'``, shape ``(d, d)``, float64.
    quantile
        Of the medoid ball.
    redirected
        Rows that were redirected, of those the edit was fitted to.
    report
        What the edit did.
    """

    kae: KoopmanAutoencoder
    matrix: NDArray[np.float64]
    quantile: float
    redirected: int
    report: EditReport

    def __repr__(self) -> str:
        what = f"EditedKoopman: {self.redirected} rows redirected, ball of quantile {self.quantile:g}"
        return f"{what}\n{self.report}"

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Last-point representations from first-point ones, through the edited map."""
        return _predict(self.kae, np.asarray(x), self.matrix)

    @property
    def root(self) -> NDArray[np.float64] | None:
        """One step of the edited path: the real principal root of ``T'``, or ``None``.

        A real matrix has a real principal root of every order if and only if it has no eigenvalue on the
        closed negative real axis. Where it exists, the edited path can be interpolated as the unedited one.
        """
        return real_power(self.matrix, 1 / (len(self.kae.points_) - 1))

    def propagate(self, x: NDArray[Any], target: str) -> NDArray[Any]:
        """Representations at any point of the edited path, from first-point ones.

        Raises
        ------
        RepdynError
            If ``target`` lies between the first and the last point and the edited map has no real root.
        """
        number = self.kae.points_.index(target) if target in self.kae.points_ else -1
        if number < 0:
            raise RepdynError(f"there is no point {target!r}; {nearest_names(target, self.kae.points_)}")
        if number == len(self.kae.points_) - 1:
            return self.predict(x)
        step = self.root
        if step is None:
            raise RepdynError(
                "the edited map has an eigenvalue on the closed negative real axis and so no real root: the "
                "edited path has a first and a last point, but none between them"
            )
        return _predict(self.kae, np.asarray(x), np.linalg.matrix_power(step, number), target)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the edited map, its report and the autoencoder to a folder."""
        config, tensors = describe(self.kae)
        document = {
            "kae": config,
            "quantile": self.quantile,
            "redirected": self.redirected,
            "report": self.report.to_dict(),
        }
        arrays = {_PREFIX + name: value for name, value in tensors.items()}
        save_artifact(path, "edited_koopman", document, {**arrays, "matrix": self.matrix})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EditedKoopman:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        # The autoencoder's methods import this module; it is imported here when they are all there.
        from repdyn.koopman.autoencoder import KoopmanAutoencoder

        found = load_artifact(path, "edited_koopman")
        try:
            weights = {n.removeprefix(_PREFIX): v for n, v in found.tensors.items() if n.startswith(_PREFIX)}
            return cls(
                restore(KoopmanAutoencoder, found.config["kae"], weights, path),
                found.tensors["matrix"],
                float(found.config["quantile"]),
                int(found.config["redirected"]),
                EditReport.from_dict(found.config["report"]),
            )
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: is not a readable edit ({error})") from None


def forget(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    *,
    label: Any = None,
    mask: NDArray[np.bool_] | None = None,
    redirect: Any = "mean",
    quantile: float | None = None,
    head: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> EditedKoopman:
    """Edit the operator so that some inputs no longer arrive where they did.

    The targeted samples whose outputs lie in a ball about their medoid are redirected, everything that is
    not targeted is kept, and the operator that does both best in the sense of least squares is known in
    closed form (:func:`edit_operator`).

    Three fifths of the paths are edited with, one fifth chooses the ball, one fifth is reported on.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder, left as it was.
    paths
        Labelled paths, targeted samples among them.
    label
        The class to forget, or several in a list.
    mask
        Instead of a label: the samples to forget, boolean, shape ``(N,)``.
    redirect
        Where targeted samples go: ``"mean"`` (the mean output of the others), ``"nearest"`` (the other
        output nearest to each) or a label (its mean output).
    quantile
        Part of each targeted class, by distance from its medoid, that is redirected. By default the one
        that forgets at the least loss elsewhere.
    head
        Reads classes from last-point representations; a linear probe unless given.
    seed
        Of the parts and the bootstrap.

    Returns
    -------
    EditedKoopman
        With ``.report``: forgotten, retained, drift.

    Raises
    ------
    RepdynError
        On an absent label, or where no sample is left that is not targeted.
    """
    kae.check_paths(paths)
    labels, target = targets(paths, label, mask)
    names = np.where(target, "targeted", "other") if labels is None else labels
    judge = _judge(kae, paths, names, head, seed)
    parts = split(names, target, seed)
    z, matrix = _observables(kae, paths)
    to_state = _decoder(kae)
    place = destination(redirect, labels)
    candidates = _QUANTILES if quantile is None else (quantile,)
    if not all(0 < q <= 1 for q in candidates):
        raise RepdynError(f"quantile must lie above 0 and not above 1, got {quantile}")

    fit, check, final = parts
    best: tuple[tuple[bool, bool, float], float, Tensor, int] | None = None
    before = _correct(judge, to_state(z[check] @ matrix), names[check])
    chance = 1.0 / len(np.unique(names))
    for candidate in candidates:
        harmful = in_ball(z[fit] @ matrix, names[fit], target[fit], candidate)
        clean = ~target[fit]
        if not clean.any():
            raise RepdynError("every sample is targeted: there is no clean one left to keep or redirect to")
        edited = edit_operator(
            z[fit][harmful], z[fit][clean], matrix, place(z[fit] @ matrix, harmful, clean, names[fit])
        )
        after = _correct(judge, to_state(z[check] @ edited), names[check])
        left = float(after[target[check]].mean())
        lost = float((before[~target[check]].mean()) - after[~target[check]].mean())
        # First that it is forgotten, then that it is at least at chance, then the least loss elsewhere.
        order = (left > _GONE, left > chance, lost if left <= chance else left)
        if best is None or order < best[0]:
            best = (order, candidate, edited, int(harmful.sum()))
    assert best is not None
    _, chosen, edited, redirected = best
    report = _report(judge, to_state, z[final], matrix, edited, names[final], target[final], head, seed)
    return EditedKoopman(kae, edited.numpy(), chosen, redirected, report)


def edit_operator(harmful: Tensor, clean: Tensor, matrix: Tensor, destination: Tensor) -> Tensor:
    """Least change of a linear map that sends some rows elsewhere and keeps the others.

    ``T' = T + (C'C + r I + w H'H)^-1 w H'(Y - H T)``: it minimises
    ``|C T' - C T|^2 + r |T' - T|^2 + w |H T' - Y|^2``. This is the batched rank-one edit with equality
    relaxed (EMMET), pushed through so that the system solved is ``d x d`` for any number of rows.

    Parameters
    ----------
    harmful, clean
        Observables ``H`` and ``C`` at the first point, shapes ``(h, d)`` and ``(c, d)``.
    matrix
        ``T``, shape ``(d, d)``.
    destination
        ``Y``, where harmful rows shall arrive, shape ``(h, d)`` or ``(d,)``.

    Returns
    -------
    Tensor
        ``T'``, shape ``(d, d)``, float64.

    References
    ----------
    Gupta, Sajnani and Anumanchipalli (2024), A unified framework for model editing, arXiv 2403.14236.
    """
    harmful, clean, matrix, destination = (t.double() for t in (harmful, clean, matrix, destination))
    kept = clean.T @ clean
    kept.diagonal().add_(_PRESERVE * kept.diagonal().mean())
    system = kept + _REDIRECT * harmful.T @ harmful
    change: Tensor = torch.linalg.solve(system, _REDIRECT * harmful.T @ (destination - harmful @ matrix))
    return matrix + change


Judge = Callable[[NDArray[Any]], NDArray[Any]]


@torch.no_grad()
def _observables(kae: KoopmanAutoencoder, paths: RepresentationPaths) -> tuple[Tensor, Tensor]:
    """First-point observables and the operator to the last point, float64."""
    first = np.asarray(paths[paths.points[0]])
    z = torch.from_numpy(kae.encode(first, paths.points[0])).double()
    return z, kae.operator_.matrix(0, len(paths.points) - 1).double().cpu()


def _decoder(kae: KoopmanAutoencoder) -> Callable[[Tensor], NDArray[Any]]:
    last = kae.points_[-1]
    return lambda z: np.asarray(kae.decode(z.float().numpy(), last))


def _predict(
    kae: KoopmanAutoencoder, x: NDArray[Any], matrix: NDArray[np.float64], point: str | None = None
) -> NDArray[Any]:
    z = np.asarray(kae.encode(x, kae.points_[0])).astype(np.float64) @ matrix
    return np.asarray(kae.decode(z.astype(np.float32), point or kae.points_[-1]))


def _judge(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    names: NDArray[Any],
    head: Callable[[Any], Any] | None,
    seed: int,
) -> Judge:
    if head is None:
        return LinearProbe().fit(np.asarray(paths[paths.points[-1]]), names, seed=seed).predict
    if names.dtype.kind not in "iu":
        raise RepdynError("head answers with class numbers, so the labels must be integers")

    @torch.no_grad()
    def decide(x: NDArray[Any]) -> NDArray[Any]:
        logits = torch.as_tensor(head(torch.as_tensor(np.asarray(x, dtype=np.float32))))
        return np.asarray(logits.argmax(dim=-1).cpu())

    return decide


def _correct(judge: Judge, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(judge(x) == names)


def _report(
    judge: Judge,
    to_state: Callable[[Tensor], NDArray[Any]],
    z: Tensor,
    matrix: Tensor,
    edited: Tensor,
    names: NDArray[Any],
    target: NDArray[np.bool_],
    head: Callable[[Any], Any] | None,
    seed: int,
) -> EditReport:
    x, x_edited = to_state(z @ matrix), to_state(z @ edited)
    before, after = _correct(judge, x, names), _correct(judge, x_edited, names)
    others = np.unique(names[~target])

    def pair(rows: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
        return bootstrap_mean(before[rows], seed=seed), bootstrap_mean(after[rows], seed=seed)

    per_class = {str(name): pair(~target & (names == name)) for name in others}
    # A macro mean is a mean over samples in which each class weighs the same.
    share = np.array([(names[~target] == name).sum() for name in others])
    weight = (len(names[~target]) / (len(others) * share))[np.searchsorted(others, names[~target])]
    retained = (
        bootstrap_mean(before[~target] * weight, seed=seed),
        bootstrap_mean(after[~target] * weight, seed=seed),
    )
    moved = np.square(x_edited - x)[~target].sum(axis=1)
    spread = np.square(x - x.mean(axis=0))[~target].sum(axis=1)
    drift = bootstrap(lambda m, s: float(m.sum() / max(s.sum(), 1e-300)), moved, spread, seed=seed)
    return EditReport(
        pair(target),
        retained,
        per_class,
        drift,
        (int(target.sum()), int((~target).sum())),
        "linear probe" if head is None else "head",
    )
