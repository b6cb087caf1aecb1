"""What is kept aside, over the command line: found by the id that its sender was given, and released or discarded once."""

import json

from test_ingest import post, record


def quarantine(world, *words, ok=True):
    return world.run("quarantine", *words, "--tenant", "initech", "--url", world.url("eu"), ok=ok)


def kept_aside(world, key):
    status, answer = post(world, record(key, tenantId="globex"))
    assert status == 202
    return answer["evidenceRef"]


def test_an_entry_is_listed_shown_and_released_once(world):
    entry = kept_aside(world, "aside-1")
    assert entry in quarantine(world, "list")
    shown = json.loads(quarantine(world, "show", entry, "--json"))
    assert (shown["state"], shown["reason"]) == ("open", "tenant-mismatch")
    answers = [
        json.loads(quarantine(world, "release", entry, "--reason", "a wrong label", "--json")) for _ in range(2)
    ]
    assert answers[0]["record"]["recordId"] == answers[1]["record"]["recordId"]
    assert [answer["record"]["duplicate"] for answer in answers] == [False, True]
    assert "quarantine-decided" in quarantine(world, "discard", entry, "--reason", "no", ok=False)
    assert entry not in quarantine(world, "list")
    assert entry in quarantine(world, "list", "--state", "released")


def test_a_discarded_entry_stays_out(world):
    entry = kept_aside(world, "aside-2")
    assert quarantine(world, "discard", entry, "--reason", "not ours").strip() == "discarded"
    assert "not-found" in quarantine(world, "show", "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4", ok=False)
    rows = world.query("SELECT idempotency_key FROM audit.records", "initech")
    assert "aside-2" not in rows.column(0).to_pylist()
