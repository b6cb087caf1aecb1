"""One real server for all tests: two silos, two tenants, the 310 real CloudTrail events in each."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import adbc_driver_flightsql.dbapi as adbc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ["TRAILHOUSE_BIN"])
EVENTS = ROOT / "tests" / "data" / "cloudtrail"
START_SECONDS_MAX = 60


def free_ports(count):
    """Below those that the system gives to clients: a server that comes back finds its port, and nobody else on it."""
    ports = []
    while len(ports) < count:
        port = random.randint(10_000, 30_000)
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class World:
    """A running server and the command line against it."""

    binary = BINARY

    def __init__(self, folder, ack="commit"):
        self.folder = folder
        names = ["eu_flight", "eu_http", "us_flight", "us_http", "admin"]
        self.ports = dict(zip(names, free_ports(len(names))))
        self.config = folder / "trailhouse.toml"
        silos = "".join(
            f'[silos.{silo}]\nroot = "file://{folder}/{silo}"\n'
            f'flight = "127.0.0.1:{self.ports[silo + "_flight"]}"\nhttp = "127.0.0.1:{self.ports[silo + "_http"]}"\n'
            for silo in ("eu", "us")
        )
        self.config.write_text(
            f'[control]\nroot = "file://{folder}/control"\n[keys]\nfolder = "{folder}/keys"\n'
            # "commit": answers come when a record is in its table, so that a test can read it at once.
            f'[wal]\nfolder = "{folder}/wal"\nack = "{ack}"\n[queries]\nspill_folder = "{folder}/spill"\n'
            f'[admin]\nlisten = "127.0.0.1:{self.ports["admin"]}"\n{silos}'
        )
        self.process = None

    def start(self, stdout=None, stderr=None):
        log = open(self.folder / "server.log", "ab")
        command = [BINARY, "serve", "--config", self.config]
        self.process = subprocess.Popen(command, stdout=stdout or log, stderr=stderr or log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}/readyz", timeout=1):
                    return
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.05)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def run(self, *words, ok=True):
        done = subprocess.run([BINARY, *words, "--config", self.config], capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout if ok else done.stderr

    def token(self, tenant, role=None, scope=None):
        words = ["token", "--tenant", tenant]
        words += ["--role", role] if role else []
        words += ["--scope", scope] if scope else []
        return self.run(*words).strip()

    def url(self, silo):
        return f"http://127.0.0.1:{self.ports[silo + '_http']}"

    def connect(self, tenant, silo, role, compression=None):
        options = {"adbc.flight.sql.authorization_header": f"Bearer {self.token(tenant, role)}"}
        if compression:
            options["adbc.flight.sql.rpc.call_header.x-trailhouse-compression"] = compression
        return adbc.connect(f"grpc://127.0.0.1:{self.ports[silo + '_flight']}", options, autocommit=True)

    def query(self, sql, tenant="acme", silo="eu", role="Investigator"):
        with self.connect(tenant, silo, role) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    world.start()
    try:
        for tenant, silo in (("acme", "eu"), ("globex", "us")):
            world.run("tenant", "create", tenant, "--silo", silo)
            world.run("ingest", "--tenant", tenant, "--format", "cloudtrail", "--url", world.url(silo), str(EVENTS))
        world.run("tenant", "create", "initech", "--silo", "eu")
        yield world
    finally:
        if world.process.poll() is None:
            world.stop()
