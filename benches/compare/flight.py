"""Reading over Flight SQL: a full scan beside a bare server, first batches, and five hundred clients at once.

    python benches/compare/flight.py --trailhouse target/release/trailhouse

The bare server is Arrow's own (C++) and streams DataFusion's scan of the same rows as plaintext Parquet: no caller, no
policy, no masks, no encryption, no receipt. It is asked in turn with Trailhouse by one client, medians of the rounds; as
`memory` it streams the same batches without reading anything.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as parquet

SCAN = "SELECT * FROM audit.records"
FILES = 4


def bare(folder, port):
    """Serves what is in a folder, in this process."""
    import datafusion

    class Bare(flight.FlightServerBase):
        kept = None

        def do_get(self, _, ticket):
            if ticket.ticket == b"memory":
                self.kept = self.kept or self.scan().read_all()
                return flight.RecordBatchStream(self.kept)
            return flight.RecordBatchStream(self.scan())

        def scan(self):
            # The types that Trailhouse sends: no views.
            config = datafusion.SessionConfig({"datafusion.execution.parquet.schema_force_view_types": "false"})
            return pa.RecordBatchReader.from_stream(datafusion.SessionContext(config).read_parquet(folder))

    Bare(f"grpc://127.0.0.1:{port}").serve()


def field(number, value):
    """A field of a protobuf message that is bytes."""
    value = value.encode() if isinstance(value, str) else value
    size, length = bytearray(), len(value)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + value


def command(sql):
    name = "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return field(1, name) + field(2, field(1, sql))


class Server:
    """A Trailhouse of its own, in a folder of its own."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.config = binary, folder, folder / "trailhouse.toml"
        self.port, self.http, self.admin = free_port(), free_port(), free_port()
        self.config.write_text(
            f'[keys]\nfolder = "{folder}/keys"\n[wal]\nfolder = "{folder}/wal"\n'
            f'[queries]\nspill_folder = "{folder}/spill"\nat_once = 128\ntenant_at_once = 128\nwait_ms = 60000\nreuse_ms = 0\n'
            "[limits]\nwrite_requests_per_s = 0\nwrite_bytes_per_s = 0\nwrites_at_once = 1024\nquery_requests_per_s = 0\n"
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n[log]\nfilter = "error"\n'
            f'[silos.local]\nroot = "{folder}/data"\nflight = "127.0.0.1:{self.port}"\nhttp = "127.0.0.1:{self.http}"\n'
        )
        self.start()
        self.run("tenant", "create", "bench")

    def start(self):
        self.process = subprocess.Popen([self.binary, "serve", "--config", self.config], stdout=subprocess.DEVNULL)
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz").close()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)

    def run(self, *words):
        words = [self.binary, *map(str, words), "--config", self.config]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def rss(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def drain(client, ticket, options):
    """Reads an answer; its rows, its bytes, and when it began."""
    started = time.perf_counter()
    rows = size = 0
    first = None
    for chunk in client.do_get(ticket, options):
        first = first or time.perf_counter() - started
        rows += chunk.data.num_rows
        size += chunk.data.nbytes
    return rows, size, first, time.perf_counter() - started


def ready(client):
    while True:
        try:
            return client.wait_for_available(timeout=1)
        except flight.FlightError:
            time.sleep(0.1)


def scans(server, records, rounds, folder):
    """Full scans: Trailhouse, the bare server over Parquet, the bare server over memory."""
    token = server.run("token", "--tenant", "bench", "--role", "Investigator")
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
    guarded = flight.FlightClient(f"grpc://127.0.0.1:{server.port}")

    def ticket():
        info = guarded.get_flight_info(flight.FlightDescriptor.for_command(command(SCAN)), options)
        return info.endpoints[0].ticket

    plain = folder / "plain"
    plain.mkdir()
    table = guarded.do_get(ticket(), options).read_all()
    assert table.num_rows >= records, table.num_rows
    each = -(-table.num_rows // FILES)
    for number in range(FILES):
        part = table.slice(number * each, each)
        parquet.write_table(part, plain / f"{number}.parquet", compression="zstd", row_group_size=131_072)
    del table
    port = free_port()
    words = [sys.executable, __file__, "--bare", str(plain), "--port", str(port)]
    process = subprocess.Popen(words)
    try:
        unguarded = flight.FlightClient(f"grpc://127.0.0.1:{port}")
        ready(unguarded)
        asked = {
            "trailhouse": lambda: drain(guarded, ticket(), options),
            "bare, Parquet": lambda: drain(unguarded, flight.Ticket(b"scan"), None),
            "bare, memory": lambda: drain(unguarded, flight.Ticket(b"memory"), None),
        }
        times = {name: [] for name in asked}
        for round in range(rounds + 1):
            for name, ask in asked.items():
                answer = ask()
                if round:
                    times[name].append(answer)
        own = statistics.median(whole for *_, whole in times["trailhouse"])
        for name, answers in times.items():
            rows, size, *_ = answers[0]
            whole = statistics.median(whole for *_, whole in answers)
            first = statistics.median(first for *_, first, _ in answers)
            print(
                f"{name:<14} {rows} rows {size / 1e6:.0f} MB in {whole:.2f} s: {rows / whole:,.0f} rows/s, "
                f"{size / whole / 1e6:.0f} MB/s, first batch {first * 1e3:.0f} ms, trailhouse is {whole / own:.2f} of it"
            )
    finally:
        process.kill()


def crowd(server, connections, seconds):
    """Many clients at once, and the most memory that was seen meanwhile."""
    peak, stop = [server.rss()], threading.Event()

    def watch():
        while not stop.wait(0.5):
            peak.append(server.rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    print(server.run("bench", "query", "--tenant", "bench", "--connections", connections, "--seconds", seconds))
    stop.set()
    watcher.join()
    print(f"RSS {peak[0]:.0f} MB before, {max(peak):.0f} MB at the most")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--trailhouse", type=pathlib.Path)
    arguments.add_argument("--records", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--connections", type=int, default=500)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--bare", help=argparse.SUPPRESS)
    arguments.add_argument("--port", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.bare:
        return bare(given.bare, given.port)
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    server = Server(given.trailhouse.resolve(), folder)
    try:
        stored = 0
        while stored < given.records:
            result = folder / "load.json"
            server.run("bench", "ingest", "--tenant", "bench", "--format", "flight", "--connections", 4, "--json", result)
            stored += sum(run["stored"] for run in json.loads(result.read_text()))
        server.process.terminate()
        assert server.process.wait(120) == 0
        server.start()
        scans(server, stored, given.rounds, folder)
        for connections in (1, given.connections):
            crowd(server, connections, given.seconds)
    finally:
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
