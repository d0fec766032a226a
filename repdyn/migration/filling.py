"""Translated vectors in a new column of a table of PostgreSQL: a block of rows is one transaction.

A row is done when its new vector is not NULL. A killed run therefore loses at most the block at hand, and
the next run goes on. The digest of the map stands in the comment on the new column, so that no column holds
vectors of two maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.migration.database import (
    STORED,
    DatabaseColumn,
    TableOfVectors,
    VectorColumn,
    identifier,
    psycopg_of,
)
from repdyn.progress import track

__all__ = ["MigratedColumn", "fill_column"]

ROWS = 4096
"""Rows of a block, which are locked while it is translated."""
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer names
_LOCK = 0x726570 << 32  # marks the advisory locks of repdyn; the table's number follows
_PREFIX = "repdyn migrate: "
_WAIT = "10s"  # for the lock that a new column needs: others wait behind it

Map = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class MigratedColumn:
    """What :meth:`repdyn.migration.Migration.apply_to_database` did.

    Attributes
    ----------
    address
        Of the old column, without a password.
    column
        The new column.
    translated
        Rows whose vector was translated by this run.
    before
        Rows that an earlier run had translated.
    missing
        Rows without an old vector; their new one is NULL too.
    left
        Rows that came while the migration ran and are not translated; the same command translates them.
    index
        The statement that makes an index of the new column.
    """

    address: str
    column: str
    translated: int
    before: int
    missing: int
    left: int
    index: str

    def __repr__(self) -> str:
        lines = [f"{self.address}: {self.translated} vectors translated, to the column {self.column!r}"]
        if self.before:
            lines.append(f"  {self.before} were translated before")
        if self.missing:
            lines.append(f"  {self.missing} rows have no vector (NULL) and stay so")
        if self.left:
            lines.append(f"  {self.left} rows came while it ran; run the same command again")
        return "\n".join([*lines, f"  to search it, make an index: {self.index}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def fill_column(
    apply: Map, widths: tuple[int, int], digest: str, address: DatabaseColumn, into: str
) -> MigratedColumn:
    """Translate a column of a table to a new one beside it; see :meth:`Migration.apply_to_database`."""
    if len(into.encode()) > _LONGEST_NAME or not into or "\0" in into:
        raise RepdynError(f"column {into!r}: expected a name of 1 to {_LONGEST_NAME} bytes")
    with address.connection() as opened:
        table = TableOfVectors.described(opened, address)
        (free,) = opened.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK + table.number]).fetchone()
        if not free:
            raise RepdynError(
                f"{address.shown}: another migration is writing to the table; wait until it ends"
            )
        _check_width(opened, table, widths[0], address.shown)
        note = f"{_PREFIX}{table.vectors.name} by the map {digest}"
        made = _column(opened, table, into, widths[1], note, address)
        filling = _Filling(opened, table, made, address.shown)
        missing, before, todo = filling.counted()
        translated = 0
        # The second pass takes rows that came behind the first one.
        for _ in range(2):
            for count in track(filling.blocks(apply), "translating", total=-(-todo // ROWS)):
                translated += count
            missing, _, left = filling.counted()
            if left == 0:
                break
            todo = left
        index = _index(opened, table, made)
    return MigratedColumn(address.shown, into, translated, before, missing, left, index)


def _check_width(opened: Any, table: TableOfVectors, width: int, where: str) -> None:
    """Raise before anything is written if a vector has another width than the map reads."""
    from psycopg import sql

    found = {table.vectors.width: None}
    if table.vectors.width is None:
        statement = sql.SQL("SELECT {}({}), count(*) FROM {} WHERE {} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC")
        names = sql.Identifier(table.vectors.kind[0], "vector_dims"), sql.Identifier(table.vectors.name)
        statement = statement.format(*names, sql.Identifier(*table.names), names[1])
        found = dict(opened.execute(statement).fetchall())
    wrong = {found_width: count for found_width, count in found.items() if found_width != width}
    if wrong:
        held = ", ".join(f"{w}" + (f" ({n} rows)" if n else "") for w, n in found.items())
        raise RepdynError(
            f"{where}: the map reads width {width}, the column holds vectors of width {held}; nothing was "
            "written. Move rows of other widths to a table of their own"
        )


def _column(
    opened: Any, table: TableOfVectors, into: str, width: int, note: str, address: DatabaseColumn
) -> VectorColumn:
    """The new column: the one of an earlier run, or one that is added now."""
    from psycopg import sql

    psycopg = psycopg_of(address.shown)
    names = sql.Identifier(*table.names), sql.Identifier(into)
    kind = sql.SQL("{}({})").format(sql.Identifier(*table.vectors.kind), sql.Literal(width))
    there = table.columns.get(into)
    if there is not None:
        same = there.kind == table.vectors.kind and there.width == width
        if there.comment == note and same:
            return there
        drop = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(*names).as_string(opened)
        raise RepdynError(
            f"{address.shown}: the column {into!r} "
            + (
                f"holds vectors of another map or column; give another --column, or drop it: {drop}"
                if there.comment.startswith(_PREFIX)
                else "is there already and is kept; give another name with --column"
            )
        )
    statements = (
        sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(*names, kind),
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(*names, sql.Literal(note)),
    )
    try:
        with opened.transaction():
            opened.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_WAIT)))
            for statement in statements:
                opened.execute(statement)
    except psycopg.errors.LockNotAvailable:
        raise RepdynError(
            f"{address.shown}: the table was in use for {_WAIT}, so that no column could be added; run the "
            "command again when no long transaction is open. Nothing was written"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        lines = "; ".join(statement.as_string(opened) for statement in statements)
        raise RepdynError(
            f"{address.shown}: only the table's owner may add a column; nothing was written. The owner runs: "
            f"{lines}; then run this command again with a role that has SELECT and UPDATE"
        ) from None
    return TableOfVectors.described(opened, address).columns[into]


class _Filling:
    """The statements that fill one column."""

    def __init__(self, opened: Any, table: TableOfVectors, made: VectorColumn, where: str) -> None:
        from psycopg import sql
        from psycopg.adapt import Dumper
        from psycopg.pq import Format

        self._opened, self._table, self._where, self._made = opened, table, where, made
        keys = [identifier(column.name) for column in table.key]
        types = [identifier(*column.kind) for column in table.key]
        comma = sql.SQL(", ")
        parts = {
            "table": identifier(*table.names),
            "old": identifier(table.vectors.name),
            "new": identifier(made.name),
            # With the table's name: the texts below have the same names, and another order.
            "keys": comma.join(sql.SQL("stored.{}").format(key) for key in keys),
            "texts": comma.join(sql.SQL("{}::text").format(key) for key in keys),
            "last": comma.join(sql.SQL("%s::{}").format(kind) for kind in types),
            "rows": sql.SQL(str(ROWS)),
            "arrays": comma.join([sql.SQL("%s::text[]")] * len(keys) + [sql.SQL("%s")]),
            "given": comma.join(identifier(f"key {k}") for k in range(len(keys))),
            "same": sql.SQL(" AND ").join(
                sql.SQL("stored.{} = moved.{}::{}").format(key, identifier(f"key {k}"), kind)
                for k, (key, kind) in enumerate(zip(keys, types))
            ),
        }
        todo = "{old} IS NOT NULL AND {new} IS NULL"
        read = "SELECT {texts}, {old} FROM {table} AS stored WHERE " + todo
        # Locked until the block is written: nobody changes an old vector while it is translated.
        end = " ORDER BY {keys} LIMIT {rows} FOR NO KEY UPDATE"
        self._first = sql.SQL(read + end).format(**parts)
        self._next = sql.SQL(read + " AND ({keys}) > ({last})" + end).format(**parts)
        self._write = sql.SQL(
            'UPDATE {table} AS stored SET {new} = moved."new vector" '
            'FROM unnest({arrays}) AS moved({given}, "new vector") WHERE {same}'
        ).format(**parts)
        self._count = sql.SQL(
            "SELECT count(*) - count({old}), count({new}), count(*) FILTER (WHERE " + todo + ") FROM {table}"
        ).format(**parts)

        # Sent as it is, with the type of arrays of vectors.
        sent = {"format": Format.BINARY, "oid": made.array, "dump": lambda _, array: array.content}
        opened.adapters.register_dumper(_Array, type("_Sent", (Dumper,), sent))

    def counted(self) -> tuple[int, int, int]:
        """Numbers of rows: without an old vector, with a new one, and to do."""
        missing, done, todo = self._opened.execute(self._count, []).fetchone()
        return missing, done, todo

    def blocks(self, apply: Map) -> Iterator[int]:
        """Translate all rows that are to do, in the order of their keys; yields the size of each block."""
        last: list[str] | None = None
        while True:
            with self._opened.transaction():
                # A block is found by the index of the key, not by a scan of the table for each.
                for plan in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
                    self._opened.execute(f"SET LOCAL {plan} = off")
                cursor = self._opened.cursor(binary=True)
                cursor.execute(self._first if last is None else self._next, last or [])
                rows = cursor.fetchall()
                if not rows:
                    return
                keys = [list(column) for column in zip(*(row[:-1] for row in rows))]
                names = [", ".join(row[:-1]) for row in rows]
                vectors = self._table.matrix([row[-1] for row in rows], names, self._where)
                moved = apply(vectors)
                cursor.execute(self._write, [*keys, self._array(moved)])
                if cursor.rowcount != len(rows):
                    raise RepdynError(
                        f"{self._where}: {len(rows)} rows were read and {cursor.rowcount} were written, as "
                        "by a trigger or a rule of the table; this block was taken back"
                    )
            last = [column[-1] for column in keys]
            yield len(rows)

    def _array(self, vectors: NDArray[np.float32]) -> _Array:
        """Vectors as an array of PostgreSQL in its binary form."""
        stored = STORED[self._made.kind[1]]
        size, width = vectors.shape
        form = [("bytes", ">i4"), ("width", ">i2"), ("unused", ">i2"), ("vector", stored, (width,))]
        sent = np.zeros(size, np.dtype(form))
        sent["bytes"], sent["width"] = 4 + width * stored.itemsize, width
        with np.errstate(over="ignore"):
            sent["vector"] = vectors
        if not np.isfinite(sent["vector"]).all():
            raise RepdynError(
                f"{self._where}: a translated vector is too large for {self._made.written}; migrate from a "
                "column of type vector"
            )
        header = np.array([1, 0, self._made.kind_number, size, 1], dtype=">u4")
        return _Array(header.tobytes() + sent.tobytes())


@dataclass(frozen=True)
class _Array:
    content: bytes


def _index(opened: Any, table: TableOfVectors, made: VectorColumn) -> str:
    """The statement for an index like that of the old column, or a usual one."""
    from psycopg import sql

    found = opened.execute(_INDEX, [table.number, table.vectors.number]).fetchone()
    method, schema, operators = found or ("hnsw", made.kind[0], f"{made.kind[1]}_cosine_ops")
    # Of a table in parts, no index can be made beside writers.
    statement = sql.SQL("CREATE INDEX {}ON {} USING {} ({} {})").format(
        sql.SQL("" if table.partitioned else "CONCURRENTLY "),
        sql.Identifier(*table.names),
        sql.Identifier(method),
        sql.Identifier(made.name),
        sql.Identifier(schema, operators),
    )
    return str(statement.as_string(opened))


_INDEX = """
SELECT m.amname::text, n.nspname::text, o.opcname::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace
WHERE i.indrelid = %s AND i.indkey[0] = %s AND m.amname IN ('hnsw', 'ivfflat') ORDER BY i.indexrelid LIMIT 1
"""
