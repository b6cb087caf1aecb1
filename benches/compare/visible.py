"""From acknowledged to visible: how long a record that was answered for is not in the answer of a query yet.

Each tenant sends one record at a time and asks for it by SQL until it is there:

    python benches/compare/visible.py --trailhouse target/release/trailhouse --tenants 20
"""

import argparse
import functools
import http.client
import json
import pathlib
import subprocess
import tempfile
import threading
import time
import uuid

import adbc_driver_flightsql.dbapi as adbc

from ingest import Trailhouse, rows

POLL_SECONDS = 0.02
LOST_SECONDS = 30


def sent(record):
    """A row of the comparison as the HTTP door wants it."""
    return {
        "tenantId": record["tenant_id"],
        "idempotencyKey": record["idempotency_key"],
        "createdAt": record["created_at"],
        "action": record["action"],
        "resource": {"type": record["resource_type"], "id": record["resource_id"]},
        "actor": {"type": record["actor_type"], "id": record["actor_id"]},
        "correlation": {"traceId": record["trace_id"]},
    }


def watch(server, tenant, seconds, waits):
    """Sends records one after the other and notes how long each stays out of sight."""
    token = subprocess.run(
        [*server.command, "token", "--tenant", tenant, "--role", "Audit.Admin"], check=True, capture_output=True, text=True
    ).stdout.strip()
    door = http.client.HTTPConnection("127.0.0.1", server.http, timeout=60)
    header = {"adbc.flight.sql.authorization_header": f"Bearer {token}"}
    with adbc.connect(f"grpc://127.0.0.1:{server.flight}", db_kwargs=header, autocommit=True) as connection:
        cursor = connection.cursor()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            record = {**rows(1)[0], "tenant_id": tenant, "trace_id": uuid.uuid4().hex}
            door.request(
                "POST",
                "/v1/audit/records",
                json.dumps(sent(record)),
                {"content-type": "application/json", "authorization": f"Bearer {token}"},
            )
            answer = door.getresponse()
            told = json.loads(answer.read())
            assert answer.status == 200, told
            acknowledged = time.monotonic()
            while True:
                cursor.execute(f"SELECT leaf_index FROM records WHERE record_id = '{told['recordId']}'")
                if cursor.fetchall():
                    break
                assert time.monotonic() - acknowledged < LOST_SECONDS, "an acknowledged record does not show up"
                time.sleep(POLL_SECONDS)
            waits.append(time.monotonic() - acknowledged)


def faultless(work, faults):
    """What a thread dies of ends the run, too."""
    try:
        work()
    except BaseException as fault:
        faults.append(fault)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trailhouse", required=True, help="the binary, release profile")
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Trailhouse(options.trailhouse, pathlib.Path(folder))
        try:
            names = [f"tenant-{number}" for number in range(options.tenants)]
            for name in names:
                subprocess.run([*server.command, "tenant", "create", name], check=True, stdout=subprocess.DEVNULL)
            waits, faults = [], []
            works = [functools.partial(watch, server, name, options.seconds, waits) for name in names]
            threads = [threading.Thread(target=faultless, args=(work, faults)) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if faults:
                raise faults[0]
        finally:
            server.stop()
    waits.sort()
    at = lambda q: waits[int((len(waits) - 1) * q)]
    print("| tenants | records | p50 ms | p95 ms | p99 ms | max ms |")
    print("|---|---|---|---|---|---|")
    shown = [f"{1000 * value:,.0f}" for value in (at(0.5), at(0.95), at(0.99), waits[-1])]
    print(f"| {options.tenants} | {len(waits)} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
