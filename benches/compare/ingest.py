"""Durable ingest side by side: Trailhouse, the deltalake package, PostgreSQL with row-level security.

One run, the three interleaved for each number of connections, each on a fresh folder of one disk:

    python benches/compare/ingest.py --trailhouse target/release/trailhouse --postgres /usr/lib/postgresql/15/bin

What each of them does for a record differs, and the table says it: Trailhouse parses, checks, redacts, hashes, seals
and encrypts, and has the record on disk when it answers; deltalake writes Parquet and a log entry and never calls
fsync; PostgreSQL writes its log with fsync on and checks the row against a policy.
"""

import argparse
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid

import pyarrow as pa

BATCH = 1_000
COLUMNS = (
    "tenant_id text, idempotency_key text primary key, created_at timestamptz, action text, resource_type text, "
    "resource_id text, actor_type text, actor_id text, trace_id text, labels jsonb, context jsonb"
)


def rows(count):
    """Made-up records of the same shape and size as those of `trailhouse bench`."""
    return [
        {
            "tenant_id": "bench",
            "idempotency_key": uuid.uuid4().hex,
            "created_at": "2026-01-02T03:04:05.678Z",
            "action": "s3.GetObject",
            "resource_type": "Bucket",
            "resource_id": f"bucket-{n % 500:04}",
            "actor_type": "User",
            "actor_id": f"arn:aws:iam::{4100 + n % 400:012}:user/ada.abe",
            "trace_id": uuid.uuid4().hex,
            "labels": json.dumps({"region": "eu-central-1", "readOnly": "true"}),
            "context": json.dumps(
                {
                    "sourceIPAddress": f"198.51.{n % 100}.{n % 250}",
                    "userAgent": "aws-cli/2.15",
                    "user": {"name": "Ada Abe", "email": "ada.abe@bench.example", "phone": "+49 30 555 0001"},
                    "bytes": n,
                }
            ),
        }
        for n in range(count)
    ]


