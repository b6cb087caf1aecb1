"""Records through every door, as its clients use it: batches, data frames, CloudEvents, and the command line."""

import gzip
import http.client
import json
import subprocess
import urllib.parse

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import polars
import pyarrow
import pytest

from conftest import BINARY
from test_ingest import post, record, slug

BATCH = "/v1/audit/records:batch"
EVENTS = "/v1/audit/events"
MOMENT = 1_767_323_045_678_000


@pytest.fixture(scope="module")
def writer(world):
    return world.token("initech", scope="audit.write")


def batch(world, token, body, **headers):
    return post(world, body, token, BATCH, **{"content_type": "application/x-ndjson", **headers})


def ndjson(records):
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def stored(world, prefix):
    sql = f"SELECT idempotency_key FROM audit.records WHERE idempotency_key LIKE '{prefix}%'"
    return sorted(world.query(sql, "initech")["idempotency_key"].to_pylist())


def test_line_7000_of_10000_is_broken_and_is_its_own_problem(world, writer):
    lines = ndjson(record(f"seven-{n}") for n in range(1, 10_001)).splitlines(keepends=True)
    lines[6_999] = b'{"tenantId": "initech", "action": \n'
    status, answer = batch(world, writer, gzip.compress(b"".join(lines)), content_encoding="gzip")
    assert status == 200
    assert answer["summary"] == {"accepted": 9_999, "duplicates": 0, "quarantined": 0, "rejected": 1}
    (bad,) = [result for result in answer["results"] if result["status"] != 200]
    assert (bad["line"], bad["index"], slug(bad["problem"])) == (7_000, 6_999, "invalid-record")


