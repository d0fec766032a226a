"""Translation of stored vectors: seconds, processor time and memory, and what a run after ``kill -9`` gives.

    python benchmarks/migrate_speed.py --cache CACHE --out speed.jsonl [--rows N] [--forms npy parquet lance]
    python benchmarks/migrate_speed.py … --forms postgres --database postgresql://me@localhost/scratch

CACHE needs three times the vectors (1.5 GB for a million of width 384). The database is one of this machine
with pgvector; its table ``repdyn_speed`` is made and removed. Each run is a process of its own. ``growth`` is
its peak of own memory (GB) above that of a run of 20 000 vectors, which holds the programs. The killed run
gets SIGKILL after half the time; what the next run writes is compared with the first one's output.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, parser_of, table

from repdyn.migration import Migration
from repdyn.migration.plan import MIGRATE
from repdyn.translation import LinearTranslation

WIDTH, FEW = 384, 20_000
SOURCES = ("benchmarks/migrate_speed.py", "repdyn/migration")
CHILD = """
import sys
from repdyn.migration import Migration
plan = Migration.load(sys.argv[1])
if "://" in sys.argv[2] or ".lance" in sys.argv[2]:
    print(plan.apply_to_database(sys.argv[2], "v2"))
else:
    print(plan.apply(sys.argv[2], sys.argv[3]))
