"""Schemas over the command line, against a running server: registered, checked, shown, and old records read as new ones."""

import json
import time
import urllib.request

import pytest

from conftest import World
from test_ingest import post, record, slug

FIRST = {
    "properties": {
        "context": {
            "type": "object",
            "required": ["amount"],
            "properties": {"amount": {"type": "string"}, "name": {"type": "string"}, "sourceIPAddress": {"type": "string"}},
        }
    }
}
SECOND = {
    "properties": {
        "context": {
            "type": "object",
            "required": ["amount", "currency"],
            "properties": {"amount": {"type": "number"}, "currency": {"type": "string"}, "origin": {"type": "object"}},
        }
    }
}
UPCASTER = {
    "from": "1.0",
    "to": "2.0",
    "steps": [
        {"op": "cast", "path": "/context/amount", "to": "number"},
        {"op": "default", "path": "/context/currency", "value": "USD"},
        {"op": "split", "path": "/context/name", "separator": " ", "to": ["/context/first", "/context/last"]},
        {"op": "move", "from": "/context/sourceIPAddress", "to": "/context/origin/ip"},
        {"op": "split", "path": "/context/userAgent", "separator": "/", "to": ["/context/agent", "/context/release"]},
    ],
}
SEEN_WITHIN_SECONDS = 60


@pytest.fixture
def own(tmp_path):
    """A server of one's own with a tenant, and files for its schemas."""
    world = World(tmp_path)
    for name, content in [("first", FIRST), ("second", SECOND), ("upcaster", UPCASTER), ("bad", {"type": "strnig"})]:
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    world.start()
    world.run("tenant", "create", "initech", "--silo", "eu")
    yield world
    if world.process.poll() is None:
        world.stop()


def schema(world, verb, *words, ok=True):
    words = [str(world.folder / word) if str(word).endswith(".json") else word for word in words]
    return world.run("schema", verb, *words, "--tenant", "initech", ok=ok)


def once_it_is_seen(world, body, wanted, **headers):
    """The server looks at the registry every two seconds: sends until it answers as it must in the end."""
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while True:
        status, answer = post(world, body, **headers)
        if status == wanted:
            return answer
        assert time.monotonic() < deadline, (status, answer)
        time.sleep(0.2)


def test_a_schema_that_breaks_old_readers_is_refused_with_what_to_do(own):
    assert schema(own, "list") == ""
    assert "no such" in schema(own, "show", "audit.default", ok=False)
    assert "audit.default 1.0 is registered" in schema(own, "register", "audit.default", "1.0", "first.json")
    # The very same again is fine.
    schema(own, "register", "audit.default", "1.0", "first.json")
    for verb, words in [("check", ["second.json"]), ("register", ["1.1", "second.json"])]:
        told = schema(own, verb, "audit.default", *words, ok=False)
        assert "within a major version it must be backward compatible" in told, told
        assert "register 2.0 with an upcaster from 1.0" in told, told
        assert "/properties/context/properties/amount/type" in told, told
    told = schema(own, "register", "audit.default", "2.0", "second.json", ok=False)
    assert "needs an upcaster from 1.0" in told, told
    told = schema(own, "register", "audit.default", "1.1", "bad.json", ok=False)
    assert "refused" in told and "/type" in told, told
    for words in [("audit.default", "one", "first.json"), ("no stream", "1.0", "first.json"), ("audit.default", "1.1", "none.json")]:
        schema(own, "register", *words, ok=False)
    told = schema(own, "check", "audit.default", "second.json", "--version", "2.0", "--upcaster", "upcaster.json")
    assert "compatibility: breaking" in told, told
    assert [line.split()[:2] for line in schema(own, "list").splitlines()] == [["audit.default", "1.0"]]
    schema(own, "register", "audit.default", "2.0", "second.json", "--upcaster", "upcaster.json")
    listed = [line.split() for line in schema(own, "list").splitlines()]
    assert [line[:2] for line in listed] == [["audit.default", "1.0"], ["audit.default", "2.0"]], listed
    assert listed[1][-2:] == ["from", "1.0"], listed
    assert json.loads(schema(own, "show", "audit.default")) == SECOND
    assert json.loads(schema(own, "show", "audit.default", "--version", "1.0")) == FIRST
    assert "breaking" in schema(own, "check", "audit.default", "--from", "1.0", "--to", "2.0")