def drive(name, connections, records_per_request, seconds, connect):
    """Runs one closed loop per connection; `connect()` gives a function that stores one request and returns."""
    senders = [connect() for _ in range(connections)]
    latencies, errors = [], []
    deadline = time.monotonic() + seconds

    def loop(send):
        while time.monotonic() < deadline:
            started = time.monotonic()
            try:
                send()
                latencies.append(time.monotonic() - started)
            except Exception as error:  # counted and shown: a refused request is a result
                errors.append(type(error).__name__)

    started = time.monotonic()
    threads = [threading.Thread(target=loop, args=(send,)) for send in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    latencies.sort()
    at = lambda q: 1_000 * latencies[int((len(latencies) - 1) * q)] if latencies else 0.0
    return {
        "system": name,
        "connections": connections,
        "records_per_request": records_per_request,
        "records_per_second": len(latencies) * records_per_request / took,
        "p50_ms": at(0.5),
        "p95_ms": at(0.95),
        "p99_ms": at(0.99),
        "errors": len(errors),
    }


class Trailhouse:
    """A server of its own folder, driven by its own load generator."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.flight, self.http, self.admin = free_port(), free_port(), free_port()
        config = folder / "trailhouse.toml"
        config.write_text(
            f'[keys]\nfolder = "{folder}/keys"\n[silos.local]\nroot = "{folder}/data"\n'
            f'flight = "127.0.0.1:{self.flight}"\nhttp = "127.0.0.1:{self.http}"\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n[wal]\nfolder = "{folder}/wal"\n'
            '[limits]\nwrite_requests_per_s = 0\nwrite_bytes_per_s = 0\nwrites_at_once = 1024\n'
            '[log]\nfilter = "error"\n'
        )
        self.command = [binary, "--config", str(config)]
        self.server = subprocess.Popen([*self.command, "serve"], stdout=subprocess.DEVNULL)
        wait_until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1).status == 200)
        subprocess.run([*self.command, "tenant", "create", "bench"], check=True, stdout=subprocess.DEVNULL)

    def run(self, connections, seconds):
        out = self.folder / "bench.json"
        subprocess.run(
            [*self.command, "bench", "ingest", "--tenant", "bench", "--connections", str(connections)]
            + ["--seconds", str(seconds), "--batch", str(BATCH), "--json", str(out)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for row in json.loads(out.read_text()):
            yield {
                "system": f"trailhouse {row['door']}",
                "connections": connections,
                "records_per_request": row["recordsPerRequest"],
                "records_per_second": row["recordsPerSecond"],
                "p50_ms": row["latencyMs"]["p50"],
                "p95_ms": row["latencyMs"]["p95"],
                "p99_ms": row["latencyMs"]["p99"],
                "errors": sum(row["refused"].values()),
            }

    def stop(self):
        self.server.terminate()
        self.server.wait(60)


class DeltaLake:
    """The deltalake package appending to a table of its own; every request is a commit."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, connections, seconds):
        from deltalake import write_deltalake

        for records in (1, BATCH):
            path = str(self.folder / f"table-{connections}-{records}")
            table = pa.Table.from_pylist(rows(records))
            write_deltalake(path, table)
            send = lambda: write_deltalake(path, table, mode="append")
            yield drive("deltalake append", connections, records, seconds, lambda: send)


class Postgres:
    """A private cluster with fsync on, and a role that a row policy holds to its tenant."""

    def __init__(self, binaries, folder):
        self.binaries, self.folder, self.port = pathlib.Path(binaries), folder, free_port()
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        data = folder / "cluster"
        if os.getuid() == 0:
            shutil.chown(folder, self.user)
        self.command("initdb", "-D", data, "-U", "owner", "--auth=trust")
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=100"
        self.command("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        with self.connect("owner") as owner:
            owner.execute(f"CREATE TABLE records ({COLUMNS})")
            owner.execute("CREATE ROLE writer LOGIN")
            owner.execute("GRANT INSERT, SELECT ON records TO writer")
            owner.execute("ALTER TABLE records ENABLE ROW LEVEL SECURITY")
            owner.execute(
                "CREATE POLICY own ON records USING (tenant_id = current_setting('app.tenant')) "
                "WITH CHECK (tenant_id = current_setting('app.tenant'))"
            )

    def command(self, name, *arguments):
        command = [str(self.binaries / name), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def connect(self, user):
        import psycopg

        return psycopg.connect(f"host=127.0.0.1 port={self.port} user={user} dbname=postgres", autocommit=True)

    def run(self, connections, seconds):
        names = list(rows(1)[0])
        types = [column.split()[1] for column in COLUMNS.split(", ")]
        one = f"INSERT INTO records VALUES ({', '.join(['%s'] * len(names))})"
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        many = f"INSERT INTO records SELECT * FROM unnest({arrays})"

        def session(user):
            connection = self.connect(user)
            connection.execute("SET app.tenant = 'bench'")
            return connection

        def inserting():
            writer = session("writer")
            return lambda: writer.execute(one, list(rows(1)[0].values()))

        def inserting_many():
            writer, pool = session("writer"), rows(BATCH)

            def send():
                renew(pool)
                writer.execute(many, [[row[name] for row in pool] for name in names])

            return send

        def copying():
            # PostgreSQL refuses COPY FROM to a role that row security applies to: this is the owner, without it.
            owner, pool = session("owner"), rows(BATCH)

            def send():
                renew(pool)
                with owner.cursor() as cursor, cursor.copy(f"COPY records ({', '.join(names)}) FROM STDIN") as copy:
                    for row in pool:
                        copy.write_row(list(row.values()))

            return send

        yield drive("postgresql INSERT, row security", connections, 1, seconds, inserting)
        yield drive("postgresql INSERT, row security", connections, BATCH, seconds, inserting_many)
        yield drive("postgresql COPY, no row security", connections, BATCH, seconds, copying)

    def stop(self):
        self.command("pg_ctl", "-D", self.folder / "cluster", "-w", "-m", "immediate", "stop")


def renew(pool):
    for row in pool:
        row["idempotency_key"] = uuid.uuid4().hex


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(ready, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the server did not get ready")
        time.sleep(0.05)


def show(results):
    print("| system | connections | records/request | records/s | p50 ms | p95 ms | p99 ms | errors |")
    print("|---|---|---|---|---|---|---|---|")
    for row in results:
        print(
            "| {system} | {connections} | {records_per_request} | {records_per_second:,.0f} | {p50_ms:.1f} | "
            "{p95_ms:.1f} | {p99_ms:.1f} | {errors} |".format(**row)
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trailhouse", required=True, help="the binary, release profile")
    parser.add_argument("--postgres", help="the folder of initdb, pg_ctl and postgres; left out: not compared")
    parser.add_argument("--connections", default="1,4,64")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--json", help="where to write the results")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        folders = [pathlib.Path(folder) / name for name in ("trailhouse", "deltalake", "postgres")]
        for one in folders:
            one.mkdir()
        systems = [Trailhouse(options.trailhouse, folders[0]), DeltaLake(folders[1])]
        if options.postgres:
            systems.append(Postgres(options.postgres, folders[2]))
        try:
            for connections in map(int, options.connections.split(",")):
                for system in systems:
                    results.extend(system.run(connections, options.seconds))
        finally:
            for system in systems:
                if hasattr(system, "stop"):
                    system.stop()
    show(results)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
