"""Whether the vectors of an index can be translated to a new embedding model, and by which map."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups
from repdyn.migration.columns import migrate_column
from repdyn.migration.database import database_column, sampled
from repdyn.migration.filling import MigratedColumn, fill_column
from repdyn.migration.lance import add_column, lance_column, sampled_rows
from repdyn.migration.related import identity_excess, map_of_related
from repdyn.paths import PathsLike, RepresentationPaths, as_paths, file_of_vectors
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group
from repdyn.results import Result
from repdyn.translation import LinearTranslation, fit_affine, fit_orthogonal, fit_ridge, translate
from repdyn.translation.coordinates import unit_rows

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["MIGRATION", "Migration", "documents_found", "migrate"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
MIGRATE, KEEP, EMBED = "migrate", "keep the vectors", "embed again"


@dataclass(frozen=True)
class MigrationSettings:
    """Settings of :func:`migrate`.

    Attributes
    ----------
    sample
        Vectors of either model that the search without pairs reads; of more, so many are drawn.
    least_held_out
        Pairs from which on a part is held out, to measure what each map keeps.
    held_out
        Share of the pairs that is held out then.
    found
        Share of held-out documents that must be found, at the low end of its interval. Of 101 maps above .5
        (five models, four collections) nine in ten had .71 of the nDCG@10 of embedding again, and the worst
        .51 (``benchmarks/migrate.py --calibrate``).
    guiding
        Pairs for each coordinate of the old model, below which they also guide a search, as one more
        candidate. With more, ridge regression on the pairs alone is about as good, and takes a twentieth of
        the time (``benchmarks/migrate.py --guiding``).
    unit
        Largest deviation of a length from 1 for which a model's vectors are taken for unit vectors.
    """

    sample: int = 8000
    least_held_out: int = 100
    held_out: float = 0.3
    found: float = 0.45
    guiding: float = 0.5
    unit: float = 1e-2


MIGRATION = MigrationSettings()


@dataclass(frozen=True, eq=False)
class Migration(Result, kind="migration"):
    """A decision on an index, and the map.

    Attributes
    ----------
    decision
        ``"migrate"``: translate the vectors. ``"keep the vectors"``: the two models share their space, so
        that the vectors are better left as they are. ``"embed again"``: neither is good enough.
    reason
        One sentence that explains the decision.
    verdict
        ``"found"`` for the first two decisions, else that of the translation.
    translation
        The map. :meth:`apply` applies it whatever the decision is.
    map
        Which one it is: ``"search"`` (matched without pairs, or guided by few), ``"related"`` (refined from
        the identity, for models that share their coordinates), ``"Procrustes"``, ``"affine"`` or ``"ridge"``
        (fitted on pairs), ``"identity"``.
    found
        Share of held-out documents whose new vector has their own translated vector as its nearest, among all
        translated vectors of the sample, by map, with its 95 % interval; also of the identity where the
        widths agree. Empty with few or no pairs.
    pairs, held_out
        Number of pairs, and of those that no map was fitted on.
    unit_length
        Whether the new model's vectors have length 1; translated ones then have it too.
    evidence
        Where there are no held-out pairs: by how much translated points lie farther from real ones than real
        ones do, for the identity and for random maps.
    """

    decision: str
    reason: str
    verdict: str
    translation: LinearTranslation
    map: str
    found: Mapping[str, Estimate]
    pairs: int
    held_out: int
    unit_length: bool
    evidence: Mapping[str, float]

    def __call__(self, x: Any) -> Any:
        """Translate points ``(N, D_old)``, at unit length where the new model's vectors are."""
        moved = self.translation(x)
        return unit_rows(moved) if self.unit_length else moved

    def apply(
        self,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        into: str | None = None,
        force: bool = False,
    ) -> int:
        """Translate a file of stored vectors, block by block; a killed run continues where it was.

        Parameters
        ----------
        source
            ``FILE.npy``, or ``FILE#COLUMN`` of ``.parquet``, ``.arrow`` or ``.feather``. Tables of LanceDB
            are databases: see :meth:`apply_to_database`.
        out
            The file to write, of the same ending. The source is not changed.
        into
            Of a table: name of the new column, beside all old ones. Default: ``COLUMN_migrated``.
        force
            Whether a file at ``out`` is replaced.

        Returns
        -------
        int
            Number of vectors.

        Raises
        ------
        RepdynError
            If ``out`` exists, endings differ, the column ``into`` is there already, or a vector is missing or
            not finite.
        """
        if database_column(source) is not None or lance_column(source) is not None:
            raise RepdynError("migrate: a column of a database is translated in place; use apply_to_database")
        return migrate_column(self._in_single_precision(), source, Path(out), into, force)

    def apply_to_database(self, address: str, into: str | None = None) -> MigratedColumn:
        """Translate a column of PostgreSQL with pgvector, or of LanceDB, to a new column beside it.

        PostgreSQL: blocks of 4096 rows are committed. LanceDB: one commit. A killed run continues.

        Parameters
        ----------
        address
            ``postgresql://USER@HOST/DB#TABLE.COLUMN`` or ``#SCHEMA.TABLE.COLUMN``, of type vector or halfvec.
            The table needs a primary key, or a unique index of columns that are NOT NULL. Or
            ``FOLDER/TABLE.lance#COLUMN``, of vectors of a fixed width.
        into
            Name of the new column, of the same type. Default: ``COLUMN_migrated``. In PostgreSQL, a column
            that is there is used if it was made by the same map from the same column.

        Returns
        -------
        MigratedColumn
            Numbers of rows, and the statement for an index. Rows whose vector is NULL stay so.

        Raises
        ------
        RepdynError
            If psycopg, pylance or the column is missing, widths differ, the new column holds something else,
            the role has no right to add it, or the database stops; the message says what to do.

        Notes
        -----
        PostgreSQL: rows of a block are locked while it is translated. A row that is inserted meanwhile is
        translated by this run or counted in ``left``. A row whose old vector changes *after* its block keeps
        the translation of the earlier one. LanceDB: if somebody writes to the table meanwhile, its new state
        is translated, at most three times.

        Examples
        --------
        >>> address = "postgresql://me@localhost/library#documents.embedding"
        >>> plan.apply_to_database(address, "embedding_new")  # doctest: +SKIP
        """
        moved, widths = self._in_single_precision(), self.translation.matrix.shape
        table = lance_column(address)
        if table is not None:
            return add_column(moved, widths[1], self._digest(), table, into)
        if (column := database_column(address)) is None:
            forms = "postgresql://…#TABLE.COLUMN or FOLDER/TABLE.lance#COLUMN"
            raise RepdynError(f"migrate: {address!r} is no address of a database, {forms}")
        name = f"{column.name}_migrated" if into is None else into
        return fill_column(moved, (widths[0], widths[1]), self._digest(), column, name)

    def _digest(self) -> str:
        """SHA-256 of the map: of its figures, because what it gives differs by rounding between machines."""
        t = self.translation
        numbers = [np.ascontiguousarray(x, dtype="<f8").tobytes() for x in (t.matrix, t.offset_a, t.offset_b)]
        return hashlib.sha256(b"".join(numbers) + bytes([self.unit_length])).hexdigest()

    def _in_single_precision(self) -> Any:
        """The map of float32 points: four times as fast, and vectors are stored in float32 or less."""
        t = self.translation
        matrix = t.matrix.astype(np.float32)
        offset = (t.offset_b - t.offset_a @ t.matrix).astype(np.float32)

        def moved(x: NDArray[Any]) -> NDArray[np.float32]:
            if x.shape[1] != len(t.offset_a):
                raise RepdynError(
                    f"migrate: the map reads width {len(t.offset_a)}, the vectors have {x.shape[1]}"
                )
            y = x.astype(np.float32, copy=False) @ matrix
            y += offset
            if self.unit_length:
                # A vector of zeros stays zero.
                y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), np.float32(1e-30))
            return y

        return moved

    def __repr__(self) -> str:
        lines = [f"Migration: {self.decision}", f"  {self.reason}"]
        if self.found:
            lines.append(
                f"  share of {self.held_out} held-out documents that are found by their new vectors:"
            )
        lines += [
            f"    {name:12s} {value}{'  <- used' if name == self.map else ''}"
            for name, value in self.found.items()
        ]
        lines += [f"  {name}: {value:.3g}" for name, value in self.evidence.items()]
        lines.append(
            f"  map: {self.map}; translation {self.translation.verdict!r}: {self.translation.reason}"
        )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """What each map finds; without held-out pairs, the evidence behind the translation's verdict."""
        return super().plot() if self.found else self.translation.plot()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the translation's own verdict is within ``translation``."""
        return super().to_dict() | {"translation": self.translation.to_dict()}