def test_old_and_new_records_query_as_one_behind_their_masks(own):
    schema(own, "register", "audit.default", "1.0", "first.json")
    old = {"amount": "12.50", "name": "Bo Li", "sourceIPAddress": "192.0.2.77", "userAgent": "canary-agent-of-old/1.2"}
    unfit = once_it_is_seen(own, record("unfit", context={**old, "amount": 12}), 400)
    assert [found["pointer"] for found in unfit["violations"]] == ["/context/amount"], unfit
    assert post(own, record("old", context=old))[0] == 200
    assert slug(post(own, record("v2", context=old), accept_schema="audit-record;v=2")[1]) == "unsupported-schema"
    schema(own, "register", "audit.default", "2.0", "second.json", "--upcaster", "upcaster.json")
    new = {"amount": 7.5, "currency": "EUR", "first": "Ann", "last": "Lee", "origin": {"ip": "192.0.2.99"}}
    body = record("new", schemaVersion="2.0", context=new)
    answer = once_it_is_seen(own, body, 200, accept_schema="audit-record;v=2")
    assert answer["schemaVersion"] == "2.0", answer

    sql = "SELECT idempotency_key, context FROM audit.records ORDER BY idempotency_key DESC"
    seen = {}
    for role in ["Investigator", "Reader"]:
        rows = own.query(sql, "initech", role=role).to_pylist()
        assert [row["idempotency_key"] for row in rows] == ["old", "new"]
        seen[role] = [json.loads(row["context"]) for row in rows]
    assert seen["Investigator"] == [
        {
            "amount": 12.5,
            "currency": "USD",
            "first": "Bo",
            "last": "Li",
            "origin": {"ip": "192.0.2.77"},
            "agent": "canary-agent-of-old",
            "release": "1.2",
        },
        new,
    ]
    # The mask of the old place holds at the new one, and a masked value is not split.
    agent = seen["Reader"][0].pop("userAgent")
    assert agent == "canary-a****", agent
    assert seen["Reader"] == [
        {"amount": 12.5, "currency": "USD", "first": "Bo", "last": "Li", "origin": {"ip": "192.0.2.0/24"}},
        {**new, "origin": {"ip": "192.0.2.0/24"}},
    ]
    for sql in ["SELECT context FROM audit.records", "EXPLAIN SELECT context FROM audit.records"]:
        told = str(own.query(sql, "initech", role="Reader").to_pylist())
        assert "192.0.2.77" not in told and "canary-agent" not in told, told
    with pytest.raises(Exception) as refused:
        own.query("SELECT 1 FROM audit.records WHERE context LIKE '%192.0.2.77%'", "initech", role="Reader")
    assert "context" in str(refused.value)


def test_senders_are_told_of_a_version_that_ends(own):
    schema(own, "register", "audit.default", "1.0", "first.json")
    told = schema(own, "deprecate", "audit.default", "1.0", ok=False)
    assert "latest" in told, told
    schema(own, "register", "audit.default", "2.0", "second.json", "--upcaster", "upcaster.json")
    assert "90" in schema(own, "deprecate", "audit.default", "1.0", "--days", "30", ok=False)
    told = schema(own, "deprecate", "audit.default", "1.0", "--days", "120")
    assert told.startswith("audit.default 1.0 ends on "), told
    writer = own.token("initech", scope="audit.write")
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while True:
        content = json.dumps(record("ends", context={"amount": "1"})).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {writer}"}
        request = urllib.request.Request(own.url("eu") + "/v1/audit/records", content, headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            headers = response.headers
        if headers["warning"]:
            break
        assert time.monotonic() < deadline, str(headers)
        time.sleep(0.2)
    ends = told.split()[-1]
    assert headers["warning"] == f'299 trailhouse "schema 1.0 of audit.default ends on {ends}; use 2.0"'
    assert headers["deprecation"].startswith("@") and headers["sunset"].endswith(" GMT")
    assert schema(own, "list", "audit.default").splitlines()[0].endswith(f"ends {ends}")
