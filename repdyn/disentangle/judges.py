"""Judges: classifiers that predict the factors of clips, trained on training clips only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from repdyn.devices import device_of, to
from repdyn.disentangle.sequence_autoencoder import FrameEncoder
from repdyn.disentangle.sequences import read_sequences
from repdyn.disentangle.settings import EVALUATION, TRAINING
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.seeding import drawing

__all__ = ["Judge"]

_FEATURES, _HIDDEN = EVALUATION.judge_features, EVALUATION.judge_hidden


class Judge(nn.Module):
    """A CNN over frames and a BiLSTM over time, with a head for each factor; and heads of single frames.

    As published, except that the softmax is applied once, not twice. The heads of single frames predict
    static factors from each frame alone, for :func:`~repdyn.disentangle.frame_consistency`.

    Parameters
    ----------
    channels
        Widths of the convolutions.

    Attributes
    ----------
    classes_ : dict
        Number of classes of each factor.
    static_ : tuple of str
        Factors that are also predicted from single frames.
    frame_ : tuple of int
        Shape of a frame.

    Examples
    --------
    >>> clips = np.zeros((8, 3, 1, 16, 16), dtype="float32")
    >>> clips[::2] = 1
    >>> judge = Judge(channels=(4,)).fit(clips, {"bright": np.arange(8) % 2}, epochs=50, learning_rate=1e-2)
    >>> bool((judge.predict(clips)["bright"] == np.arange(8) % 2).all())
    True
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.channels = tuple(channels)

    classes_: dict[str, int]
    static_: tuple[str, ...]
    frame_: tuple[int, ...]
    frames_: FrameEncoder
    recurrent_: nn.LSTM
    heads_: nn.ModuleDict
    frame_heads_: nn.ModuleDict

    def fit(
        self,
        clips: Any,
        labels: Mapping[str, ArrayLike],
        *,
        static: Sequence[str] = (),
        epochs: int = 30,
        seed: int = 0,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        device: torch.device | str | None = None,
    ) -> Judge:
        """Train on labeled clips.

        Parameters
        ----------
        clips
            Shape ``(N, T, channels, height, width)``, or ``(N, T, width)``; all of one length.
        labels
            ``{factor: (N,)}``, whole numbers from 0.
        static
            Factors to predict from single frames as well.
        epochs, seed, batch_size, learning_rate
            Of the training, by Adam with a cosine schedule.
        device
            Device of the training and of the fitted judge; default: the device of ``clips``.

        Returns
        -------
        Judge
            Itself.

        Raises
        ------
        RepdynError
            If clips differ in length or in the shape of their frames, or labels do not belong to them.
        """
        where = device_of(clips) if device is None else torch.device(device)
        x = to(_of_one_length(clips), where)
        targets = {name: to(torch.as_tensor(as_array(label)).long(), where) for name, label in labels.items()}
        for name, label in targets.items():
            if len(label) != len(x) or int(label.min()) < 0:
                raise RepdynError(f"labels {name!r}: expected {len(x)} whole numbers from 0")
        unknown = set(static) - set(targets)
        if unknown:
            raise RepdynError(f"static: no labels for {sorted(unknown)}; there are {sorted(targets)}")
        self.classes_ = {name: int(label.max()) + 1 for name, label in targets.items()}
        self.static_ = tuple(static)
        with drawing(seed):
            self._build(x.shape[2:])
        to(self, where)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        steps = epochs * max(1, len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        self.train()
        for _ in track(range(epochs), "training the judge"):
            order = to(torch.randperm(len(x), generator=generator), where)
            # Whole batches only, as the schedule counts them.
            for rows in torch.split(order, batch_size)[: max(1, len(x) // batch_size)]:
                clip, frame = self(x[rows])
                losses = [functional.cross_entropy(clip[name], targets[name][rows]) for name in targets]
                for name in self.static_:
                    repeated = targets[name][rows].repeat_interleave(x.shape[1])
                    losses.append(functional.cross_entropy(frame[name].flatten(0, 1), repeated))
                optimizer.zero_grad()
                torch.autograd.backward(torch.stack(losses).sum())
                torch.nn.utils.clip_grad_norm_(self.parameters(), EVALUATION.judge_gradient_norm)
                optimizer.step()
                schedule.step()
        return self.eval()

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits of clips ``{factor: (N, C)}``, and of frames ``{static factor: (N, T, C)}``."""
        features = self.frames_(x.flatten(0, 1)).reshape(*x.shape[:2], _FEATURES)
        rows = self.recurrent_(features)[0]
        # The last states of both directions: each depends on the whole clip.
        states = torch.cat([rows[:, -1, :_HIDDEN], rows[:, 0, _HIDDEN:]], dim=1)
        clip = {name: head(states) for name, head in self.heads_.items()}
        return clip, {name: head(features) for name, head in self.frame_heads_.items()}

    def predict(self, clips: Any) -> dict[str, NDArray[np.int64]]:
        """The most likely class of each factor, ``{factor: (N,)}``."""
        return self._predict(clips, 0)

    def predict_frames(self, clips: Any) -> dict[str, NDArray[np.int64]]:
        """The most likely class of each static factor in each frame alone, ``{factor: (N, T)}``."""
        return self._predict(clips, 1)

    def accuracy(self, clips: Any, labels: Mapping[str, ArrayLike], seed: int = 0) -> dict[str, Estimate]:
        """Accuracy for each factor, with intervals over clips."""
        predicted = self.predict(clips)
        groups = groups_of_equal_rows(as_array(_of_one_length(clips)))
        return {
            name: mean_of_groups(predicted[name] == as_array(label), groups, seed=seed)
            for name, label in labels.items()
        }

    @torch.no_grad()
    def _predict(self, clips: Any, which: int) -> dict[str, NDArray[np.int64]]:
        """Classes by the heads of clips (0) or of single frames (1)."""
        if not hasattr(self, "classes_"):
            raise RepdynError("this Judge is not fitted yet; call fit(clips, labels) first")
        x = to(_of_one_length(clips), device_of(self))
        if tuple(x.shape[2:]) != self.frame_:
            raise RepdynError(
                f"frames have shape {tuple(x.shape[2:])}, this Judge was trained on {self.frame_}"
            )
        parts = [self(x[start : start + TRAINING.batch])[which] for start in range(0, len(x), TRAINING.batch)]
        return {name: as_array(torch.cat([part[name].argmax(-1) for part in parts])) for name in parts[0]}

    def _build(self, frame: Sequence[int]) -> None:
        """Create the networks for frames ``(channels, height, width)``."""
        self.frame_ = tuple(frame)
        self.frames_ = FrameEncoder(frame, _FEATURES, self.channels)
        self.recurrent_ = nn.LSTM(_FEATURES, _HIDDEN, batch_first=True, bidirectional=True)
        self.heads_ = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(2 * _HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, count))
                for name, count in self.classes_.items()
            }
        )
        self.frame_heads_ = nn.ModuleDict(
            {name: nn.Linear(_FEATURES, self.classes_[name]) for name in self.static_}
        )


def _of_one_length(clips: Any) -> Tensor:
    """Clips ``(N, T, …)``. Padding would be judged like frames, so that clips of mixed length are refused."""
    data = read_sequences(clips)
    if not data.full:
        lengths = data.mask.sum(dim=1)
        raise RepdynError(
            f"clips have lengths from {int(lengths.min())} to {int(lengths.max())}; a Judge reads "
            "clips of one length: select those of one length, or cut them to the shortest"
        )
    return data.values
