"""Columns of vectors in PostgreSQL with pgvector: their address, what the table says of them, and samples.

An address is a URL of the database with the names of the column: ``postgresql://USER@HOST/DB#TABLE.COLUMN``
or ``#SCHEMA.TABLE.COLUMN``. psycopg is optional; only what reads a database imports it. Names go into
statements as quoted identifiers, values as parameters, and a password into nothing but the connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths import RepresentationPaths
from repdyn.paths.importing import VECTORS

__all__ = [
    "DatabaseColumn",
    "TableOfVectors",
    "VectorColumn",
    "database_column",
    "identifier",
    "psycopg_of",
    "sampled",
]

_SCHEMES = ("postgresql://", "postgres://")
# Without quotes no sign of a URL, so that no part of a password that holds "#" is taken for a name.
_NAME = r'(?:"(?:[^"]|"")+"|[^".#@/:?&=]+)'
_ADDRESS = re.compile(rf"(.*)#({_NAME}(?:\.{_NAME}){{1,2}})", re.DOTALL)
_SECONDS_TO_CONNECT = 10
STORED: dict[str, np.dtype[Any]] = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}
"""Types of pgvector that hold all coordinates of a vector, as they are sent."""


@dataclass(frozen=True)
class DatabaseColumn:
    """What an address names.

    Attributes
    ----------
    url
        Of the database. It may hold a password and is never shown.
    names
        Schema (if given), table and column, as they are written in the database.
    shown
        The address without a password, for messages and records.
    """

    url: str = field(repr=False)
    names: tuple[str, ...]
    shown: str

    @property
    def name(self) -> str:
        """Of the column."""
        return self.names[-1]

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection of psycopg, each statement its own transaction; its errors as one line each."""
        psycopg = psycopg_of(self.shown)
        try:
            with psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=_SECONDS_TO_CONNECT,
                application_name="repdyn migrate",
                prepare_threshold=None,
            ) as opened:
                # Where a policy hides rows from this role the server then says so, and none is left out.
                opened.execute("SET row_security = off")
                yield opened
        except psycopg.errors.InsufficientPrivilege as error:
            raise RepdynError(f"{self.shown}: the role has no right to do this ({_said(error)})") from None
        except psycopg.OperationalError as error:
            raise RepdynError(
                f"{self.shown}: the database cannot be reached, or stopped ({_said(error)}); what was "
                "written before is kept, run the same command again to continue"
            ) from None
        except psycopg.Error as error:
            raise RepdynError(f"{self.shown}: {_said(error)}") from None


@dataclass(frozen=True)
class VectorColumn:
    """A column as the catalog describes it.

    Attributes
    ----------
    name, number
        Name, and position in the table.
    kind
        Schema and name of its type.
    kind_number, array
        Identifiers of its type, and of the type of arrays of it.
    written
        Its type as SQL writes it, with the width where one is fixed.
    width
        Number of coordinates, or ``None`` if it is not fixed.
    comment
        The comment on the column, or an empty string.
    """

    name: str
    number: int
    kind: tuple[str, str]
    kind_number: int
    written: str
    array: int
    width: int | None
    comment: str


