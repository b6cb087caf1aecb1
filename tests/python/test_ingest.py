"""Records over HTTP as a producer sends them: receipts, duplicates, conflicts, and every kind of bad input."""

import json
import subprocess
import time
import urllib.error
import urllib.request

import pytest


def record(key, **fields):
    base = {
        "tenantId": "initech",
        "idempotencyKey": key,
        "createdAt": "2026-01-02T03:04:05.678Z",
        "action": "Order.Placed",
        "resource": {"type": "Order", "id": "17"},
        "actor": {"type": "User", "id": "ann"},
        "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"},
    }
    return {**base, **fields}


def post(world, body, token=None, path="/v1/audit/records", **headers):
    token = token if token is not None else world.token("initech", scope="audit.write")
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(world.url("eu") + path, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def slug(answer):
    return answer["type"].rsplit("/", 1)[-1]


@pytest.fixture(scope="module")
def writer(world):
    return world.token("initech", scope="audit.write")


def test_a_record_is_accepted_once(world, writer):
    status, first = post(world, record("once"), writer)
    assert status == 200 and first["policyVersion"] == "tenant:initech@1" and first["duplicate"] is False
    status, second = post(world, record("once"), writer)
    assert status == 200 and second["duplicate"] is True and second["recordId"] == first["recordId"]


def test_another_payload_under_the_same_key_is_a_conflict(world, writer):
    assert post(world, record("twice"), writer)[0] == 200
    status, answer = post(world, record("twice", action="Order.Cancelled"), writer)
    assert (status, slug(answer)) == (409, "idempotency-conflict")
    assert len(set(json.dumps(answer).split("hmac-sha256:"))) >= 3


def test_a_body_of_another_tenant_is_quarantined(world, writer):
    status, answer = post(world, record("foreign", tenantId="globex"), writer)
    assert (status, slug(answer)) == (202, "tenant-mismatch")
    assert answer["evidenceRef"]


def test_every_violation_is_listed_with_its_pointer(world, writer):
    status, answer = post(world, {"tenantId": "initech", "idempotencyKey": "bad", "action": 7, "oops": 1}, writer)
    assert (status, slug(answer)) == (400, "invalid-record")
    pointers = {violation["pointer"] for violation in answer["violations"]}
    assert {"/action", "/createdAt", "/resource", "/actor", "/correlation", "/oops"} <= pointers


def test_a_header_cannot_name_another_tenant(world, writer):
    status, answer = post(world, record("header"), writer, x_tenant_id="globex")
    assert (status, slug(answer)) == (403, "tenant-mismatch")


@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."])
def test_bad_tokens_are_refused(world, token):
    status, answer = post(world, record("token"), token)
    assert (status, slug(answer)) == (401, "invalid-token")


def test_a_reader_cannot_write(world):
    status, answer = post(world, record("reader"), world.token("initech", role="Reader"))
    assert (status, slug(answer)) == (403, "forbidden")


def test_a_batch_answers_line_by_line(world, writer):
    lines = [record("b1"), record("b2", tenantId="globex"), record("b3", action=""), record("b1")]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    status, answer = post(
        world, body, writer, "/v1/audit/records:batch", content_type="application/x-ndjson"
    )
    assert status == 200
    assert [result["status"] for result in answer["results"]] == [200, 202, 400, 200]
    assert answer["results"][3]["duplicate"] is True


def test_what_was_acknowledged_survives_a_restart(world, writer):
    status, first = post(world, record("restart"), writer)
    assert status == 200
    assert world.stop() == 0
    world.start()
    status, again = post(world, record("restart"), writer)
    assert status == 200 and again["duplicate"] is True and again["recordId"] == first["recordId"]
    found = world.query(f"SELECT count(*) AS n FROM audit.records WHERE record_id = '{first['recordId']}'", "initech")
    assert found["n"].to_pylist() == [1]


def test_what_a_pipe_gives_is_sent_while_it_stays_open(world):
    words = ["ingest", "--tenant", "initech", "--url", world.url("eu"), "-", "--config", world.config]
    pipe = subprocess.Popen([world.binary, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for count in (2, 3):
            pipe.stdin.write("".join(json.dumps(record(f"pipe-{count}-{n}")) + "\n" for n in range(count)))
            pipe.stdin.flush()
            wanted = {f"pipe-{count}-{n}" for n in range(count)}
            deadline = time.monotonic() + 60
            while not wanted <= keys(world):
                assert time.monotonic() < deadline and pipe.poll() is None, "the pipe waits for its end"
                time.sleep(0.1)
        said, _ = pipe.communicate(timeout=60)
        assert pipe.returncode == 0 and said.startswith("5 accepted"), said
    finally:
        pipe.kill()


def keys(world):
    rows = world.query("SELECT idempotency_key FROM audit.records", tenant="initech")
    return set(rows.column(0).to_pylist())