def migrate(
    old: PathsLike,
    new: PathsLike,
    pairs: ArrayLike | int | None = None,
    seed: int = 0,
) -> Migration:
    """Decide whether the vectors of an index can be translated to a new embedding model.

    Parameters
    ----------
    old
        The stored vectors under the old model: points ``(N, D)``, paths, the address of a file or of a table
        of LanceDB (``FOLDER/TABLE.lance#COLUMN``), or of a column of PostgreSQL
        (``postgresql://…#TABLE.COLUMN``), of which a random sample is read.
    new
        Embeddings of the new model: of other texts of the same kind, of some of the stored documents, or
        both. In the same forms.
    pairs
        ``None``: no pairs are used, even where ids agree. A number N: N of the documents that both have, by
        id (by row number for arrays; in a database by the key of the row). Or ``(N, 2)`` rows of ``old`` and
        of ``new``.
    seed
        Of samples and of the search.

    Returns
    -------
    Migration
        Call :meth:`Migration.apply` on the files of the index if its ``decision`` is ``"migrate"``.

    Raises
    ------
    RepdynError
        On pairs that are not there, ids that are there twice, or vectors that are not finite.

    Notes
    -----
    With 100 pairs or more, 30 % of them are held out, and the decision rests on the share of them that are
    found: each new vector is searched among all translated vectors. The low end of its interval must be at
    least .45, and the share above that of the identity. The map is then fitted on all pairs. With fewer, the
    decision rests on the verdict of the translation. If that is not ``"found"``, and the two models share
    their coordinates (:mod:`repdyn.migration.related`), a map is refined from the identity without the pairs.
    All pairs are then held out.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(400, 5))
    >>> plan = migrate(x, 2 * x[:, ::-1], pairs=200)
    >>> plan.decision
    'migrate'
    >>> plan(x[:1]).shape
    (1, 5)
    """
    paths_old, paths_new = _opened(old, new, pairs, seed)
    known = _pairs(paths_old, paths_new, pairs, seed)
    # All pairs are kept: they are rarer than other samples, and each lost one widens the interval.
    x, y, known = _sampled(paths_old, paths_new, known, seed)
    unit = bool(np.abs(np.linalg.norm(y[: MIGRATION.sample], axis=1) - 1).max() < MIGRATION.unit)
    equal = groups_of_equal_rows(x[known[:, 0]]) if len(known) else np.zeros(0, dtype=np.int64)
    if len(np.unique(equal)) >= MIGRATION.least_held_out:
        return _measured(x, y, known, equal, unit, seed)
    return _by_verdict(x, y, known, unit, seed)