def test_a_connection_cut_in_a_batch_is_safe_to_send_again(world, writer):
    body = ndjson(record(f"cut-{n}") for n in range(3_000))
    address = urllib.parse.urlsplit(world.url("eu"))
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.putrequest("POST", BATCH)
    connection.putheader("authorization", f"Bearer {writer}")
    connection.putheader("content-type", "application/x-ndjson")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    connection.send(body[: len(body) * 2 // 3])
    connection.close()
    status, answer = batch(world, writer, body)
    assert status == 200
    summary = answer["summary"]
    assert summary["accepted"] + summary["duplicates"] == 3_000
    assert summary["quarantined"] == summary["rejected"] == 0
    assert stored(world, "cut-") == sorted(f"cut-{n}" for n in range(3_000))


def test_a_line_of_100_mb_is_stopped_at_and_costs_no_memory(world, writer):
    def peak():
        lines = open(f"/proc/{world.process.pid}/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

    def body():
        yield ndjson([record("before-100mb")])
        for _ in range(100):
            yield b"x" * (1 << 20)

    before = peak()
    address = urllib.parse.urlsplit(world.url("eu"))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    headers = {"authorization": f"Bearer {writer}", "content-type": "application/x-ndjson"}
    try:
        connection.request("POST", BATCH, body(), headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # It has answered and reads no further.
    try:
        response = connection.getresponse()
        answer = json.load(response)
        assert (response.status, slug(answer), answer["stoppedAtLine"]) == (413, "payload-too-large", 2)
        assert answer["summary"]["accepted"] + answer["summary"]["duplicates"] == 1
    except (BrokenPipeError, ConnectionResetError, http.client.BadStatusLine):
        pass  # The answer was lost with the connection; the line before was not.
    assert stored(world, "before-100mb") == ["before-100mb"]
    assert peak() - before < 64 << 20


def test_a_gzip_bomb_is_bounded(world, writer):
    bomb = gzip.compress(b"\n" * (200 << 20))
    status, answer = batch(world, writer, bomb, content_encoding="gzip")
    assert (status, slug(answer)) == (413, "payload-too-large")


def frame(keys, **columns):
    size = len(keys)
    base = {
        "idempotency_key": pyarrow.array(keys),
        "created_at": pyarrow.array([MOMENT] * size, pyarrow.timestamp("us", "UTC")),
        "action": pyarrow.array(["Order.Placed"] * size).dictionary_encode(),
        "resource_type": pyarrow.array(["Order"] * size),
        "resource_id": pyarrow.array(["17"] * size),
        "actor_type": pyarrow.array(["User"] * size),
        "actor_id": pyarrow.array(["ann"] * size, pyarrow.large_string()),
        "trace_id": pyarrow.array(["4bf92f3577b34da6a3ce929d0e0e4736"] * size, pyarrow.string_view()),
    }
    return pyarrow.table({**base, **columns})


def load(world, table, token=None, name="records", **options):
    options = {"mode": "append", "db_schema_name": "audit", **options}
    token = token or world.token("initech", scope="audit.write")
    settings = {"adbc.flight.sql.authorization_header": f"Bearer {token}"}
    address = f"grpc://127.0.0.1:{world.ports['eu_flight']}"
    with adbc.connect(address, settings, autocommit=True) as connection, connection.cursor() as cursor:
        return cursor.adbc_ingest(name, table, **options)


def test_a_data_frame_is_loaded_once(world, writer):
    keys = [f"frame-{n}" for n in range(2_500)]
    details = pyarrow.array([{"room": n, "tags": ["a"]} for n in range(2_500)])
    labels = pyarrow.array([[("env", "prod")]] * 2_500, pyarrow.map_(pyarrow.string(), pyarrow.string()))
    table = frame(keys, context=details, labels=labels)
    assert load(world, table, writer) == 2_500
    assert load(world, table, writer) == 0
    found = world.query(
        "SELECT context, labels, created_at FROM audit.records WHERE idempotency_key = 'frame-7'", "initech"
    )
    assert json.loads(found["context"][0].as_py()) == {"room": 7, "tags": ["a"]}
    assert found["labels"].to_pylist() == [[("env", "prod")]]
    # The same record over HTTP is the same payload.
    created_at = found["created_at"][0].as_py().isoformat()
    same = record("frame-7", createdAt=created_at, context={"room": 7, "tags": ["a"]}, labels={"env": "prod"})
    status, answer = post(world, same, writer)
    assert status == 200 and answer["duplicate"] is True


def test_polars_loads_too(world, writer):
    rows = polars.from_arrow(frame(["polars-1", "polars-2"]))
    assert load(world, rows.to_arrow(), writer) == 2


def test_a_load_that_does_not_fit_stores_nothing_and_names_every_column(world, writer):
    wrong = frame(
        ["wrong-1"],
        created_at=pyarrow.array([MOMENT], pyarrow.timestamp("us")),
        action=pyarrow.array([7]),
        leaf_index=pyarrow.array([1]),
        oops=pyarrow.array(["x"]),
    )
    with pytest.raises(adbc_driver_manager.Error) as refused:
        load(world, wrong, writer)
    for column in ("created_at", "action", "leaf_index", "oops"):
        assert column in str(refused.value)
    assert stored(world, "wrong-") == []


def test_rows_that_are_refused_are_named_and_the_others_stored(world, writer):
    table = frame(["mixed-1", "mixed-2", "mixed-3"], action=pyarrow.array(["ok", "x" * 201, "ok"]))
    with pytest.raises(adbc_driver_manager.Error, match="row 1: action has more than 200 characters"):
        load(world, table, writer)
    assert stored(world, "mixed-") == ["mixed-1", "mixed-3"]


@pytest.mark.parametrize("options", [{"mode": "create"}, {"mode": "replace"}, {"db_schema_name": "public"}])
def test_loads_that_are_no_append_are_refused(world, writer, options):
    with pytest.raises(adbc_driver_manager.Error, match="statement-not-allowed"):
        load(world, frame(["refused-1"]), writer, **options)
    with pytest.raises(adbc_driver_manager.Error, match="statement-not-allowed"):
        load(world, frame(["refused-1"]), writer, name="evidence")


def test_a_load_into_another_catalog_or_by_a_reader_is_refused(world, writer):
    with pytest.raises(adbc_driver_manager.Error, match="cross-tenant-query"):
        load(world, frame(["refused-1"]), writer, catalog_name="globex")
    with pytest.raises(adbc_driver_manager.Error, match="forbidden"):
        load(world, frame(["refused-1"]), world.token("initech", role="Reader"))
    assert stored(world, "refused-") == []


def event(**fields):
    return {
        "specversion": "1.0", "id": "17", "source": "/python", "type": "com.example.order.placed",
        "time": "2026-01-02T03:04:05Z", "data": {"total": 3}, **fields,
    }  # fmt: skip


def test_cloud_events_are_records(world, writer):
    structured = {"content_type": "application/cloudevents+json"}
    status, first = post(world, event(), writer, EVENTS, **structured)
    assert status == 200, first
    headers = {f"ce_{name}": value for name, value in event().items() if name != "data"}
    status, again = post(world, {"total": 3}, writer, EVENTS, **headers)
    assert status == 200 and again["recordId"] == first["recordId"] and again["duplicate"] is True
    body = [event(), event(id="18"), event(id="19", time="tomorrow")]
    status, answer = post(world, body, writer, EVENTS, content_type="application/cloudevents-batch+json")
    assert [result["status"] for result in answer["results"]] == [200, 200, 400]
    assert answer["results"][2]["problem"]["violations"][0]["pointer"] == "/time"


def ingest(world, *words, stdin=None):
    command = [BINARY, "ingest", "--tenant", "initech", "--url", world.url("eu"), "--config", world.config, *words]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120)


def test_the_command_line_sets_bad_lines_aside(world, tmp_path):
    good = [record(f"file-{n}") for n in range(5)]
    lines = ndjson(good).splitlines(keepends=True)
    lines.insert(2, b'{"broken": \n')
    lines.insert(4, b"\xff\xfe\n")
    lines.insert(6, ndjson([record("file-bad", action="")]))
    source, rejects = tmp_path / "some.ndjson.gz", tmp_path / "rejects.ndjson"
    source.write_bytes(gzip.compress(b"".join(lines)))
    done = ingest(world, "--rejects", str(rejects), str(source))
    assert done.returncode == 1, done.stderr
    assert b"5 accepted, 0 known before, 0 quarantined, 3 refused" in done.stdout
    refused = sorted((json.loads(line) for line in rejects.read_text().splitlines()), key=lambda one: one["line"])
    assert [one["line"] for one in refused] == [3, 5, 7]
    assert refused[0]["record"] == '{"broken":' and slug(refused[0]["problem"]) == "invalid-record"
    assert rejects.stat().st_mode & 0o777 == 0o600
    again = ingest(world, "-", stdin=ndjson(good))
    assert again.returncode == 0 and b"0 accepted, 5 known before" in again.stdout


def test_the_command_line_reads_cloud_events(world):
    done = ingest(world, "--format", "cloudevents", "-", stdin=ndjson([event(id="cli-1"), {"id": "none"}]))
    assert done.returncode == 1
    assert b"1 accepted, 0 known before, 0 quarantined, 1 refused" in done.stdout
    assert b"/specversion is required" in done.stdout
