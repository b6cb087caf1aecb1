"""Writers, readers and rewrites beside each other for minutes: nothing is lost or doubled, and every proof goes on to hold.

Writers send batches, now and then one again; the server joins files, and so does a second process without a pause; readers
compare as they go. At the end: the table against what was sent, row by row and in aggregates, with DuckDB over a plaintext
copy; the proofs of records from the first and the last minute; and both verifiers over everything.

    python soak.py --binary target/debug/trailhouse --minutes 10 --writers 10
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import tempfile
import threading
import time

AGAIN = 0.05
QUESTIONS = [
    "SELECT action, count(*) AS n FROM {t} GROUP BY action ORDER BY action",
    "SELECT resource_type, count(DISTINCT resource_id) AS n, min(created_at) AS low, max(created_at) AS high FROM {t} "
    "GROUP BY resource_type",
    "SELECT date_trunc('hour', created_at) AS h, count(*) AS n FROM {t} GROUP BY 1 ORDER BY 1",
    "SELECT idempotency_key FROM {t} WHERE resource_id = 'thing-4711' ORDER BY 1",
    "SELECT idempotency_key, action FROM {t} ORDER BY created_at DESC, idempotency_key DESC LIMIT 100",
]


def soak(minutes, count, size, folder):
    from conftest import World

    world = World(folder)
    world.start()
    try:
        return under(world, minutes, count, size, folder)
    finally:
        if world.process.poll() is None:
            world.stop()


def under(world, minutes, count, size, folder):
    import duckdb
    import pyarrow
    from test_compaction import files, line, send, verified

    world.run("tenant", "create", "acme", "--silo", "eu")
    token = world.token("acme", scope="audit.write")
    stop, sent, wrong, counts = threading.Event(), [[] for _ in range(count)], [], {"joined": 0, "read": 0, "again": 0}

    def write(number):
        chance, batch = random.Random(number), 0
        while not stop.is_set():
            first = (batch * count + number) * size
            numbers = range(first, first + size)
            send(world, numbers, token)
            sent[number].append(first)
            batch += 1
            if chance.random() < AGAIN:
                again(chance.choice(sent[number]))

    def again(first):
        counts["again"] += 1
        try:
            send(world, range(first, first + size), token)
            wrong.append(f"records {first}.. were taken twice")
        except AssertionError as error:
            if "duplicate" not in str(error):
                wrong.append(str(error))

    def rewrite():
        while not stop.is_set():
            counts["joined"] += joined(world)

    def read():
        seen = 0
        while not stop.is_set():
            rows = world.query("SELECT count(*) AS n, count(DISTINCT leaf_index) AS d FROM audit.records").to_pylist()[0]
            counts["read"] += 1
            if not rows["n"] == rows["d"] >= seen:
                wrong.append(f"a reader saw {rows} after {seen}")
            seen = rows["n"]

    def guarded(work, *words):
        try:
            work(*words)
        except Exception as error:  # noqa: BLE001 - whatever ends a thread is told of
            wrong.append(f"{work.__name__}: {error!r}")

    works = [(write, number) for number in range(count)] + [(rewrite,), (read,)]
    threads = [threading.Thread(target=guarded, args=work) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(min(20, minutes * 20))
    record = world.query("SELECT record_id FROM audit.records ORDER BY leaf_index LIMIT 1")["record_id"][0].as_py()
    (folder / "before").mkdir()
    time.sleep(minutes * 60 - min(20, minutes * 20))
    stop.set()
    for thread in threads:
        thread.join()
    assert world.stop() == 0
    world.start()
    joined(world)
    verified(world, folder, record)
    last = world.query("SELECT record_id FROM audit.records ORDER BY leaf_index DESC LIMIT 1")["record_id"][0].as_py()
    verified(world, folder / "before", last)
    numbers = [number for own in sent for first in own for number in range(first, first + size)]
    own = compared(duckdb, pyarrow, world, [json.loads(line(number)) for number in numbers], wrong)
    rows, left = files(world)
    print(f"{len(numbers)} records of {count} writers in {minutes} minutes, {counts['again']} batches sent again")
    print(f"{counts['joined']} files joined by the second process, {counts['read']} reads; {rows} rows in {left} files")
    print(f"{own} questions answered as DuckDB does over the plaintext copy; both verifiers: sound")
    if rows != len(numbers):
        wrong.append(f"{rows} rows, of {len(numbers)} records")
    return wrong


def joined(world):
    """How many files a process of its own joins until there is nothing more to join, however long that takes."""
    command = [world.binary, "table", "maintain", "--tenant", "acme", "--config", world.config]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(int(one.split()[1]) for one in done.stdout.splitlines() if one.endswith("joined"))


def compared(duckdb, pyarrow, world, records, wrong):
    """How many questions have DuckDB's answer over what was sent."""
    plain = pyarrow.table(
        {
            "idempotency_key": [record["idempotencyKey"] for record in records],
            "created_at": [record["createdAt"] for record in records],
            "action": [record["action"] for record in records],
            "resource_type": [record["resource"]["type"] for record in records],
            "resource_id": [record["resource"]["id"] for record in records],
        }
    )
    session = duckdb.connect()
    session.register("sent", plain)
    session.execute("CREATE TABLE plain AS SELECT * REPLACE (created_at::TIMESTAMP AS created_at) FROM sent")
    columns = ", ".join(plain.column_names).replace("created_at", "created_at AT TIME ZONE 'UTC' AS created_at")
    session.register("stored", world.query(f"SELECT {columns} FROM audit.records"))
    for one, other in (("plain", "stored"), ("stored", "plain")):
        differ = session.sql(f"SELECT count(*) FROM (FROM {one} EXCEPT ALL FROM {other})").fetchall()[0][0]
        if differ:
            wrong.append(f"{differ} rows of {one} are not in {other}")
    for question in QUESTIONS:
        rows = world.query(question.format(t="audit.records")).to_pylist()
        given = [tuple(value.replace(tzinfo=None) if hasattr(value, "tzinfo") else value for value in row.values()) for row in rows]
        if given != session.sql(question.format(t="plain")).fetchall():
            wrong.append(f"otherwise than DuckDB: {question}")
    return len(QUESTIONS)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--binary", type=pathlib.Path, required=True)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--writers", type=int, default=10)
    arguments.add_argument("--batch", type=int, default=100)
    given = arguments.parse_args()
    os.environ["TRAILHOUSE_BIN"] = str(given.binary.resolve())
    with tempfile.TemporaryDirectory() as place:
        faults = soak(given.minutes, given.writers, given.batch, pathlib.Path(place))
    for fault in faults[:20]:
        print(fault)
    raise SystemExit(1 if faults else 0)
