"""Kills a server under load, at random moments, again and again, and checks what it acknowledged against what it has.

Writers of two tenants in two silos send records with keys of their own: one at a time, in batches, as data frames. Each
sends the next ones only when it has an answer for the last, so its records have to be in the log in the order it sent
them; what was not answered it sends again, or now and then gives up. Between two lives of the server its index of keys is
sometimes deleted, since it can be built anew.

    python kill.py --binary target/debug/trailhouse --kills 1000 [--seed 7]
"""

import argparse
import base64
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow

MARK = "Kx7Qw-canary"
SINGLE, BATCH, FRAME = "single", "batch", "frame"
# (tenant, silo, door, stream)
WRITERS = [
    (tenant, silo, door, stream)
    for tenant, silo in (("acme", "eu"), ("globex", "us"))
    for door, stream in (
        (SINGLE, "audit.default"),
        (SINGLE, "audit.security"),
        (BATCH, "audit.default"),
        (BATCH, "audit.security"),
        (FRAME, "audit.default"),
    )
]
MOMENT = 1_767_323_045_678_000
VISIBLE_SECONDS_MAX = 60
GIVE_UP, AGAIN = 0.1, 0.05


class Unanswered(Exception):
    """The server died, or said that it cannot store this now."""


class Writer(threading.Thread):
    """One client: its records, and what it was told of each."""

    def __init__(self, loop, number, seed):
        super().__init__(daemon=True)
        self.loop, self.number = loop, number
        self.tenant, self.silo, self.door, self.stream = WRITERS[number]
        self.random = random.Random(seed)
        self.sent, self.acknowledged, self.tried = [], {}, set()
        self.connection, self.busy = None, False
        self.counts = collections.Counter()

    def run(self):
        try:
            while not self.loop.over.is_set():
                self.loop.going.wait(0.2)
                self.busy = self.loop.going.is_set()
                if self.busy:
                    self.store(self.keys())
                    self.busy = False
                    time.sleep(self.random.uniform(0, self.loop.pause))
        except Exception as error:
            self.loop.wrong.append(f"writer {self.number}: {error!r}")

    def keys(self):
        if self.acknowledged and self.random.random() < AGAIN:
            return [self.random.choice(list(self.acknowledged))]
        first = len(self.sent)
        count = 1 if self.door == SINGLE else self.random.randint(1, 8)
        return [f"{MARK}-{self.number}-{n}" for n in range(first, first + count)]

    def store(self, keys):
        self.sent += [key for key in keys if key not in self.tried]
        self.tried.update(keys)
        while not self.loop.over.is_set():
            self.loop.up.wait(0.2)
            if not self.loop.up.is_set():
                continue
            try:
                return self.send(keys)
            except (Unanswered, OSError, http.client.HTTPException, adbc_driver_manager.Error):
                self.counts["unanswered"] += 1
                self.close()
                if self.random.random() < GIVE_UP and not self.loop.ending.is_set():
                    return None
                time.sleep(0.02)

    def close(self):
        connection, self.connection = self.connection, None
        if connection:
            try:
                connection.close()
            except adbc_driver_manager.Error:
                pass

    def send(self, keys):
        if self.door == FRAME:
            return self.load(keys)
        if not self.connection:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.loop.world.ports[f"{self.silo}_http"], timeout=90)
        path, kind = ("", "json") if self.door == SINGLE else (":batch", "x-ndjson")
        headers = {"content-type": f"application/{kind}", "authorization": f"Bearer {self.loop.writers_tokens[self.tenant]}"}
        body = "\n".join(json.dumps(self.record(key)) for key in keys)
        self.connection.request("POST", f"/v1/audit/records{path}?stream={self.stream}", body, headers)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        results = answer.get("results", []) if self.door == BATCH else [{"status": response.status, **answer}]
        for key, result in zip(keys, results):
            if result["status"] == 200:
                self.acknowledge(key, result)
            elif result["status"] not in (429, 503):
                self.loop.wrong.append(f"{key} was answered {json.dumps(result)}")
        if response.status in (429, 503) or len(results) < len(keys) or any(r["status"] != 200 for r in results):
            self.counts["refused"] += 1
            raise Unanswered
        return None

    def load(self, keys):
        size = len(keys)
        table = pyarrow.table(
            {
                "idempotency_key": pyarrow.array(keys),
                "created_at": pyarrow.array([MOMENT] * size, pyarrow.timestamp("us", "UTC")),
                "action": pyarrow.array(["Order.Placed"] * size),
                "resource_type": pyarrow.array(["Order"] * size),
                "resource_id": pyarrow.array([f"{MARK}-17"] * size),
                "actor_type": pyarrow.array(["User"] * size),
                "actor_id": pyarrow.array([f"{MARK}-ann"] * size),
                "trace_id": pyarrow.array(["4bf92f3577b34da6a3ce929d0e0e4736"] * size),
                "context": pyarrow.array([json.dumps(self.context(key)) for key in keys]),
                "stream": pyarrow.array([self.stream] * size),
            }
        )
        if not self.connection:
            address = f"grpc://127.0.0.1:{self.loop.world.ports[self.silo + '_flight']}"
            header = {"adbc.flight.sql.authorization_header": f"Bearer {self.loop.writers_tokens[self.tenant]}"}
            self.connection = adbc.connect(address, header, autocommit=True)
        with self.connection.cursor() as cursor:
            cursor.adbc_ingest("records", table, mode="append", db_schema_name="audit")
        for key in keys:
            self.acknowledge(key, None)

    def record(self, key):
        return {
            "tenantId": self.tenant,
            "idempotencyKey": key,
            "createdAt": "2026-01-02T03:04:05.678Z",
            "action": "Order.Placed",
            "resource": {"type": "Order", "id": f"{MARK}-17"},
            "actor": {"type": "User", "id": f"{MARK}-ann"},
            "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"},
            "context": self.context(key),
        }

    @staticmethod
    def context(key):
        return {"of": key, "password": f"{MARK}-secret", "ssn": f"{MARK}-ssn"}

    def acknowledge(self, key, result):
        told = result and (result["recordId"], result["leafIndex"])
        self.counts["answers"] += 1
        if result and result["duplicate"]:
            self.counts["duplicates"] += 1
        before = self.acknowledged.setdefault(key, told)
        if before is not None and told is not None and before != told:
            self.loop.wrong.append(f"{key}: {before} at first, {told} later")
        if before is not None and before is not told and not result["duplicate"]:
            self.loop.wrong.append(f"{key} was stored again")


