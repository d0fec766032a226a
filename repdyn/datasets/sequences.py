"""Sequences of vectors with known factors: melodies, which are composed here, and days of air quality."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.datasets.labeled import Labeled
from repdyn.errors import RepdynError

__all__ = ["LabeledSequences", "air_quality", "melodies"]


@dataclass(frozen=True, eq=False, repr=False)
class LabeledSequences(Labeled):
    """Sequences of vectors and the factors that they were made from.

    Attributes
    ----------
    values
        Shape ``(N, T, width)``, float32.
    static, dynamic
        ``{factor: (N,)}``, whole numbers from 0.
    """

    values: NDArray[np.float32]
    static: Mapping[str, NDArray[np.int64]]
    dynamic: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Any) -> LabeledSequences:
        """The selected sequences."""
        own, other = self._rows(self.static, rows), self._rows(self.dynamic, rows)
        return LabeledSequences(self.values[rows], own, other)

    def __repr__(self) -> str:
        return (
            f"LabeledSequences: {len(self)} of shape {self.values.shape[1:]}, static {list(self.static)}, "
            f"dynamic {list(self.dynamic)}"
        )


_CLASSES = {
    "tonic": 12, "octave": 3, "scale": 3, "rhythm_1": 28, "rhythm_2": 28,
    "direction_1": 2, "direction_2": 2, "direction_3": 2, "direction_4": 2,
}  # fmt: skip
_STATIC = ("tonic", "octave", "scale")
# Semitones of nine degrees of the major, the harmonic minor and the blues scale, as published.
_SCALES = np.array(
    [[0, 2, 4, 5, 7, 9, 11, 12, 14], [0, 2, 3, 5, 7, 8, 11, 12, 14], [0, 2, 3, 5, 6, 9, 10, 12, 14]]
)
_CADENCE = np.array([[0, 2, 4], [3, 5, 7], [4, 6, 8], [0, 2, 4]])  # degrees of I, IV, V, I
_RHYTHMS = np.array(list(combinations(range(8), 6)))  # onsets of six notes among eight eighths
_LOWEST = 60  # MIDI number of C4
_PITCHES = 12 * 3 - 1 + 14 + 1  # from C4 to the ninth degree above B6
_BAR = 8


def melodies(count: int | None = None, *, seed: int = 0) -> LabeledSequences:
    """Melodies of two bars to the factors of dMelodies: an arpeggiated cadence I-IV-V-I of twelve notes.

    A sequence has 16 frames, one for each eighth note: one-hot over 50 pitches, C4 upwards, and a last
    entry for a rest. Static are the tonic (12), its octave (3) and the scale (3: major, minor, blues).
    Dynamic are the rhythm of each bar (28 each: the places of six notes) and the direction of each of the
    four chords (2 each: up, down). These are all 1 354 752 melodies of the original, which is not read.

    Parameters
    ----------
    count
        Number of melodies, drawn at random without repetition; default: all, which need 4.4 GB.
    seed
        Of the draw.

    Raises
    ------
    RepdynError
        If there are not so many.

    Examples
    --------
    >>> melodies(5).values.shape
    (5, 16, 51)

    References
    ----------
    Pati, A., Gururani, S. and Lerch, A. (2020). dMelodies: a music dataset for disentanglement learning.
    ISMIR.
    """
    sizes = tuple(_CLASSES.values())
    total = int(np.prod(sizes))
    if count is not None and not 1 <= count <= total:
        raise RepdynError(f"count: expected 1 to {total}, got {count}")
    numbers = np.random.default_rng(seed).permutation(total)[:count]
    labels = dict(zip(_CLASSES, (column.astype(np.int64) for column in np.unravel_index(numbers, sizes))))
    root = 12 * labels["octave"] + labels["tonic"]
    down = np.stack([labels[f"direction_{chord}"] for chord in range(1, 5)], axis=1)
    degrees = np.where(down[:, :, None] == 1, _CADENCE[:, ::-1], _CADENCE)
    pitches = root[:, None] + _SCALES[labels["scale"][:, None], degrees.reshape(len(numbers), -1)]
    onsets = np.concatenate([_RHYTHMS[labels["rhythm_1"]], _BAR + _RHYTHMS[labels["rhythm_2"]]], axis=1)
    played = np.full((len(numbers), 2 * _BAR), _PITCHES)  # a rest where no note begins
    np.put_along_axis(played, onsets, pitches, axis=1)
    values = np.zeros((*played.shape, _PITCHES + 1), dtype=np.float32)
    np.put_along_axis(values, played[:, :, None], 1.0, axis=2)
    static = {name: labels.pop(name) for name in _STATIC}
    return LabeledSequences(values, static, labels)


_MEASURED = ("PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
_COMPASS = (
    "N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW",
)  # fmt: skip
_COLUMNS = ("year", "month", "day", "hour", *_MEASURED, "wd", "station")
_HOURS = 24


def air_quality(folder: str | os.PathLike[str]) -> LabeledSequences:
    """Days of hourly air quality at twelve stations in Beijing, as sequences of 24 frames.

    A frame has 13 numbers: six pollutants, temperature, pressure, dew point, rain and wind speed, each
    centered and scaled over all hours, and the sine and cosine of the direction of the wind. Missing hours
    are interpolated within their day; what misses for a whole day is 0. All factors are static: the station
    (12), the year (5), the month (12), the day of the month (31) and the season (4: summer, autumn, winter,
    spring).

    Parameters
    ----------
    folder
        Holds the tables of the UCI repository, ``PRSA_Data_STATION_20130301-20170228.csv``.

    Raises
    ------
    RepdynError
        If there is no table, a table lacks a column, a row cannot be read, or a day has not all hours.

    References
    ----------
    Zhang, S. et al. (2017). Cautionary tales on air-quality improvement in Beijing. Proc. R. Soc. A 473
    (the data: Beijing Multi-Site Air Quality, UCI). Barami, T. et al. (2025), arXiv 2510.17313, the factors.
    """
    files = sorted(Path(folder).glob("PRSA_Data_*.csv"))
    if not files:
        raise RepdynError(
            f"{folder}: holds no PRSA_Data_*.csv; give the folder of the tables of UCI's Beijing Multi-Site "
            "Air Quality"
        )
    dates, hours, values, stations = (
        np.concatenate(column) for column in zip(*(_table(file) for file in files))
    )
    names = np.unique(stations)
    rows = np.lexsort([hours, dates[:, 2], dates[:, 1], dates[:, 0], stations])
    days = len(rows) // _HOURS
    complete = len(rows) == days * _HOURS and (hours[rows].reshape(-1, _HOURS) == np.arange(_HOURS)).all()
    if not complete:
        raise RepdynError(
            f"{folder}: a day has not each of its 24 hours once; take the tables as they are at UCI"
        )
    values = values[rows]
    measured = values[:, : len(_MEASURED)]
    measured -= np.nanmean(measured, axis=0)
    spread = np.nanstd(measured, axis=0)
    measured /= np.where(spread > 0, spread, 1.0)
    frames = _interpolated(values.reshape(days, _HOURS, -1))
    first = rows[::_HOURS]
    year, month, day = dates[first].T
    labels = {
        "station": np.searchsorted(names, stations[first]),
        "year": year - year.min(),
        "month": month - 1,
        "day": day - 1,
        "season": _season(month, day),
    }
    return LabeledSequences(frames, {name: label.astype(np.int64) for name, label in labels.items()}, {})


def _table(
    file: Path,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.str_]]:
    """Dates ``(n, 3)``, hours ``(n,)``, values ``(n, 13)`` with NaN where missing, and stations ``(n,)``."""
    turns = {name: 2 * np.pi * number / len(_COMPASS) for number, name in enumerate(_COMPASS)}
    turns["NA"] = turns[""] = np.nan
    dates, values, stations = [], [], []
    with file.open(newline="", encoding="utf-8") as opened:
        reader = csv.DictReader(opened)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise RepdynError(f"{file}: has no column {missing[0]!r}; expected {', '.join(_COLUMNS)}")
        for number, row in enumerate(reader, 2):
            try:
                turn = turns[row["wd"]]
                dates.append([int(row[name]) for name in ("year", "month", "day", "hour")])
                numbers = [
                    float("nan") if row[name] in ("NA", "") else float(row[name]) for name in _MEASURED
                ]
            except (KeyError, ValueError, TypeError) as error:
                raise RepdynError(f"{file}, line {number}: cannot be read ({error})") from None
            values.append([*numbers, np.sin(turn), np.cos(turn)])
            stations.append(row["station"])
    if not dates:
        raise RepdynError(f"{file}: has no rows")
    times = np.array(dates)
    return times[:, :3], times[:, 3], np.array(values), np.array(stations)


def _interpolated(days: NDArray[np.float64]) -> NDArray[np.float32]:
    """Days ``(N, 24, width)`` whose missing hours are interpolated, each quantity for itself."""
    filled, hours = days.copy(), np.arange(days.shape[1])
    missing = np.isnan(days)
    for day, column in np.argwhere(missing.any(axis=1)):
        known = ~missing[day, :, column]
        series = filled[day, :, column]
        series[~known] = np.interp(hours[~known], hours[known], series[known]) if known.any() else 0.0
    return filled.astype(np.float32)


def _season(month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Summer 0, autumn 1, winter 2 (from 16 November), spring 3 (from 15 March), as in the benchmark."""
    spring = ((month == 3) & (day >= 15)) | (month == 4) | (month == 5)
    autumn = (month == 9) | (month == 10) | ((month == 11) & (day <= 15))
    summer = (month >= 6) & (month <= 8)
    return np.select([summer, autumn, spring], [0, 1, 3], default=2)