@dataclass(frozen=True)
class TableOfVectors:
    """A table with a column of vectors.

    Attributes
    ----------
    number
        Its object identifier.
    names
        Schema and table.
    partitioned
        Whether its rows lie in other tables.
    columns
        All columns, by name.
    key
        Those that identify a row.
    vectors
        The column of the address.
    """

    number: int
    names: tuple[str, str]
    partitioned: bool
    columns: dict[str, VectorColumn]
    key: tuple[VectorColumn, ...]
    vectors: VectorColumn

    @classmethod
    def described(cls, opened: Any, address: DatabaseColumn) -> TableOfVectors:
        """Read the catalog; raises where the column is missing, holds no vectors, or rows have no key."""
        from psycopg import sql

        quoted = sql.Identifier(*address.names[:-1]).as_string(opened)
        found = opened.execute(_TABLE, [quoted]).fetchone()
        if found is None:
            known = [name for (name,) in opened.execute(_TABLES).fetchall()]
            raise RepdynError(
                f"{address.shown}: there is no table {'.'.join(address.names[:-1])!r}; "
                f"{nearest_names(address.names[-2], known)}"
            )
        number, schema, table, kind = found
        if kind not in ("r", "p"):
            raise RepdynError(f"{address.shown}: is a view or a foreign table; name the table itself")
        columns = {column.name: column for column in _columns(opened, number)}
        if address.name not in columns:
            raise RepdynError(
                f"{address.shown}: the table has no column {address.name!r}; "
                f"{nearest_names(address.name, columns)}"
            )
        vectors = columns[address.name]
        if vectors.kind[1] not in STORED:
            raise RepdynError(
                f"{address.shown}: the column holds {vectors.written}; expected vector or halfvec of pgvector"
            )
        key = opened.execute(_KEY, [number]).fetchone()
        if key is None:
            raise RepdynError(
                f"{address.shown}: the table has no primary key, and no unique index of columns that are NOT "
                "NULL, so that a row cannot be named; add a primary key"
            )
        return cls(
            number, (schema, table), kind == "p", columns, tuple(columns[name] for name in key[0]), vectors
        )

    def matrix(self, values: Sequence[bytes], keys: Sequence[Any], where: str) -> NDArray[Any]:
        """Vectors as the server sent them, as ``(N, D)``; raises if their widths differ."""
        stored = STORED[self.vectors.kind[1]]
        widths = np.array([(len(value) - 4) // stored.itemsize for value in values])
        if (widths != widths[0]).any():
            other = int(np.flatnonzero(widths != widths[0])[0])
            raise RepdynError(
                f"{where}: holds vectors of several widths, {widths[0]} in row {keys[0]} and {widths[other]} "
                f"in row {keys[other]}; give a column of one width, such as a table of those rows"
            )
        sent = np.dtype([("width", ">i2"), ("unused", ">i2"), ("vector", stored, (int(widths[0]),))])
        matrix = np.frombuffer(b"".join(values), sent)["vector"]
        return matrix.astype(stored.newbyteorder("="))


def database_column(address: object) -> DatabaseColumn | None:
    """The column that an address names, or ``None`` if the address is none of PostgreSQL."""
    if not isinstance(address, str) or not address.startswith(_SCHEMES):
        return None
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        # The address is not repeated, because it may hold a password.
        raise RepdynError(
            "postgresql://…: names no column; write postgresql://USER@HOST/DB#TABLE.COLUMN or "
            '#SCHEMA.TABLE.COLUMN, a name with signs in double quotes: #"a.b".COLUMN'
        )
    names = tuple(
        name[1:-1].replace('""', '"') if name.startswith('"') else name
        for name in re.findall(_NAME, parts[2])
    )
    psycopg = psycopg_of("postgresql://…")
    try:
        known = psycopg.conninfo.conninfo_to_dict(parts[1])
    except psycopg.ProgrammingError:  # it repeats the URL
        raise RepdynError(
            f"postgresql://…#{parts[2]}: is no URL that PostgreSQL reads; special characters of a password "
            "are written as %XX, or leave the password to the variable PGPASSWORD"
        ) from None
    user, port = (
        (f"{known['user']}@" if "user" in known else ""),
        (f":{known['port']}" if "port" in known else ""),
    )
    shown = f"postgresql://{user}{known.get('host', '')}{port}/{known.get('dbname', '')}#{parts[2]}"
    return DatabaseColumn(parts[1], names, shown)


def psycopg_of(purpose: str) -> Any:
    """The module psycopg; ``purpose`` begins the error where it is not installed."""
    try:
        import psycopg
    except ImportError:  # also where it finds no libpq
        raise RepdynError(f"{purpose}: needs psycopg; pip install 'repdyn[postgres]'") from None
    return psycopg


def identifier(*names: str) -> Any:
    """A quoted name for a statement with parameters, where psycopg reads ``%`` as the mark of one."""
    from psycopg import sql

    return sql.SQL(sql.Identifier(*names).as_string(None).replace("%", "%%"))


def sampled(
    address: DatabaseColumn, most: int, seed: tuple[int, int], ids: Sequence[str] | None = None
) -> RepresentationPaths:
    """A random sample of the vectors that are not NULL, with the row's key as id.

    Parameters
    ----------
    address
        The column.
    most
        Number of rows; of those with an id in ``ids``, so many besides.
    seed
        Of the sample: the same rows for the same seed, whatever their order on disk is.
    ids
        Rows with these ids are taken first.

    Returns
    -------
    RepresentationPaths
        With one point. A key of several columns is written as ``(1,a)``.
    """
    from psycopg import sql

    with address.connection() as opened:
        table = TableOfVectors.described(opened, address)
        names = [identifier(column.name) for column in table.key]
        row = names[0] if len(names) == 1 else sql.SQL("ROW({})").format(sql.SQL(", ").join(names))
        parts = {
            "id": sql.SQL("{}::text").format(row),
            "vectors": identifier(table.vectors.name),
            "table": identifier(*table.names),
        }
        drawn = " ORDER BY md5({id} || %s) LIMIT %s"
        salt = f" {seed[0]} {seed[1]}"
        one = "SELECT {id}, {vectors} FROM {table} WHERE {vectors} IS NOT NULL"
        cursor = opened.cursor(binary=True)
        rows: list[Any] = []
        if ids is not None:
            statement = sql.SQL(one + " AND {id} = ANY(%s)" + drawn).format(**parts)
            rows = cursor.execute(statement, [list(ids), salt, most]).fetchall()
        statement = sql.SQL(one + " AND NOT {id} = ANY(%s)" + drawn).format(**parts)
        rows += cursor.execute(statement, [[key for key, _ in rows], salt, most]).fetchall()
        if not rows:
            raise RepdynError(f"{address.shown}: holds no vectors")
        keys = [key for key, _ in rows]
        matrix = table.matrix([value for _, value in rows], keys, address.shown)
    return RepresentationPaths.from_arrays({VECTORS: matrix}, ids=keys, meta={"data": address.shown})


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _columns(opened: Any, table: int) -> list[VectorColumn]:
    """All columns of a table."""
    return [
        VectorColumn(name, number, (schema, kind), identifier, written, array, width, comment)
        for name, number, schema, kind, identifier, written, array, width, comment in opened.execute(
            _COLUMNS, [table]
        ).fetchall()
    ]


_TABLE = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%s)
"""
_TABLES = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1
"""
_COLUMNS = """
SELECT a.attname::text, a.attnum::int, n.nspname::text, t.typname::text, t.oid::bigint,
  pg_catalog.format_type(a.atttypid, a.atttypmod), t.typarray::bigint, nullif(a.atttypmod, -1)::int,
  coalesce(pg_catalog.col_description(a.attrelid, a.attnum), '')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# Columns of the primary key, or of the shortest unique index whose columns are all NOT NULL.
_KEY = """
SELECT array_agg(a.attname::text ORDER BY k.place)
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
  AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull)
ORDER BY i.indisprimary DESC, count(*), i.indexrelid LIMIT 1
"""
