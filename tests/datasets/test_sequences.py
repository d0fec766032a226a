"""Melodies and days of air quality: their factors can be read back, and what is wrong is refused."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from repdyn.datasets import air_quality, melodies
from repdyn.errors import RepdynError

REST = 50
# Of the third, the fifth and the seventh degree above the root: they tell the scales apart.
THIRDS = {"major": (4, 7, 11), "minor": (3, 7, 11), "blues": (3, 6, 10)}


def test_every_factor_of_a_melody_is_heard_in_it() -> None:
    found = melodies(400, seed=2)
    assert found.values.shape == (400, 16, 51)
    assert (found.values.sum(axis=2) == 1).all()
    rhythms = list(combinations(range(8), 6))
    for row, melody in enumerate(found.values.argmax(axis=2)):
        label = {name: int(values[row]) for name, values in found.labels.items()}
        for bar in (0, 1):
            onsets = tuple(np.flatnonzero(melody[8 * bar : 8 * bar + 8] != REST))
            assert rhythms[label[f"rhythm_{bar + 1}"]] == onsets
        chords = melody[melody != REST].reshape(4, 3)
        for number, chord in enumerate(chords, 1):
            assert label[f"direction_{number}"] == int(chord[0] > chord[2])
            assert list(chord) in (sorted(chord), sorted(chord)[::-1])
        root, fourth, fifth, last = (sorted(chord) for chord in chords)
        assert root == last
        assert (label["octave"], label["tonic"]) == divmod(root[0], 12)
        third, above, seventh = list(THIRDS.values())[label["scale"]]
        assert [root[1] - root[0], root[2] - root[0], fifth[1] - root[0]] == [third, above, seventh]
        assert fourth[0] - root[0] == 5
        assert fourth[2] - root[0] == 12


def test_melodies_have_the_published_numbers_of_classes_and_are_all_different() -> None:
    found = melodies(3000)
    counts = [len(np.unique(label)) for label in found.labels.values()]
    assert counts == [12, 3, 3, 28, 28, 2, 2, 2, 2]
    assert np.prod(counts) == 1_354_752
    assert len(np.unique(found.values.reshape(3000, -1), axis=0)) == 3000
    assert list(found.static) == ["tonic", "octave", "scale"]
    # Factors are drawn independently: no class is much more frequent than another.
    for label, count in zip(found.labels.values(), counts):
        assert np.bincount(label).max() < 3000 / count * 1.6


def test_melodies_are_repeatable_and_split_into_disjoint_parts() -> None:
    assert np.array_equal(melodies(20, seed=4).values, melodies(20, seed=4).values)
    assert not np.array_equal(melodies(20, seed=4).values, melodies(20, seed=5).values)
    assert np.array_equal(melodies(20, seed=4).values, melodies(30, seed=4).values[:20])
    parts = melodies(50).split((0.6, 0.4), seed=1)
    assert [len(part) for part in parts] == [30, 20]
    seen = [{row.tobytes() for row in part.values} for part in parts]
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("count", [0, -3, 1_354_753])
def test_a_number_of_melodies_that_does_not_exist_is_refused(count: int) -> None:
    with pytest.raises(RepdynError, match="count: expected 1 to 1354752"):
        melodies(count)


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RepdynError, match="shares: expected positive"):
        melodies(4).split((0.9, 0.2))


COLUMNS = (
    "No", "year", "month", "day", "hour", "PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP",
    "RAIN", "wd", "WSPM", "station",
)  # fmt: skip
Change = Callable[[list[dict[str, str]]], object]


def _tables(folder: Path, change: Change | None = None, columns: tuple[str, ...] = COLUMNS) -> Path:
    """Tables of two stations for 400 days: PM2.5 is 100 times the station plus the hour, TEMP the day."""
    for station, name in enumerate(("Aa", "Bb")):
        rows = []
        for number in range(400):
            date = datetime.date(2013, 3, 1) + datetime.timedelta(number)
            for hour in range(24):
                row = dict.fromkeys(COLUMNS, "1") | {"station": name, "hour": str(hour), "wd": "E"}
                row |= {"year": str(date.year), "month": str(date.month), "day": str(date.day)}
                rows.append(row | {"PM2.5": str(100 * station + hour), "TEMP": str(number)})
        if change is not None and station == 1:
            change(rows)
        with (folder / f"PRSA_Data_{name}_x.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows[::-1])  # the order of rows does not matter
    return folder


def test_days_of_air_quality_have_their_labels_and_units(tmp_path: Path) -> None:
    found = air_quality(_tables(tmp_path))
    assert found.values.shape == (800, 24, 13)
    assert list(found.static) == ["station", "year", "month", "day", "season"]
    assert not found.dynamic
    hourly = found.values[..., 0]
    of_second = found.static["station"] == 1
    assert of_second.sum() == 400
    assert hourly[of_second].min() > hourly[~of_second].max()
    assert (np.diff(hourly, axis=1) > 0).all()  # hours are in order
    for column in (0, 6):
        assert found.values[..., column].mean() == pytest.approx(0, abs=1e-5)
        assert found.values[..., column].std() == pytest.approx(1, abs=1e-5)
    assert (found.values[..., 1] == 0).all()  # what never changes has no unit
    assert found.values[..., 11] == pytest.approx(1)  # wind from the east
    assert found.values[..., 12] == pytest.approx(0, abs=1e-6)
    # Temperature is the day, so the calendar is in its order.
    order = np.argsort(found.values[~of_second, 0, 6])
    calendar = [datetime.date(2013, 3, 1) + datetime.timedelta(number) for number in range(400)]
    for name, wanted in (
        ("year", [date.year - 2013 for date in calendar]),
        ("month", [date.month - 1 for date in calendar]),
        ("day", [date.day - 1 for date in calendar]),
    ):
        assert found.static[name][~of_second][order].tolist() == wanted
    seasons = dict(zip(calendar, found.static["season"][~of_second][order]))
    for month, day, season in (
        (3, 14, 2),
        (3, 15, 3),
        (6, 1, 0),
        (9, 1, 1),
        (11, 15, 1),
        (11, 16, 2),
        (12, 31, 2),
    ):
        assert seasons[datetime.date(2013, month, day)] == season


def test_missing_hours_are_interpolated_within_their_day(tmp_path: Path) -> None:
    def loses(rows: list[dict[str, str]]) -> None:
        for hour in (0, 1, 6, 7, 23):
            rows[24 + hour]["PM2.5"] = "NA"
        for hour in range(24):
            rows[48 + hour]["PM2.5"] = "NA"
            rows[48 + hour]["wd"] = "NA"

    whole = air_quality(_tables(tmp_path))
    found = air_quality(_tables(tmp_path, loses))
    station = np.flatnonzero(found.static["station"] == 1)
    days = station[np.argsort(whole.values[station, 0, 6])]
    second, third = found.values[days[1], :, 0], found.values[days[2], :, 0]
    # On a line, interpolation changes nothing; the ends keep the nearest value.
    steps = np.diff(second)
    assert steps[2:22] == pytest.approx(steps[3], rel=1e-3)
    assert (steps[[0, 1, 22]] == 0).all()
    assert (third == 0).all()
    assert (found.values[days[2], :, 11:] == 0).all()
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.pop(30), "a day has not each of its 24 hours once"),
        (lambda rows: rows[30].update(hour="5"), "a day has not each of its 24 hours once"),
        (lambda rows: rows[30].update(TEMP="warm"), "cannot be read .*'warm'"),
        (lambda rows: rows[30].update(wd="UP"), "cannot be read .*'UP'"),
        (lambda rows: rows.clear(), "has no rows"),
    ],
)
def test_tables_that_are_not_the_original_are_refused(change: Change, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match=reason):
        air_quality(_tables(tmp_path, change))


def test_a_folder_without_tables_or_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match="holds no PRSA_Data"):
        air_quality(tmp_path)
    _tables(tmp_path, columns=tuple(name for name in COLUMNS if name != "CO"))
    with pytest.raises(RepdynError, match="has no column 'CO'"):
        air_quality(tmp_path)
