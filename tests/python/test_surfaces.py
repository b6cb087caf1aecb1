"""Logs, metrics, error texts and plans of a server that logs all it can: no value of a record, no text of a statement."""

import json
import re
import urllib.request

import adbc_driver_manager
import pytest

from conftest import World

HIDDEN = "hidden0canary"
TYPED = "typed0canary"
RECORD = {
    "tenantId": "acme",
    "createdAt": "2026-01-02T03:04:05.678Z",
    "action": f"Order.{HIDDEN}",
    "resource": {"type": "Order", "id": f"id-{HIDDEN}"},
    "actor": {"type": "User", "id": f"ann-{HIDDEN}"},
    "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"},
    "context": {"note": HIDDEN},
}
ROWS = 50

# Every way to make the server talk that comes to mind: casts and functions that fail on values, limits, names that are not
# there, and what works.
STATEMENTS = [
    "SELECT count(*) FROM audit.records",
    f"SELECT count(*) FROM audit.records WHERE action = 'Order.{TYPED}'",
    "SELECT CAST(action AS INT) FROM audit.records",
    "SELECT CAST(resource_id AS TIMESTAMP) FROM audit.records",
    "SELECT action + 1 FROM audit.records",
    "SELECT to_timestamp(action), to_date(context) FROM audit.records",
    "SELECT decode(action, 'hex') FROM audit.records",
    "SELECT date_trunc(action, created_at) FROM audit.records",
    "SELECT split_part(action, '.', leaf_index) FROM audit.records",
    "SELECT 1 / (leaf_index - leaf_index) FROM audit.records",
    "SELECT power(leaf_index + 10, 400)::BIGINT FROM audit.records",
    "SELECT repeat(context, 100000000) FROM audit.records",
    "SELECT regexp_like(action, '(') FROM audit.records",
    "SELECT regexp_like(action, action) FROM audit.records",
    f"SELECT {TYPED} FROM audit.records",
    f"SELECT * FROM audit.{TYPED}",
    f"SELECT '{TYPED}' FROM",
    f"DELETE FROM audit.records WHERE action = '{TYPED}'",
    "SELECT * FROM globex.audit.records",
    "SELECT * FROM audit.records a, audit.records b ORDER BY a.context, b.context LIMIT 3",
]
PLACE = re.compile(r"part-|\.parquet|_delta_log|s3://|file://")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("talkative"))
    world.config.write_text(world.config.read_text() + '[log]\nfilter = "trace"\n')
    world.start()
    try:
        world.run("tenant", "create", "acme", "--silo", "eu")
        lines = "\n".join(json.dumps(RECORD | {"idempotencyKey": f"{HIDDEN}-{n}"}) for n in range(ROWS))
        request = urllib.request.Request(
            world.url("eu") + "/v1/audit/records:batch",
            lines.encode(),
            {
                "authorization": "Bearer " + world.token("acme", scope="audit.write"),
                "content-type": "application/x-ndjson",
            },
        )
        assert len(json.load(urllib.request.urlopen(request))["results"]) == ROWS
        yield world
    finally:
        world.stop()


def answer(world, sql, role):
    """Rows, or the error that a client sees."""
    try:
        return str(world.query(sql, role=role).to_pylist())
    except adbc_driver_manager.Error as error:
        return f"error: {error}"


def test_errors_and_plans_quote_no_value_and_no_place(talkative):
    errors = 0
    for sql in STATEMENTS:
        for role in ("Reader", "Investigator", "Admin"):
            told = answer(talkative, sql, role)
            if told.startswith("error:"):
                errors += 1
                assert HIDDEN not in told, sql
                assert not PLACE.search(told), sql
        plan = answer(talkative, "EXPLAIN " + sql, "Reader")
        assert HIDDEN not in plan and not PLACE.search(plan), sql
        assert not re.search(r"(?i)statistics|rows=|bytes=|file_groups", plan), plan
    assert errors > 20
    plan = answer(talkative, "EXPLAIN SELECT count(*) FROM audit.records", "Reader")
    assert "Mask" in plan or "RLS" in plan, plan


def test_logs_and_metrics_hold_neither_values_nor_statements(talkative):
    for sql in STATEMENTS:
        answer(talkative, sql, "Reader")
    with urllib.request.urlopen(f"http://127.0.0.1:{talkative.ports['admin']}/metrics") as response:
        metrics = response.read().decode()
    log = (talkative.folder / "server.log").read_text()
    # They are what they should be: of this tenant, and of these requests.
    assert 'tenant="acme"' in metrics and '"tenant":"acme"' in log.replace(" ", "")
    assert "trailhouse_query_memory_bytes" in metrics
    for text in (metrics, log):
        for value in (HIDDEN, TYPED, "4bf92f3577b34da6a3ce929d0e0e4736", "SELECT", "ann-"):
            assert value not in text
    assert not PLACE.search(metrics)