"""


def made_plan(folder: Path) -> Path:
    """A map between two models of one width, saved."""
    generator = np.random.default_rng(0)
    matrix = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0]
    t = LinearTranslation(matrix, *(0.1 * generator.normal(size=(2, WIDTH))), verdict="found")
    path = folder / "plan"
    if not path.exists():
        Migration(MIGRATE, "given", "found", t, "affine", {}, 0, 0, True, {}).save(path)
    return path


def vectors(rows: int, start: int) -> Any:
    """Unit vectors of some rows."""
    x = np.random.default_rng(start).normal(size=(rows, WIDTH)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made_source(form: str, rows: int, folder: Path, database: str | None) -> str:
    """The address of stored vectors."""
    blocks = [(start, min(10_000, rows - start)) for start in range(0, rows, 10_000)]
    path = folder / f"source-{rows}.{form}"
    if form == "npy":
        if not path.exists():
            x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, WIDTH))
            for start, count in blocks:
                x[start : start + count] = vectors(count, start)
            x.flush()
        return str(path)
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.exists():
            kind = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), WIDTH))])
            with pq.ParquetWriter(path, kind, use_dictionary=False) as writer:
                for start, count in blocks:
                    v = pa.FixedSizeListArray.from_arrays(pa.array(vectors(count, start).ravel()), WIDTH)
                    writer.write_table(pa.table([pa.array(range(start, start + count)), v], kind))
        return f"{path}#v"
    if form == "lance":
        import lance
        import pyarrow as pa

        if not path.exists():
            kind = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), WIDTH))])
            for start, count in blocks:
                v = pa.FixedSizeListArray.from_arrays(pa.array(vectors(count, start).ravel()), WIDTH)
                part = pa.table([pa.array(range(start, start + count)), v], kind)
                lance.write_dataset(part, path, mode="append" if start else "create")
        return f"{path}#v"
    import psycopg

    assert database is not None
    with psycopg.connect(database, autocommit=True) as opened:
        opened.execute("CREATE EXTENSION IF NOT EXISTS vector")
        opened.execute("DROP TABLE IF EXISTS repdyn_speed")
        opened.execute(f"CREATE TABLE repdyn_speed (id bigint PRIMARY KEY, v vector({WIDTH}))")
        form = np.dtype(
            [
                ("fields", ">i2"),
                ("b1", ">i4"),
                ("id", ">i8"),
                ("b2", ">i4"),
                ("w", ">i4"),
                ("v", ">f4", WIDTH),
            ]
        )
        for start, count in blocks:
            sent = np.zeros(count, form)
            sent["fields"], sent["b1"], sent["b2"], sent["w"] = 2, 8, 4 + 4 * WIDTH, WIDTH << 16
            sent["id"], sent["v"] = np.arange(start, start + count), vectors(count, start)
            with opened.cursor().copy("COPY repdyn_speed FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + sent.tobytes() + b"\xff\xff")
        opened.execute("VACUUM ANALYZE repdyn_speed")
        opened.execute("CHECKPOINT")
    return f"{database}#repdyn_speed.v"


def server_seconds(database: str | None) -> float:
    """Processor time of all processes of a server on this machine, those that ended included."""
    if database is None:
        return 0.0
    import psycopg

    with psycopg.connect(database) as opened:
        (folder,) = opened.execute("SHOW data_directory").fetchone() or ("",)
    head = int(Path(folder, "postmaster.pid").read_text().split()[0])
    ticks = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(place.parent.name) == head:
            ticks += sum(map(int, values[11:15]))
        elif int(values[1]) == head:
            ticks += sum(map(int, values[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def run(plan: Path, source: str, out: Path, kill_after: float | None = None) -> dict[str, float]:
    """One process: its seconds, processor time and peak memory in GB."""
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(plan), source, str(out)])
    if kill_after is not None:
        time.sleep(kill_after)
        child.send_signal(signal.SIGKILL)
    own, ended = 0, 0
    while not ended:  # memory of its own: pages of mapped files belong to the system, which takes them back
        with suppress(OSError, IndexError):
            lines = Path(f"/proc/{child.pid}/status").read_text()
            own = max(own, int(lines.split("RssAnon:")[1].split()[0]))
        time.sleep(0.1)
        ended, status, used = os.wait4(child.pid, os.WNOHANG)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise SystemExit(f"{source}: the run ended with {child.returncode}")
    wall = time.perf_counter() - begun
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": own / 2**20}


def digest(form: str, out: Path, source: str, database: str | None) -> str:
    """Of all translated vectors."""
    made = hashlib.sha256()
    if form == "lance":
        import lance

        for batch in lance.dataset(source.removesuffix("#v")).to_batches(columns=["v2"]):
            made.update(batch.column(0).flatten().to_numpy())
        return made.hexdigest()
    if form == "postgres":
        import psycopg

        with psycopg.connect(str(database)) as opened, opened.cursor("all", binary=True) as cursor:
            cursor.itersize = 2000
            cursor.execute("SELECT v2 FROM repdyn_speed ORDER BY id")
            for (value,) in cursor:
                made.update(value)
        return made.hexdigest()
    with out.open("rb") as file:
        for part in iter(lambda: file.read(1 << 24), b""):
            made.update(part)
    return made.hexdigest()


def empty(form: str, out: Path, source: str, database: str | None) -> None:
    """Remove what a run wrote."""
    out.unlink(missing_ok=True)
    if form == "lance":
        from datetime import timedelta

        import lance

        dataset = lance.dataset(source.removesuffix("#v"))
        dataset.drop_columns(["v2"])
        dataset.cleanup_old_versions(timedelta(0))
    if form == "postgres":
        import psycopg

        with psycopg.connect(str(database), autocommit=True) as opened:
            opened.execute("ALTER TABLE repdyn_speed DROP COLUMN IF EXISTS v2")
            opened.execute("VACUUM FULL repdyn_speed")
            opened.execute("CHECKPOINT")


def measured(form: str, rows: int, cache: Path, database: str | None) -> dict[str, Any]:
    """The row of one form."""
    plan, out, served = made_plan(cache), cache / f"out.{form}", database if form == "postgres" else None
    small = made_source(form, FEW, cache, database)
    few = run(plan, small, out)
    empty(form, out, small, database)
    source = made_source(form, rows, cache, database)
    before = server_seconds(served)
    whole = run(plan, source, out)
    row = {"form": form, "rows": rows, **whole, "server cpu": server_seconds(served) - before}
    row["growth"] = whole["peak"] - few["peak"]
    row["load"] = os.getloadavg()[0]
    first = digest(form, out, source, database)
    empty(form, out, source, database)
    run(plan, source, out, kill_after=0.5 * whole["wall"])
    row["seconds after kill -9"] = run(plan, source, out)["wall"]
    row["same after kill -9"] = digest(form, out, source, database) == first
    if form == "lance":
        empty(form, out, source, database)
    if form == "postgres":
        import psycopg

        with psycopg.connect(str(database), autocommit=True) as opened:
            opened.execute("DROP TABLE repdyn_speed")
    out.unlink(missing_ok=True)
    return row


def main() -> None:
    """Measure each form, then print the table."""
    parser = parser_of(__doc__, "cache", "out")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forms", nargs="*", default=["npy", "parquet"])
    parser.add_argument("--database", help="URL of PostgreSQL with pgvector on this machine")
    given = parser.parse_args()
    rows = Rows(given.out, ("form", "rows"), SOURCES)
    for form in given.forms:
        if rows.get(form, given.rows) is None:
            rows.add(measured(form, given.rows, given.cache, given.database))
    names = [
        "form",
        "rows",
        "wall",
        "cpu",
        "server cpu",
        "growth",
        "seconds after kill -9",
        "same after kill -9",
    ]
    lines = [
        [f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in names]
        for row in rows
    ]
    print(table(names, lines))


if __name__ == "__main__":
    main()