def _measured(x: Floats, y: Floats, known: Index, equal: Index, unit: bool, seed: int) -> Migration:
    """The decision by what held-out pairs show; copies of a document, of one group, share a part."""
    size = int(MIGRATION.held_out * len(known))
    held, rest = parted_by_group(equal, size, np.random.default_rng(seed))
    test, train, count = known[held], known[rest], len(held)
    maps = _fitted(x, y, train, len(np.unique(equal[rest])), seed)
    if x.shape[1] == y.shape[1]:
        maps["identity"] = _identity(x.shape[1])
    shares = {
        name: mean_of_groups(documents_found(t(x), y[test[:, 1]], test[:, 0]), equal[held])
        for name, t in maps.items()
    }
    best = max((name for name in shares if name != "identity"), key=lambda name: shares[name].value)
    chosen, decision = best, MIGRATE
    share = f"{shares[best].value:.2f} of held-out documents are found by their new vectors with the map"
    if "identity" in shares and shares["identity"].value >= shares[best].value:
        chosen, decision = "identity", KEEP
        reason = f"{share}, and {shares['identity'].value:.2f} with the vectors as they are"
        if shares["identity"].low < MIGRATION.found:
            chosen, decision = best, EMBED
            reason += f"; neither is sure to reach {MIGRATION.found:.2f}"
    elif shares[best].low < MIGRATION.found:
        decision = EMBED
        reason = (
            f"{share} (from {shares[best].low:.2f}), expected {MIGRATION.found:.2f}; give more pairs or "
            "embed again"
        )
    else:
        reason = share
        reason += f", {shares['identity'].value:.2f} without one" if "identity" in shares else ""
    # The shares are those of maps without the held-out pairs; the map that is used is fitted on all.
    final = _FITS[chosen](x[known[:, 0]], y[known[:, 1]]) if chosen in _FITS else maps[chosen]
    verdict = "found" if decision != EMBED else "not found"
    final = replace(final, verdict=verdict, reason=reason)
    return Migration(decision, reason, verdict, final, chosen, shares, len(known), count, unit, {})


