"""A column of PostgreSQL is translated beside the old one, block by block, on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repdyn
from repdyn.errors import RepdynError
from repdyn.migration import Migration, filling
from repdyn.migration.database import database_column
from repdyn.migration.plan import MIGRATE
from repdyn.translation import LinearTranslation

psycopg = pytest.importorskip("psycopg", reason="pip install 'repdyn[postgres]'")
from psycopg import sql  # noqa: E402

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def plan(seed: int = 0, unit: bool = False, scale: float = 1.0) -> Migration:
    generator = np.random.default_rng(seed)
    matrix = scale * generator.normal(size=(4, 3))
    t = LinearTranslation(matrix, generator.normal(size=4), np.ones(3), verdict="found")
    return Migration(MIGRATE, "given", "found", t, "affine", {}, 0, 0, unit, {})


def by_numpy(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """The oracle: the same map, written out."""
    generator = np.random.default_rng(seed)
    matrix, offset = generator.normal(size=(4, 3)), generator.normal(size=4)
    return (x.astype(np.float64) - offset) @ matrix + 1


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(filling, "ROWS", 8)


@pytest.fixture
def database(server) -> Iterator[Any]:
    """A connection to an empty database with pgvector."""
    with server.connect() as outer:
        outer.execute("DROP DATABASE IF EXISTS library WITH (FORCE)")
        outer.execute("CREATE DATABASE library")
    with server.connect(database="library") as opened:
        opened.execute("CREATE EXTENSION vector")
        yield opened


@pytest.fixture
def address(server) -> str:
    return server.url(database="library") + "#documents.embedding"


def text(vector: np.ndarray) -> str:
    return str([float(x) for x in vector])


def fill(opened: Any, x: np.ndarray = X, kind: str = "vector(4)", first: int = 0) -> None:
    opened.execute(f"CREATE TABLE IF NOT EXISTS documents (id int PRIMARY KEY, title text, embedding {kind})")
    with opened.cursor() as cursor:
        rows = [(first + k, f"title {k}", text(v)) for k, v in enumerate(x)]
        cursor.executemany("INSERT INTO documents VALUES (%s, %s, %s)", rows)


def column(opened: Any, name: str, table: str = "documents", order: str = "id") -> list[Any]:
    """Vectors as lists of numbers, or None; read as text, which the code under test never does."""
    query = sql.SQL("SELECT {}::text FROM {} ORDER BY {}").format(
        sql.Identifier(name), sql.Identifier(table), sql.SQL(order)
    )
    return [None if value is None else json.loads(value) for (value,) in opened.execute(query)]


def test_a_column_is_added_and_the_old_one_is_kept(database, address) -> None:
    fill(database)
    before = database.execute("SELECT id, title, embedding::text FROM documents ORDER BY id").fetchall()
    done = plan().apply_to_database(address, "v2")
    assert (done.translated, done.before, done.missing, done.left) == (50, 0, 0, 0)
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(X), atol=1e-5)
    after = database.execute("SELECT id, title, embedding::text FROM documents ORDER BY id").fetchall()
    assert after == before
    database.execute(done.index)  # the statement that it prints
    (plans,) = database.execute(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'documents' AND indexdef LIKE '%hnsw%v2%'"
    ).fetchone()
    assert plans == 1
    again = plan().apply_to_database(address, "v2")
    assert (again.translated, again.before) == (0, 50)


@pytest.mark.parametrize("unit", [False, True])
def test_half_precision_stays_so(database, address, unit) -> None:
    if database.execute("SELECT to_regtype('halfvec')").fetchone()[0] is None:
        pytest.skip("this pgvector has no halfvec; it came with 0.7")
    fill(database, kind="halfvec(4)")
    plan(unit=unit).apply_to_database(address, "v2")
    (kind,) = database.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'documents'::regclass "
        "AND attname = 'v2'"
    ).fetchone()
    assert kind == "halfvec(3)"
    expected = by_numpy(X.astype(np.float16))
    if unit:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(column(database, "v2")), expected, atol=0.01)
    with pytest.raises(RepdynError, match="too large for halfvec"):
        plan(scale=1e6).apply_to_database(address, "v3")


def test_rows_without_a_vector_stay_so_and_are_counted(database, address) -> None:
    fill(database)
    database.execute("UPDATE documents SET embedding = NULL WHERE id % 7 = 3")
    done = plan().apply_to_database(address)
    made = column(database, "embedding_migrated")
    assert [k for k, v in enumerate(made) if v is None] == [k for k in range(50) if k % 7 == 3]
    assert done.missing == 7
    assert done.translated == 43
    assert "7 rows have no vector" in repr(done)


KEYS = {
    "text": ("id text PRIMARY KEY", lambda k: (f"d'{k % 9}\"%s{k}\\",)),
    "uuid": ("id uuid PRIMARY KEY", lambda k: (f"00000000-0000-4000-8000-{(k * 7919) % 997:012d}",)),
    "composite": ("tenant text, id bigint, PRIMARY KEY (tenant, id)", lambda k: (f"t{k % 3}", k * 10**12)),
    "unique": (
        "tenant int NOT NULL, id date NOT NULL, UNIQUE (id, tenant)",
        lambda k: (k % 5, f"2020-01-{k % 28 + 1:02d}"),
    ),
    "fixed text": ("id char(6) PRIMARY KEY", lambda k: (f"a{k}",)),
    "time": (
        "id timestamptz PRIMARY KEY",
        lambda k: (f"2020-01-01 00:00:00.{k:06d}+03" if k else "infinity",),
    ),
    "numeric": ("id numeric PRIMARY KEY", lambda k: (f"{k}.10000000000000000000{k}",)),
    "double": ("id float8 PRIMARY KEY", lambda k: (1 / (k + 3),)),
    "bytea": ("id bytea PRIMARY KEY", lambda k: (bytes([255 - k, 0, 92]),)),
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_named_by_any_key(database, address, kind) -> None:
    definition, key = KEYS[kind]
    database.execute(f"CREATE TABLE documents (number int, embedding vector(4), {definition})")
    marks = sql.SQL(", ").join([sql.SQL("%s")] * (2 + len(key(0))))
    for k in np.random.default_rng(1).permutation(50).tolist():
        values = [k, text(X[k]), *key(k)]
        database.execute(sql.SQL("INSERT INTO documents VALUES ({})").format(marks), values)
    assert plan().apply_to_database(address, "v2").translated == 50
    np.testing.assert_allclose(np.array(column(database, "v2", order="number")), by_numpy(X), atol=1e-5)


def test_names_of_any_kind_are_quoted(database, server) -> None:
    database.execute('CREATE SCHEMA "My ""own"" schema"')
    table = '"My ""own"" schema"."Docs; DROP TABLE x.y"'
    database.execute(f'CREATE TABLE {table} ("the ID" int PRIMARY KEY, "Vec 50% #1" vector(4))')
    with database.cursor() as cursor:
        rows = [(k, text(v)) for k, v in enumerate(X)]
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)
    url = server.url(database="library") + f'#{table}."Vec 50% #1"'
    assert plan().apply_to_database(url, 'new "50%" {}').translated == 50
    (made,) = zip(*database.execute(f'SELECT "new ""50%"" {{}}"::text FROM {table} ORDER BY 1').fetchall())
    expected = sorted(by_numpy(X).tolist())
    np.testing.assert_allclose(sorted(json.loads(v) for v in made), expected, atol=1e-5)
    with pytest.raises(RepdynError, match="1 to 63 bytes"):
        plan().apply_to_database(url, "n" * 64)


@pytest.mark.parametrize("partitioned", [False, True])
def test_other_places(database, server, partitioned) -> None:
    """A type in a schema off the search path, and a table in parts."""
    database.execute(
        "DROP EXTENSION vector; CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions"
    )
    tail = " PARTITION BY HASH (id)" if partitioned else ""
    database.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding extensions.vector){tail}")
    if partitioned:
        for part in range(2):
            database.execute(
                f"CREATE TABLE p{part} PARTITION OF documents FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
            )
    with database.cursor() as cursor:
        cursor.executemany("INSERT INTO documents VALUES (%s, %s)", [(k, text(v)) for k, v in enumerate(X)])
    done = plan().apply_to_database(server.url(database="library") + "#public.documents.embedding", "v2")
    assert done.translated == 50
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(X), atol=1e-5)
    database.execute(done.index)


def test_an_empty_table_gets_an_empty_column(database, address) -> None:
    fill(database, X[:0])
    done = plan().apply_to_database(address, "v2")
    assert (done.translated, done.missing) == (0, 0)
    with pytest.raises(RepdynError, match="holds no vectors"):
        repdyn.migrate(address, X)


def test_vectors_of_other_widths_are_refused_before_a_column_is_added(database, address) -> None:
    fill(database, kind="vector")
    database.execute("INSERT INTO documents VALUES (99, 't', '[1,2]')")
    with pytest.raises(
        RepdynError, match=r"reads width 4, .* width 4 \(50 rows\), 2 \(1 rows\); nothing was"
    ):
        plan().apply_to_database(address, "v2")
    with pytest.raises(RepdynError, match="several widths"):
        repdyn.migrate(address, X)
    database.execute(
        "DELETE FROM documents WHERE id = 99; CREATE TABLE wide (id int PRIMARY KEY, embedding vector(5))"
    )
    with pytest.raises(RepdynError, match="reads width 4, the column holds vectors of width 5"):
        plan().apply_to_database(address.replace("documents", "wide"), "v2")
    (count,) = database.execute("SELECT count(*) FROM pg_attribute WHERE attname = 'v2'").fetchone()
    assert count == 0
    assert plan().apply_to_database(address, "v2").translated == 50


def test_nothing_that_is_there_is_replaced(database, address) -> None:
    fill(database)
    database.execute("ALTER TABLE documents ADD COLUMN mine vector(3)")
    for name in ("title", "embedding", "mine"):
        with pytest.raises(RepdynError, match="is there already and is kept"):
            plan().apply_to_database(address, name)
    plan().apply_to_database(address, "v2")
    for other in (plan(seed=1), plan(unit=True)):
        with pytest.raises(RepdynError, match=r"another map.*ALTER TABLE .* DROP COLUMN"):
            other.apply_to_database(address, "v2")
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(X), atol=1e-5)


def dying_at(monkeypatch, block: int, end) -> list[int]:
    """The map calls ``end`` in the given block; returns the sizes of the blocks that were translated."""
    seen: list[int] = []
    whole = Migration._in_single_precision

    def counting(self):
        apply = whole(self)

        def count(x):
            if len(seen) == block:
                end()
            seen.append(len(x))
            return apply(x)

        return count

    monkeypatch.setattr(Migration, "_in_single_precision", counting)
    return seen


KILLED = """
import os, sys
import numpy as np
from repdyn.migration import filling, Migration
from repdyn.translation import LinearTranslation
filling.ROWS = 8
g = np.random.default_rng(0)
t = LinearTranslation(g.normal(size=(4, 3)), g.normal(size=4), np.ones(3), verdict="found")
plan = Migration("migrate", "given", "found", t, "affine", {}, 0, 0, False, {})
whole, seen = Migration._in_single_precision, []
def dying(self):
    apply = whole(self)
    def count(x):
        seen.append(0)
        if len(seen) == 4:
            os.kill(os.getpid(), 9)
        return apply(x)
    return count
