"""Files that are joined while a server writes and reads: nothing of the rows, the log or the proofs changes."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from conftest import BINARY, ROOT, World

VERIFIER = ROOT / "notebooks" / "verify" / "verify.py"
EVERYTHING = "SELECT * FROM audit.records ORDER BY leaf_index"


def line(number):
    return json.dumps(
        {
            "tenantId": "acme",
            "idempotencyKey": f"key-{number}",
            "createdAt": f"2025-10-28T{number % 24:02}:{number % 60:02}:00Z",
            "action": f"Thing.Did{number % 7}",
            "resource": {"type": "Thing", "id": f"thing-{number}"},
            "actor": {"type": "User", "id": f"user-{number % 5}"},
            "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"},
            "context": {"email": f"u{number}@acme.example", "note": f"note {number}"},
        }
    )


def send(world, numbers, token):
    """One request and, with acknowledgements by commit, one file."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"}
    body = "\n".join(map(line, numbers)).encode()
    request = urllib.request.Request(world.url("eu") + "/v1/audit/records:batch", body, headers)
    with urllib.request.urlopen(request) as answer:
        summary = json.loads(answer.read())["summary"]
    assert summary["accepted"] == len(numbers), summary


def fetch(world, path, token):
    request = urllib.request.Request(world.url("eu") + path, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


@pytest.fixture()
def own(tmp_path):
    world = World(tmp_path)
    with open(world.config, "a") as settings:
        settings.write("[tables]\nmaintenance = false\n")
    world.start()
    world.run("tenant", "create", "acme", "--silo", "eu")
    try:
        yield world
    finally:
        if world.process.poll() is None:
            world.stop()


def files(world, table="records"):
    shown = world.run("table", "stats", "--tenant", "acme")
    own = next(line for line in shown.splitlines() if line.startswith(table))
    words = own.split()
    return int(words[1]), int(words[4])


def verified(world, folder, record):
    """What both verifiers say of the whole table and of one record's proof."""
    token = world.token("acme", role="Admin")
    (folder / "acme.jwks").write_text(world.run("key", "export", "--tenant", "acme"))
    (folder / "now.json").write_bytes(fetch(world, f"/v1/audit/records/{record}/proof", token))
    audit = world.folder / "eu" / "tenants" / "acme" / "audit"
    jwks = ["--jwks", folder / "acme.jwks"]
    ran = [
        [BINARY, "verify", "table", "--tenant", "acme", *jwks, "--config", world.config],
        [BINARY, "verify", "proof", folder / "now.json", *jwks],
        [sys.executable, VERIFIER, "proof", folder / "now.json", *jwks],
        [sys.executable, VERIFIER, "table", audit / "records", "--log", audit / "log" / "audit.default", *jwks]
        + ["--keys", world.folder / "keys", "--silo", "eu"],
    ]
    for words in ran:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr


def test_joining_files_changes_nothing_that_anybody_can_see(own, tmp_path):
    writer = own.token("acme", scope="audit.write")
    for batch in range(12):
        send(own, range(batch * 10, batch * 10 + 10), writer)
    before = own.query(EVERYTHING)
    record = before["record_id"][57].as_py()
    time.sleep(2.5)
    verified(own, tmp_path, record)
    kept = (tmp_path / "now.json").read_bytes()
    assert files(own) == (120, 12)
    dry = own.run("table", "maintain", "--tenant", "acme", "--dry-run")
    assert "12 file(s) would be joined first" in dry and files(own) == (120, 12)
    done = own.run("table", "maintain", "--tenant", "acme", "--ticket", "OPS-7")
    assert "12 file(s) of 120 row(s) joined" in done, done
    noted = own.query("SELECT basis FROM audit.evidence WHERE operation = 'Table.Maintained'", tenant="_system", role="SecurityAdmin")["basis"].to_pylist()
    assert "Ticket.OPS-7" in noted[0] and "records: 12 file(s) of 120 row(s) joined" in str(noted[0]), noted
    # The server notices what another process did.
    assert own.query(EVERYTHING).equals(before)
    assert files(own) == (120, 1)
    send(own, range(120, 130), writer)
    time.sleep(2.5)
    verified(own, tmp_path, record)
    # What was kept from before is still good.
    (tmp_path / "kept.json").write_bytes(kept)
    for program in ([BINARY, "verify"], [sys.executable, VERIFIER]):
        words = [*program, "proof", tmp_path / "kept.json", "--jwks", tmp_path / "acme.jwks"]
        assert subprocess.run(list(map(str, words)), capture_output=True, timeout=60).returncode == 0
    after = own.query(EVERYTHING)
    assert after.num_rows == 130 and after.slice(0, 120).equals(before)
    # And a process that starts anew reads the same, and knows what it has taken already.
    assert own.stop() == 0
    own.start()
    assert own.query(EVERYTHING).equals(after)
    headers = {"authorization": f"Bearer {own.token('acme', scope='audit.write')}", "content-type": "application/json"}
    again = urllib.request.Request(own.url("eu") + "/v1/audit/records", line(3).encode(), headers)
    with urllib.request.urlopen(again) as answer:
        assert json.loads(answer.read())["duplicate"] is True
    assert files(own, "evidence")[1] > 0


def test_writers_readers_and_rewrites_go_on_beside_each_other_and_through_kills(own, tmp_path):
    writer, stop, failed, sent = own.token("acme", scope="audit.write"), threading.Event(), [], []

    def write():
        number = 0
        while not stop.is_set():
            numbers = range(number, number + 5)
            try:
                send(own, numbers, writer)
            except OSError:
                time.sleep(0.05)
                continue
            sent.extend(numbers)
            number += 5

    def rewrite():
        words = [BINARY, "table", "maintain", "--tenant", "acme", "--config", own.config]
        while not stop.is_set():
            process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                said, _ = process.communicate(timeout=0.6)
                if process.returncode != 0:
                    failed.append(said)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()

    threads = [threading.Thread(target=write), threading.Thread(target=rewrite), threading.Thread(target=rewrite)]
    for thread in threads:
        thread.start()
    seen = 0
    end = time.monotonic() + 12
    while time.monotonic() < end:
        rows = own.query("SELECT count(*) AS n, count(DISTINCT leaf_index) AS d FROM audit.records").to_pylist()[0]
        assert rows["n"] == rows["d"] >= seen, rows
        seen = rows["n"]
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    own.run("table", "maintain", "--tenant", "acme")
    rows, count = files(own)
    keys = own.query("SELECT idempotency_key AS k FROM audit.records")["k"].to_pylist()
    assert sorted(keys) == sorted(f"key-{number}" for number in sent) and rows == len(sent)
    assert count < 30, count
    time.sleep(2.5)
    verified(own, tmp_path, own.query("SELECT record_id FROM audit.records LIMIT 1")["record_id"][0].as_py())