def _fitted(x: Floats, y: Floats, known: Index, distinct: int, seed: int) -> dict[str, LinearTranslation]:
    """Maps from pairs, and from the search that they guide where the distinct ones are few for the width."""
    maps = {name: fit(x[known[:, 0]], y[known[:, 1]]) for name, fit in _FITS.items()}
    if distinct < MIGRATION.guiding * x.shape[1] and len(known) < min(len(x), len(y)):
        found = translate(x, y, pairs=known, seed=seed)
        if np.any(found.matrix):
            maps["search"] = found
        related = map_of_related(x, y, seed)
        if related is not None and related.verdict == "found":
            maps["related"] = related
    return maps


_FITS = {"Procrustes": fit_orthogonal, "affine": fit_affine, "ridge": fit_ridge}


def _by_verdict(x: Floats, y: Floats, known: Index, unit: bool, seed: int) -> Migration:
    """The decision by the verdict of the translation, from few or no pairs."""
    found = translate(x, y, pairs=known, seed=seed)
    evidence: dict[str, float] = {}
    if len(known) and found.verdict != "found":
        # A search that few pairs guide can settle on a worse map than one without, which the pairs then test.
        # The two shares are not compared: of the pairs that guided it, a map finds nearly all.
        alone = translate(x, y, seed=seed)
        share = float(documents_found(alone(x), y[known[:, 1]], known[:, 0]).mean())
        if alone.verdict == "found" and share >= MIGRATION.found:
            found = alone
            evidence = {"share of the pairs found by the map without pairs": share}
    if found.verdict != "found" and (related := map_of_related(x, y, seed)) is not None:
        return _by_relation(x, y, known, related, unit)
    chosen, decision = "search", MIGRATE
    reason = "the translation is found: one map fits best, and no different one fits as well"
    if found.verdict != "found":
        decision = EMBED
        reason = (
            f"the translation is {found.verdict!r}; embed {MIGRATION.least_held_out} stored documents again "
            "as pairs"
        )
        if x.shape[1] == y.shape[1]:
            own, random = identity_excess(x, y, seed)
            evidence = {"excess distance, identity": own, "excess distance, nearest random map": min(random)}
            if own < min(random):
                reason += (
                    "; the vectors as they are lie nearer to the new ones than under any random map, so that "
                    "the models are related: measure the identity on pairs before you change anything"
                )
    return Migration(decision, reason, found.verdict, found, chosen, {}, len(known), 0, unit, evidence)