Migration._in_single_precision = dying
plan.apply_to_database(sys.argv[1], "v2")
"""


def test_a_killed_process_loses_one_block(database, address, monkeypatch) -> None:
    fill(database)
    done = subprocess.run([sys.executable, "-c", KILLED, address], capture_output=True)
    assert done.returncode == -9, done.stderr
    assert sum(v is not None for v in column(database, "v2")) == 24
    seen = dying_at(monkeypatch, -1, None)
    again = plan().apply_to_database(address, "v2")
    assert (again.translated, again.before) == (26, 24)
    assert seen == [8, 8, 8, 2]
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(X), atol=1e-5)


def test_a_server_that_stops_is_named_and_the_next_run_goes_on(
    database, address, server, monkeypatch
) -> None:
    fill(database)
    with monkeypatch.context() as patch:
        dying_at(patch, 2, lambda: server.stop("immediate"))
        with pytest.raises(
            RepdynError, match=r"library#documents.embedding: .* run the same command again"
        ) as raised:
            plan().apply_to_database(address, "v2")
    assert server.password not in str(raised.value)
    with pytest.raises(RepdynError, match="cannot be reached"):
        plan().apply_to_database(address, "v2")
    server.start()
    done = plan().apply_to_database(address, "v2")
    assert (done.translated, done.before) == (34, 16)
    with server.connect(database="library") as opened:
        np.testing.assert_allclose(np.array(column(opened, "v2")), by_numpy(X), atol=1e-5)


def test_rows_that_come_while_it_runs(database, address, server, monkeypatch) -> None:
    fill(database, first=100)
    with monkeypatch.context() as patch, server.connect(database="library") as other:
        dying_at(patch, 3, lambda: fill(other, X[:5]))  # before the rows that are done
        done = plan().apply_to_database(address, "v2")
    assert (done.translated, done.left) == (55, 0)
    with monkeypatch.context() as patch, server.connect(database="library") as other:
        fill(database, X[:20], first=200)
        extra = iter(range(10**6, 0, -10))
        # Rows come behind every pass; the run ends and says so.
        whole = filling._Filling.counted

        def counted(self):
            found = whole(self)
            fill(other, X[:1], first=next(extra))
            return found

        patch.setattr(filling._Filling, "counted", counted)
        done = plan().apply_to_database(address, "v2")
    assert done.left == 0 or "run the same command again" in repr(done)
    assert sum(v is None for v in column(database, "v2")) >= 1
    final = plan().apply_to_database(address, "v2")
    assert final.left == 0
    x = np.array(column(database, "embedding"))
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(x), atol=1e-4)


def test_a_writer_waits_for_the_block_and_its_row_is_then_its_own(
    database, address, server, monkeypatch
) -> None:
    """A vector that changes while its block is translated never gets the translation of another one."""
    fill(database)
    waited: list[bool] = []

    def write() -> None:
        with server.connect(database="library") as other:
            other.execute("UPDATE documents SET embedding = '[9,9,9,9]', v2 = NULL WHERE id = 17")

    writer = threading.Thread(target=write)

    def end() -> None:
        writer.start()
        writer.join(0.5)
        waited.append(writer.is_alive())

    with monkeypatch.context() as patch:
        dying_at(patch, 2, end)
        plan().apply_to_database(address, "v2")
    writer.join()
    assert waited == [True]
    plan().apply_to_database(address, "v2")
    x = X.copy()
    x[17] = 9
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(x), atol=1e-4)


def test_the_trigger_of_the_guide_marks_changed_rows(database, address) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "migrate.md").read_text()
    statements = guide.split("```sql\n", 1)[1].split("```", 1)[0]
    fill(database)
    plan().apply_to_database(address, "embedding_new")
    database.execute(statements)
    database.execute("UPDATE documents SET embedding = '[9,9,9,9]' WHERE id = 17")
    assert column(database, "embedding_new")[17] is None
    done = plan().apply_to_database(address, "embedding_new")
    assert done.translated == 1
    x = X.copy()
    x[17] = 9
    np.testing.assert_allclose(np.array(column(database, "embedding_new")), by_numpy(x), atol=1e-4)


def test_a_role_without_rights_is_told_what_its_owner_runs(database, server) -> None:
    fill(database)
    database.execute("DROP ROLE IF EXISTS reader")
    database.execute(sql.SQL("CREATE ROLE reader LOGIN PASSWORD {}").format(sql.Literal(server.password)))
    url = server.url("reader", "library") + "#documents.embedding"
    with pytest.raises(RepdynError, match="only the table's owner may add a column") as raised:
        plan().apply_to_database(url, "v2")
    statements = str(raised.value).split("The owner runs: ")[1].split("; then run")[0]
    database.execute(statements)
    for right in ("SELECT", "UPDATE (v2)"):
        with pytest.raises(RepdynError, match="no right"):
            plan().apply_to_database(url, "v2")
        database.execute(f"GRANT {right} ON documents TO reader")
    assert plan().apply_to_database(url, "v2").translated == 50
    np.testing.assert_allclose(np.array(column(database, "v2")), by_numpy(X), atol=1e-5)
    database.execute("ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
    database.execute("CREATE POLICY part ON documents USING (id > 10)")
    with pytest.raises(RepdynError, match="row-level security"):
        plan().apply_to_database(url, "v2")
    database.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_what_cannot_be_migrated_is_named(database, address, server) -> None:
    fill(database)
    database.execute("CREATE VIEW seen AS SELECT * FROM documents")
    database.execute("CREATE TABLE keyless (id int, embedding vector(4))")
    database.execute("CREATE UNIQUE INDEX ON keyless (id)")  # of a column that may be NULL
    database.execute("CREATE TABLE lists (id int PRIMARY KEY, embedding real[])")
    base = server.url(database="library")
    for end, message in {
        "#seen.embedding": "is a view",
        "#keyless.embedding": "no primary key",
        "#lists.embedding": r"holds real\[\]; expected vector or halfvec",
        "#document.embedding": "there is no table 'document'; nearest: 'documents'",
        "#documents.embeding": "no column 'embeding'; nearest: 'embedding'",
    }.items():
        with pytest.raises(RepdynError, match=message) as raised:
            plan().apply_to_database(base + end, "v2")
        assert server.password not in str(raised.value)
    with pytest.raises(RepdynError, match="use apply_to_database"):
        plan().apply(address, "a.npy")
    with pytest.raises(RepdynError, match="no address of a database"):
        plan().apply_to_database("a.npy")


def test_a_table_in_use_and_a_second_migration_are_refused(database, address, server, monkeypatch) -> None:
    fill(database)
    monkeypatch.setattr(filling, "_WAIT", "200ms")
    with server.connect(database="library") as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM documents")
        with pytest.raises(RepdynError, match="the table was in use"):
            plan().apply_to_database(address, "v2")
        other.execute("ROLLBACK")
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(RepdynError, match="another migration") as raised:
            plan().apply_to_database(address, "v3")
        refused.append(str(raised.value))

    with monkeypatch.context() as patch:
        dying_at(patch, 1, second)
        plan().apply_to_database(address, "v2")
    assert len(refused) == 1


def test_a_trigger_that_swallows_rows_is_noticed(database, address) -> None:
    fill(database)
    database.execute(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER "
        "skip BEFORE UPDATE ON documents FOR EACH ROW WHEN (OLD.id = 12) EXECUTE FUNCTION skip()"
    )
    with pytest.raises(RepdynError, match="8 rows were read and 7 were written"):
        plan().apply_to_database(address, "v2")
    assert sum(v is not None for v in column(database, "v2")) == 8


def test_an_address_shows_no_password(monkeypatch) -> None:
    column = database_column("postgresql://me:se%23cret@host:7/db?sslpassword=secret&password=secret#t.c")
    assert column is not None
    assert column.shown == "postgresql://me@host:7/db#t.c"
    assert "cret" not in repr(column)
    for wrong in (
        "postgresql://me:sec@ret@host/db",
        "postgresql://me:sec:ret@host:x:y/db?secret#t.c",
        "postgresql://me:secret@[host/db#t.c",
        "postgresql://me:secret@host/db?nonsense=secret#t.c",
        "postgresql://me:secret@host/db#t",
        "postgresql://me:secret@host/db#a.b.c.d",
        "postgresql://me:5#secret@host/db.x",
    ):
        with pytest.raises(RepdynError) as raised:
            database_column(wrong)
        assert "secret" not in str(raised.value).replace("secret#", "")
        assert "sec@" not in str(raised.value)
    for address in ("postgresql://me:secret@host/db#t.c", Path("postgres://me:secret@host/db#t.c")):
        with pytest.raises(RepdynError, match="read by `repdyn migrate` only") as raised:
            repdyn.translate(address, X)
        assert "secret" not in str(raised.value)
    assert database_column("a.parquet#t.c") is None
    assert database_column(X) is None
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RepdynError, match=r"pip install 'repdyn\[postgres\]"):
        database_column("postgresql://host/db#t.c")


# --- the decision, and the command ---


@pytest.fixture
def two_models(database, tmp_path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    z = generator.normal(size=(500, 8))
    a, b = z @ generator.normal(size=(8, 10)), z @ generator.normal(size=(8, 12))
    fill(database, a, "vector(10)")
    database.execute("UPDATE documents SET embedding = NULL WHERE id = 7")
    ids = range(100, 400)
    pq.write_table(pa.table({"id": ids, "v": list(b[100:400].astype(np.float32))}), "new.parquet")
    np.save("new.npy", b[100:400])
    return a, b


def test_the_command_migrates_a_table(command, server, database, address, two_models, monkeypatch) -> None:
    _, b = two_models
    words = ("migrate", address, "new.parquet#v", "--pairs", 200, "--column", "v2", "--out", "library")
    monkeypatch.setattr(sys, "argv", ["repdyn", *map(str, words)])
    status, out, err = command(*words, "--json", "a.json")
    assert status == 0, err
    told = json.loads(Path("a.json").read_text())["migrate"]
    assert told["decision"] == "migrate"
    assert told["vectors"] == 499
    assert told["database"]["missing"] == 1
    made = column(database, "v2")
    assert made.pop(7) is None
    np.testing.assert_allclose(np.array(made), np.delete(b, 7, axis=0), atol=0.2)
    monkeypatch.setattr("repdyn.migration.migrate", lambda *_, **__: pytest.fail("it decided again"))
    status, out, err = command(*words)  # all is done
    assert status == 0, err
    assert "499 were translated before" in out
    assert not Path("library").exists()
    for file in (Path("a.json"), *Path("library.migration").rglob("*")):
        content = file.read_bytes() if file.is_file() else b""
        assert server.password.encode() not in content
        assert address.split(":")[2].split("@")[0].encode() not in content  # nor as the URL writes it
    assert server.password not in out + err
    assert command("report", "library.migration", "--out", "r.html")[0] == 0
    assert b"p%40ss" not in Path("r.html").read_bytes()


def test_both_sides_may_be_columns_of_a_database(database, address, two_models) -> None:
    _, b = two_models
    database.execute("ALTER TABLE documents ADD COLUMN again vector(12)")
    with database.cursor() as cursor:
        rows = [(text(b[k]), k) for k in range(50, 350)]
        cursor.executemany("UPDATE documents SET again = %s WHERE id = %s", rows)
    fresh = address.replace(".embedding", ".again")
    first, second = (repdyn.migrate(address, fresh, pairs=250) for _ in range(2))
    assert first.decision == "migrate"
    assert first.pairs == 250
    np.testing.assert_array_equal(first.translation.matrix, second.translation.matrix)  # the same sample
    stored = repdyn.migrate(np.asarray(two_models[0]), fresh)  # no pairs: ids are not needed
    assert stored.pairs == 0
    with pytest.raises(RepdynError, match="pairs as rows"):
        repdyn.migrate(address, fresh, pairs=np.zeros((3, 2), int))
    for side in ("new.npy", b):
        with pytest.raises(RepdynError, match="new has no ids"):
            repdyn.migrate(address, side, pairs=20)


def test_pairs_are_found_among_more_rows_than_a_sample_has(
    database, address, two_models, monkeypatch
) -> None:
    from dataclasses import replace

    from repdyn.migration import plan as planning

    monkeypatch.setattr(planning, "MIGRATION", replace(planning.MIGRATION, sample=150))
    decided = repdyn.migrate(address, "new.parquet#v", pairs=140)
    assert decided.pairs == 140
    assert decided.decision == "migrate"


def test_the_command_refuses_and_keeps_the_table(command, database, address, two_models) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    noise = np.random.default_rng(1).normal(size=(300, 12)).astype(np.float32)
    pq.write_table(pa.table({"id": range(100, 400), "v": list(noise)}), "noise.parquet")
    words = ("migrate", address, "noise.parquet#v", "--pairs", 200, "--column", "v2", "--out", "m")
    status, out, _ = command(*words)
    assert status == 1
    assert "not written; --anyway" in out
    assert database.execute("SELECT count(*) FROM pg_attribute WHERE attname = 'v2'").fetchone() == (0,)
    assert command(*words, "--anyway")[0] == 0
    assert sum(v is not None for v in column(database, "v2")) == 499