class Loop:
    """A server's many lives."""

    def __init__(self, world, seed, load_seconds=0.8, pause=0.06):
        self.world, self.seed, self.load_seconds, self.pause = world, seed, load_seconds, pause
        self.random = random.Random(seed)
        self.up, self.going, self.ending, self.over = (threading.Event() for _ in range(4))
        self.wrong, self.counts = [], collections.Counter()
        self.text = world.config.read_text()
        self.started = time.monotonic()
        self.writers, self.writers_tokens = [], {}

    def begin(self):
        self.start()
        for tenant, silo in (("acme", "eu"), ("globex", "us")):
            self.world.run("tenant", "create", tenant, "--silo", silo)
            self.writers_tokens[tenant] = self.world.token(tenant, scope="audit.write")
        self.writers = [Writer(self, number, f"{self.seed}-{number}") for number in range(len(WRITERS))]
        self.going.set()
        for writer in self.writers:
            writer.start()

    def start(self):
        age = self.random.choice([20, 200, 1000])
        self.world.config.write_text(
            self.text.replace("[wal]\n", f"[wal]\nflush_age_ms = {age}\nsegment_bytes = {1 << 20}\n")
        )
        self.world.start()
        self.up.set()

    def kill(self):
        self.up.clear()
        assert self.world.stop(signal.SIGKILL) == -signal.SIGKILL
        self.counts["kills"] += 1
        index = self.world.folder / "wal" / "dedup.redb"
        if self.random.random() < 0.1 and index.exists():
            index.unlink()
            self.counts["indexes deleted"] += 1

    def run(self, kills, check_every):
        """Kills so many times, checks now and then; what is wrong is in `wrong`."""
        self.begin()
        while self.counts["kills"] < kills and not self.wrong:
            time.sleep(self.random.uniform(0, self.load_seconds))
            self.kill()
            if self.random.random() < 0.2 and self.counts["kills"] < kills:
                self.die_early()
            if self.counts["kills"] % check_every == 0:
                self.scan([self.world.folder / "wal"])
                self.start()
                self.check()
            else:
                self.start()
        self.finish()
        return self.summary()

    def die_early(self):
        """A life that ends before it has begun, or while it recovers."""
        log = open(self.world.folder / "server.log", "ab")
        command = [self.world.binary, "serve", "--config", self.world.config]
        self.world.process = subprocess.Popen(command, stdout=log, stderr=log)
        time.sleep(self.random.uniform(0, 0.6))
        self.counts["killed while starting"] += 1
        self.kill()

    def finish(self):
        self.ending.set()
        self.going.clear()
        # Everybody gets the answer that is still missing.
        deadline = time.monotonic() + 120
        time.sleep(0.5)
        while any(writer.busy and writer.is_alive() for writer in self.writers) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.over.set()
        for writer in self.writers:
            writer.join(timeout=120)
            writer.close()
        self.check()
        self.up.clear()
        if self.world.stop() != 0:
            self.wrong.append("the server did not stop cleanly")
        self.start()
        rows = self.check()
        self.world.stop()
        self.check_logs(rows)
        self.scan([self.world.folder / name for name in ("eu", "us", "control", "wal", "server.log")])
        # A scan that finds nothing has to be one that could.
        planted = self.world.folder / "planted"
        planted.write_text(f"x{MARK}")
        before = len(self.wrong)
        self.scan([planted])
        assert len(self.wrong) == before + 1
        self.wrong.pop()

    def check(self):
        """Compares what the writers were told with what is in the tables; gives the rows."""
        acknowledged = {writer.number: dict(writer.acknowledged) for writer in self.writers}
        found = {}
        for tenant, silo in (("acme", "eu"), ("globex", "us")):
            wanted = {key for w in self.writers if w.tenant == tenant for key in acknowledged[w.number]}
            found[tenant] = self.read(tenant, silo, wanted)
        for tenant, rows in found.items():
            self.check_tenant(tenant, rows, acknowledged)
        self.counts["checks"] += 1
        return found

    def read(self, tenant, silo, wanted):
        deadline = time.monotonic() + VISIBLE_SECONDS_MAX
        sql = "SELECT idempotency_key, record_id, stream, leaf_index, context FROM audit.records"
        while True:
            rows = self.world.query(sql, tenant, silo).to_pylist()
            missing = wanted - {row["idempotency_key"] for row in rows}
            if not missing:
                return rows
            if time.monotonic() > deadline:
                self.wrong.append(f"{tenant}: {len(missing)} acknowledged records are missing: {sorted(missing)[:5]}")
                return rows
            time.sleep(0.1)

    def check_tenant(self, tenant, rows, acknowledged):
        by_key = collections.defaultdict(list)
        leaves = collections.defaultdict(list)
        for row in rows:
            by_key[row["idempotency_key"]].append(row)
            leaves[row["stream"]].append(row["leaf_index"])
            context = json.loads(row["context"])
            if context.get("of") != row["idempotency_key"]:
                self.wrong.append(f"{row['idempotency_key']} has another record's content")
            if MARK in json.dumps({name: value for name, value in context.items() if name != "of"}):
                self.wrong.append(f"{row['idempotency_key']} shows a value that is redacted")
        for key, rows_of_key in by_key.items():
            if len(rows_of_key) > 1:
                self.wrong.append(f"{key} is there {len(rows_of_key)} times")
        for stream, numbers in leaves.items():
            if sorted(numbers) != list(range(len(numbers))):
                self.wrong.append(f"{tenant} {stream}: the leaves of {len(numbers)} records are not 0, 1, 2, …")
        writers = [writer for writer in self.writers if writer.tenant == tenant]
        sent = {key for writer in writers for key in list(writer.sent)}
        if not by_key.keys() <= sent:
            self.wrong.append(f"{tenant} has records that nobody sent")
        for writer in writers:
            in_order = [by_key[key][0]["leaf_index"] for key in list(writer.sent) if key in by_key]
            if in_order != sorted(in_order):
                self.wrong.append(f"the records of writer {writer.number} are not in the order they were sent in")
            for key, told in acknowledged[writer.number].items():
                if told and key in by_key:
                    row = by_key[key][0]
                    if told != (row["record_id"], row["leaf_index"]):
                        self.wrong.append(f"{key} was told {told} and is {row['record_id']}, {row['leaf_index']}")

    def check_logs(self, found):
        """The newest commits say as many leaves as there are records."""
        for tenant, silo in (("acme", "eu"), ("globex", "us")):
            log = self.world.folder / silo / "tenants" / tenant / "audit" / "records" / "_delta_log"
            sizes, counted = {}, {}
            for path in sorted(log.glob("*.json")):
                for line in path.read_text().splitlines():
                    action = json.loads(line)
                    for name, value in action.get("commitInfo", {}).items():
                        if name.startswith("th.tree:"):
                            sizes[name.removeprefix("th.tree:")] = value["size"]
                    if action.get("txn", {}).get("appId", "").startswith("th.log:"):
                        counted[action["txn"]["appId"].removeprefix("th.log:")] = action["txn"]["version"]
            rows = collections.Counter(row["stream"] for row in found[tenant])
            if not dict(rows) == sizes == counted:
                self.wrong.append(f"{tenant}: {dict(rows)} records, trees {sizes}, transactions {counted}")

    def scan(self, places):
        """Looks for what was sent in the bytes of every file."""
        needles = [MARK.encode()] + [base64.b64encode(b"x" * n + MARK.encode())[4:-4] for n in range(1, 4)]
        paths = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
        for path in paths:
            if path.is_file():
                content = path.read_bytes()
                self.counts["files looked through"] += 1
                if any(needle in content for needle in needles):
                    self.wrong.append(f"{path.relative_to(self.world.folder)} has a value in clear")

    def summary(self):
        total = sum((writer.counts for writer in self.writers), collections.Counter())
        return {
            "seed": self.seed,
            **dict(self.counts),
            "acknowledged": sum(len(writer.acknowledged) for writer in self.writers),
            "given up": sum(len(set(writer.sent) - writer.acknowledged.keys()) for writer in self.writers),
            **dict(total),
            "seconds": round(time.monotonic() - self.started, 1),
        }


def seed_of_the_run():
    return int(os.environ.get("TRAILHOUSE_SEED") or random.SystemRandom().randrange(1 << 32))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--kills", type=int, default=1000)
    arguments.add_argument("--check-every", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=None)
    arguments = arguments.parse_args()
    os.environ["TRAILHOUSE_BIN"] = arguments.binary
    from conftest import World

    seed = seed_of_the_run() if arguments.seed is None else arguments.seed
    print(f"kill -9: seed {seed}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trailhouse-kill-"))
    loop = Loop(World(folder, ack="wal"), seed)
    print("kill -9:", json.dumps(loop.run(arguments.kills, arguments.check_every)))
    for wrong in loop.wrong[:20]:
        print("WRONG:", wrong)
    if loop.wrong:
        sys.exit(f"seed {seed}; everything lies in {folder}")
    subprocess.run(["rm", "-r", folder], check=True)


if __name__ == "__main__":
    main()