def _by_relation(x: Floats, y: Floats, known: Index, related: LinearTranslation, unit: bool) -> Migration:
    """The decision on the map of models that share their coordinates.

    The map was fitted without the pairs, which therefore test it, however few they are. They are no
    substitute for its own verdict: maps of which 20 pairs find .80 of the documents were measured that keep
    .46 of the nDCG@10 (docs/benchmarks.md).
    """
    more = f"; embed {MIGRATION.least_held_out} stored documents again as pairs"
    evidence = dict(related.evidence)
    sure = related.verdict == "found"
    if not sure or len(known) == 0:
        decision = MIGRATE if sure else EMBED
        reason = related.reason + ("" if sure else f", which is too near to be sure{more}")
        return Migration(decision, reason, related.verdict, related, "related", {}, 0, 0, unit, evidence)
    maps = {"related": related, "identity": _identity(x.shape[1])}
    groups = groups_of_equal_rows(x[known[:, 0]])
    shares = {
        name: mean_of_groups(documents_found(t(x), y[known[:, 1]], known[:, 0]), groups)
        for name, t in maps.items()
    }
    best = max(shares, key=lambda name: shares[name].value)
    reason = (
        f"{shares['related'].value:.2f} of the documents with a pair are found by their new vectors with a "
        f"map that no pair was used for, {shares['identity'].value:.2f} without a map"
    )
    decision = KEEP if best == "identity" else MIGRATE
    if shares[best].low < MIGRATION.found:
        best, decision = "related", EMBED
        reason += f" (from {shares['related'].low:.2f}, expected {MIGRATION.found:.2f}){more}"
    verdict = "inconclusive" if decision == EMBED else "found"
    final = replace(maps[best], verdict=verdict, reason=reason)
    count = len(known)
    return Migration(decision, reason, verdict, final, best, shares, count, count, unit, evidence)


def _identity(width: int) -> LinearTranslation:
    return LinearTranslation(
        np.eye(width), np.zeros(width), np.zeros(width), reason="the vectors as they are"
    )


def documents_found(index: ArrayLike, queries: ArrayLike, rows: ArrayLike) -> NDArray[np.bool_]:
    """Whether a search for documents by their new vectors finds them in a translated index.

    Parameters
    ----------
    index
        Translated vectors ``(N, D)``.
    queries
        New vectors of some of the documents ``(M, D)``.
    rows
        Their rows in the index ``(M,)``.

    Returns
    -------
    numpy.ndarray
        ``(M,)``: whether no other document is nearer, by cosine; copies of the document are the document.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> bool(documents_found(3 * x, x[:10], np.arange(10)).all())
    True
    """
    stored, asked, own_rows = as_array(index, np.float64), as_array(queries, np.float64), as_array(rows)
    if stored.ndim != 2 or asked.ndim != 2 or stored.shape[1] != asked.shape[1] or len(stored) == 0:
        raise RepdynError(
            "documents_found: index and queries must be vectors (N, D) and (M, D) of one width, got "
            f"{stored.shape} and {asked.shape}"
        )
    if own_rows.shape != (len(asked),) or own_rows.dtype.kind not in "iu":
        raise RepdynError(
            f"documents_found: rows must be {len(asked)} integers, one for each query, got "
            f"{own_rows.dtype} {own_rows.shape}"
        )
    if len(own_rows) and not (own_rows.min() >= 0 and own_rows.max() < len(stored)):
        raise RepdynError(f"documents_found: rows must lie from 0 to {len(stored) - 1}")
    if not (np.isfinite(stored).all() and np.isfinite(asked).all()):
        raise RepdynError("documents_found: index and queries must be finite")
    stored, asked = unit_rows(stored), unit_rows(asked)
    cosines = asked @ stored.T
    equal = groups_of_equal_rows(stored)
    copies = equal[own_rows][:, None] == equal
    own = np.where(copies, cosines, -np.inf).max(axis=1)
    return np.asarray(cosines.max(axis=1) <= own + 1e-12)  # equal rows differ by rounding


def _opened(
    old: PathsLike, new: PathsLike, pairs: ArrayLike | int | None, seed: int
) -> tuple[RepresentationPaths, RepresentationPaths]:
    """Paths of both sides; of a database, those of a sample that holds the pairs."""
    stored, fresh = _sampler(old), _sampler(new)
    if stored is None and fresh is None:
        return as_paths(old, "old"), as_paths(new, "new")
    if pairs is not None:
        if np.ndim(pairs) != 0:
            raise RepdynError(
                "migrate: rows of a database have no numbers, so that pairs as rows cannot name them; give "
                "the number of pairs, which are found by the key or the id of the row"
            )
        for name, side in (("old", old), ("new", new)):
            if _has_no_ids(side):
                raise RepdynError(
                    f"migrate: {name} has no ids, by which documents of a database are paired; give a table "
                    "with a column 'id'"
                )
    # Where there are more pairs than a sample has, all of them are read.
    most = MIGRATION.sample if pairs is None else max(MIGRATION.sample, int(np.asarray(pairs)))
    known = as_paths(old, "old") if stored is None else None
    if fresh is None:
        other = as_paths(new, "new")
    else:
        other = fresh(most, (seed, 1), None if pairs is None or known is None else known.ids.tolist())
    if stored is not None:
        known = stored(most, (seed, 0), None if pairs is None else other.ids.tolist())
    assert known is not None
    return known, other


def _sampler(x: PathsLike) -> Callable[..., RepresentationPaths] | None:
    """What draws a sample of a column of a database; ``None`` for other inputs."""
    if (column := database_column(x)) is not None:
        return partial(sampled, column)
    return None if (table := lance_column(x)) is None else partial(sampled_rows, table)


def _has_no_ids(x: PathsLike) -> bool:
    """Whether the rows of an input have numbers only."""
    if isinstance(x, RepresentationPaths) or _sampler(x) is not None:
        return False
    if isinstance(x, str | os.PathLike):
        file = file_of_vectors(x)
        return file is not None and file.ending == ".npy"
    return not hasattr(x, "__arrow_c_stream__")


def _pairs(
    old: RepresentationPaths, new: RepresentationPaths, pairs: ArrayLike | int | None, seed: int
) -> Index:
    """Pairs as rows ``(N, 2)``."""
    if pairs is None:
        return np.empty((0, 2), dtype=np.int64)
    if np.ndim(pairs) != 0:
        known = np.asarray(pairs)
        if known.ndim != 2 or known.shape[1] != 2 or known.dtype.kind not in "iu" or len(known) == 0:
            raise RepdynError(
                f"migrate: pairs must be a number or (N, 2) rows, got {known.dtype} {known.shape}"
            )
        if known.min() < 0 or (known >= [len(old), len(new)]).any():
            raise RepdynError(
                f"migrate: pairs name rows beyond the {len(old)} of old or the {len(new)} of new"
            )
        return known.astype(np.int64)
    wanted = int(np.asarray(pairs))
    for name, paths in (("old", old), ("new", new)):
        ids, counts = np.unique(paths.ids, return_counts=True)
        if len(ids) < len(paths):
            raise RepdynError(
                f"migrate: {name}: id {str(ids[counts.argmax()])!r} is there {counts.max()} times, so that "
                "it names no document; give unique ids, or pairs as rows"
            )
    shared, rows_old, rows_new = np.intersect1d(old.ids, new.ids, return_indices=True)
    if not 1 <= wanted <= len(shared):
        raise RepdynError(
            f"migrate: pairs={wanted}, and {len(shared)} documents of new have an id of old; give 1 to "
            f"{len(shared)}"
        )
    chosen = np.sort(np.random.default_rng(seed).choice(len(shared), wanted, replace=False))
    return np.stack([rows_old[chosen], rows_new[chosen]], axis=1).astype(np.int64)


def _sampled(
    old: RepresentationPaths, new: RepresentationPaths, known: Index, seed: int
) -> tuple[Floats, Floats, Index]:
    """Last points of a sample of either, with all pairs, and the pairs' new row numbers."""
    sides, columns = [], []
    for side, paths in enumerate((old, new)):
        name = ("old", "new")[side]
        point = paths.points[-1]
        if point in paths.tokens:
            raise RepdynError(
                f"migrate: {name}: {point!r} keeps tokens; expected one vector for each document"
            )
        paired = np.unique(known[:, side])
        others = np.setdiff1d(np.arange(len(paths)), paired)
        most = max(MIGRATION.sample - len(paired), 0)
        if len(others) > most:
            # A seed for each side: stores of one corpus must not draw the same documents.
            others = np.random.default_rng((seed, side)).choice(others, most, replace=False)
        rows = np.union1d(paired, others).astype(np.int64)
        column = paths.column(point)
        sides.append(np.asarray(column[rows], dtype=np.float64))
        columns.append(np.searchsorted(rows, known[:, side]))
    return sides[0], sides[1], np.stack(columns, axis=1).astype(np.int64)
