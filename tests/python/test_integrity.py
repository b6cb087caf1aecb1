"""Proofs, read by the product and by a second verifier that shares no code with it; and a table of what may happen to a
store, with what each of them says."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, EVENTS, ROOT, World

VERIFIER = ROOT / "notebooks" / "verify" / "verify.py"
LOG = "/v1/audit/integrity/audit.default"
TENANTS = ("acme", "initech")


class Copy:
    """A store at rest: what was published of two tenants, and what they took away."""

    def __init__(self, world, folder):
        self.world, self.kept = world, folder
        self.silo = world.folder / "eu"

    def audit(self, tenant="acme"):
        return self.silo / "tenants" / tenant / "audit"

    def product(self, *words):
        command = [BINARY, "verify", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def second(self, *words):
        command = [sys.executable, VERIFIER, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def both(self, *words):
        return self.product(*words), self.second(*words)

    def table(self):
        """What the two say of the whole of acme."""
        config = ["--config", self.world.config]
        jwks = self.kept / "acme.jwks"
        words = ["--jwks", jwks, "--against", self.kept / "new.txt", "--report", self.kept / "report.json"]
        first = self.product("table", "--tenant", "acme", *words, *config)
        found = []
        for kind, stream in (("records", "audit.default"), ("evidence", "audit.evidence")):
            log = self.audit() / "log" / stream
            words = ["table", self.audit() / kind, "--log", log, "--jwks", jwks, "--keys", self.world.folder / "keys"]
            found.append(self.second(*words, "--silo", "eu"))
            found.append(self.second("log", log, "--jwks", jwks))
        return first, found


def fetch(world, path, token, body=None):
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(world.url("eu") + path, headers=headers, data=body)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("integrity"))
    world.start()
    kept = tmp_path_factory.mktemp("kept")
    try:
        for tenant in TENANTS:
            world.run("tenant", "create", tenant, "--silo", "eu")
            ingest(world, tenant, EVENTS)
            (kept / f"{tenant}.jwks").write_text(world.run("key", "export", "--tenant", tenant))
        admin, reader = world.token("acme", role="Admin"), world.token("acme", role="Reader")
        (kept / "old.txt").write_bytes(fetch(world, f"{LOG}/checkpoint", admin))
        early = world.query("SELECT record_id FROM audit.records ORDER BY leaf_index LIMIT 1", "acme")["record_id"]
        (kept / "early.json").write_bytes(fetch(world, f"/v1/audit/records/{early[0].as_py()}/proof", admin))
        # New versions of all keys: what was kept stays good, and nothing stops.
        (kept / "early.jwks").write_text((kept / "acme.jwks").read_text())
        world.run("key", "rotate", "--tenant", "acme", "--reason", "a test")
        listed = world.run("key", "list", "--tenant", "acme")
        assert (listed.count("/v2 "), listed.count("/s2 ")) == (3, 1), listed
        assert world.run("key", "rotate", "--all", "--older-than-days", "1", "--reason", "a test") == ""
        assert "epoch key" in world.run("key", "rotate", "--tenant", "acme", "--key", "epoch-data", "--reason", "a test")
        assert "known: data" in world.run("key", "rotate", "--tenant", "acme", "--key", "x", "--reason", "", ok=False)
        time.sleep(2.5)
        (kept / "acme.jwks").write_text(world.run("key", "export", "--tenant", "acme"))
        more = kept / "more.ndjson"
        more.write_text("".join(line(n) for n in range(400)))
        ingest(world, "acme", more, "audit")
        writer = world.token("acme", scope="audit.write")
        receipt = fetch(world, "/v1/audit/records", writer, line(400).encode())
        (kept / "receipt.json").write_bytes(receipt)
        promise = json.loads(receipt)
        statement = fetch(world, f"/v1/keys/process/{promise['integrity']['key']}", admin)
        (kept / "process.json").write_bytes(statement)
        time.sleep(2.5)
        (kept / "promised.json").write_bytes(fetch(world, f"/v1/audit/records/{promise['recordId']}/proof", admin))
        (kept / "new.txt").write_bytes(fetch(world, f"{LOG}/checkpoint", admin))
        sizes = [int((kept / name).read_text().split("\n")[1]) for name in ("old.txt", "new.txt")]
        consistency = f"{LOG}/proof/consistency?from={sizes[0]}&to={sizes[1]}"
        (kept / "consistency.json").write_bytes(fetch(world, consistency, admin))
        ids = world.query("SELECT record_id FROM audit.records ORDER BY leaf_index", "acme")["record_id"].to_pylist()
        for name, token in (("admin", admin), ("reader", reader)):
            (kept / f"{name}.json").write_bytes(fetch(world, f"/v1/audit/records/{ids[300]}/proof", token))
        (kept / "record_id").write_text(ids[300])
        time.sleep(1.5)
        assert world.stop() == 0
        yield Copy(world, kept)
    finally:
        if world.process.poll() is None:
            world.stop()


def ingest(world, tenant, path, kind="cloudtrail"):
    world.run("ingest", "--tenant", tenant, "--format", kind, "--url", world.url("eu"), str(path))


def line(n):
    record = {
        "tenantId": "acme", "idempotencyKey": f"more-{n}", "createdAt": "2026-01-02T03:04:05Z", "action": "Order.Placed",
        "resource": {"type": "Order", "id": str(n)}, "actor": {"type": "User", "id": "ann"},
        "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"}, "context": {"total": n},
    }  # fmt: skip
    return json.dumps(record) + "\n"


@pytest.mark.parametrize("name", ["admin", "reader"])
def test_a_kept_proof_of_a_record_is_verified_by_both(copy, name):
    """Also with values withheld, as a reader's masks want it."""
    for done in copy.both("proof", copy.kept / f"{name}.json", "--jwks", copy.kept / "acme.jwks"):
        assert done.returncode == 0, done.stderr
        assert (copy.kept / "record_id").read_text() in done.stdout
    withheld = [part for part in json.loads((copy.kept / f"{name}.json").read_text())["leaf"]["parts"] if "commitment" in part]
    assert bool(withheld) == (name == "reader")
    for done in copy.both("proof", copy.kept / f"{name}.json", "--jwks", copy.kept / "initech.jwks"):
        assert done.returncode == 1, done.stdout


def test_proofs_outlive_the_keys_that_signed_them(copy):
    kept = copy.kept
    for proof, jwks, code in [
        ("early", "early", 0),
        ("early", "acme", 0),
        ("admin", "acme", 0),
        ("reader", "acme", 0),
        ("admin", "early", 1),
    ]:
        for done in copy.both("proof", kept / f"{proof}.json", "--jwks", kept / f"{jwks}.jwks"):
            assert done.returncode == code, (proof, jwks, done.stdout, done.stderr)
    assert "/s1" in json.loads((kept / "early.jwks").read_text())["keys"][0]["kid"]
    assert copy.product("keys", kept / "acme.jwks", "--against", kept / "early.jwks").returncode == 0
    assert copy.product("keys", kept / "initech.jwks", "--against", kept / "early.jwks").returncode == 1
    keys = json.loads((kept / "acme.jwks").read_text())
    keys["introductions"] = []
    (kept / "forged.jwks").write_text(json.dumps(keys))
    refused = copy.product("keys", kept / "forged.jwks", "--against", kept / "early.jwks")
    assert refused.returncode == 1 and "introduces kms://" in refused.stderr


def test_a_log_has_grown_from_what_was_kept(copy):
    kept = copy.kept
    words = ["--consistency", kept / "consistency.json", "--jwks", kept / "acme.jwks"]
    for done in copy.both("checkpoint", kept / "new.txt", "--against", kept / "old.txt", *words):
        assert done.returncode == 0, done.stderr
    for done in copy.both("checkpoint", kept / "old.txt", "--against", kept / "new.txt", *words):
        assert done.returncode == 1
    other = kept / "other.txt"
    other.write_text((kept / "new.txt").read_text().replace("tableVersion ", "tableVersion 1"))
    for done in copy.both("checkpoint", other, "--jwks", kept / "acme.jwks"):
        assert done.returncode == 1
    for done in copy.both("checkpoint", kept / "none.txt", "--jwks", kept / "acme.jwks"):
        assert done.returncode == 2


def changes(value, at=()):
    """Every way to change one member of a document."""
    if isinstance(value, dict):
        for key in value:
            yield from changes(value[key], (*at, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from changes(value[index], (*at, index))
    else:
        yield at


def changed(value):
    if isinstance(value, int):
        return value + 1
    first = value[:1]
    return {"A": "B"}.get(first, "A") + value[1:]


@pytest.mark.parametrize("name", ["admin", "reader"])
def test_whatever_is_changed_in_a_proof_both_say_no(copy, name):
    spec = importlib.util.spec_from_file_location("verify", VERIFIER)
    verify = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verify)
    proof = json.loads((copy.kept / f"{name}.json").read_text())
    places = list(changes(proof))
    assert len(places) > 10
    for place in places:
        other = json.loads(json.dumps(proof))
        at = other
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = changed(at[place[-1]])
        path = copy.kept / "changed.json"
        path.write_text(json.dumps(other))
        for done in copy.both("proof", path, "--jwks", copy.kept / "acme.jwks"):
            assert done.returncode in (1, 2) and done.returncode != 0, (place, done.stdout)
            assert "panicked" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_promise_is_verified_by_both_and_the_log_has_kept_it(copy):
    kept = copy.kept
    words = ["--process-key", kept / "process.json", "--jwks", kept / "acme.jwks"]
    for done in copy.both("promise", kept / "receipt.json", *words):
        assert done.returncode == 0, done.stderr
    done = copy.product("promise", kept / "receipt.json", *words, "--proof", kept / "promised.json")
    assert (done.returncode, "has kept the promise" in done.stdout) == (0, True), done.stderr
    done = copy.product("promise", kept / "receipt.json", *words, "--proof", kept / "admin.json")
    assert (done.returncode, "is of another record" in done.stderr) == (1, True), done.stderr
    # The same promise of the record that stands elsewhere, as the sender was told: the log has another at its place.
    other = json.loads((kept / "receipt.json").read_text())
    other["recordId"] = (kept / "record_id").read_text()
    (kept / "elsewhere.json").write_text(json.dumps(other))
    done = copy.product("promise", kept / "elsewhere.json", *words, "--proof", kept / "admin.json")
    assert (done.returncode, "where this one was promised" in done.stderr) == (1, True), done.stderr
    for done in copy.both("promise", kept / "receipt.json", *words[:2], "--jwks", kept / "initech.jwks"):
        assert done.returncode == 1


@pytest.mark.parametrize("name", ["receipt", "process"])
def test_whatever_is_changed_in_a_promise_both_say_no(copy, name):
    kept, document = copy.kept, json.loads((copy.kept / f"{name}.json").read_text())
    # Of the receipt these are told to the sender, and not signed: the leaf is.
    told = {"recordId", "policyVersion", "segmentId", "schemaVersion", "duplicate"}
    places = [place for place in changes(document) if name == "process" or place[0] not in told]
    assert len(places) > 7
    for place in places:
        other = json.loads(json.dumps(document))
        at = other
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = "A" * 43 if at[place[-1]] is None else changed(at[place[-1]])
        (kept / "changed.json").write_text(json.dumps(other))
        files = {"receipt": kept / "receipt.json", "process": kept / "process.json"} | {name: kept / "changed.json"}
        words = [files["receipt"], "--process-key", files["process"], "--jwks", kept / "acme.jwks"]
        for done in copy.both("promise", *words):
            assert done.returncode == 1, (place, done.stdout, done.stderr)
            assert "panicked" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def flip(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def parquet(copy, kind="records", tenant="acme"):
    return sorted((copy.audit(tenant) / kind).rglob("*.parquet"))


def entries(copy, kind="records"):
    return sorted((copy.audit() / kind / "_delta_log").glob("*.json"))


def log(copy, tenant="acme", stream="audit.default"):
    return copy.audit(tenant) / "log" / stream


def tile(copy, path, tenant="acme"):
    return log(copy, tenant) / "tile" / path


def partial(copy):
    return sorted(log(copy).glob("tile/0/*.p/*"))[-1]


def digit(path):
    """Another digit in the time of a commit, where no reader of the table looks."""
    text = path.read_text()
    at = text.index('"timestamp":') + len('"timestamp":')
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def stray(copy, name):
    path = copy.audit() / "records" / "_delta_log" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(entries(copy)[1].read_bytes())


def gone(path):
    path.unlink()


def checkpoint_of(copy, content):
    (log(copy) / "checkpoint").write_bytes(content)


MUTATIONS = {
    "a byte of a data file": lambda it: flip(parquet(it)[0]),
    "the last byte of a data file": lambda it: flip(parquet(it)[-1], -1),
    "a data file is missing": lambda it: gone(parquet(it)[0]),
    "two data files are exchanged": lambda it: swap(parquet(it)[0], parquet(it)[-1]),
    "a data file is another tenant's": lambda it: parquet(it)[0].write_bytes(parquet(it, tenant="initech")[0].read_bytes()),
    "a byte of evidence": lambda it: flip(parquet(it, "evidence")[0]),
    "a byte of a commit that no reader needs": lambda it: digit(entries(it)[1]),
    "a byte of a commit that readers need": lambda it: flip(entries(it)[1]),
    "a byte of a commit of evidence": lambda it: digit(entries(it, "evidence")[1]),
    "the newest commit is missing": lambda it: gone(entries(it)[-1]),
    "a commit in between is missing": lambda it: gone(entries(it)[1]),
    "an entry of a number beyond all others": lambda it: stray(it, "18446744073709551615.json"),
    "an entry below a folder of the log": lambda it: stray(it, "more/00000000000000000001.json"),
    "two commits are exchanged": lambda it: swap(entries(it)[1], entries(it)[2]),
    "an older log is replayed": lambda it: [gone(entry) for entry in entries(it)[2:]],
    "the whole log is missing": lambda it: [gone(entry) for entry in entries(it)],
    "a byte of a full tile": lambda it: flip(tile(it, "0/000")),
    "a byte of a partial tile": lambda it: flip(partial(it)),
    "a tile is cut": lambda it: tile(it, "0/001").write_bytes(tile(it, "0/001").read_bytes()[:-32]),
    "a tile is cut inside a hash": lambda it: tile(it, "0/001").write_bytes(tile(it, "0/001").read_bytes()[:-1]),
    "a tile is missing": lambda it: gone(tile(it, "0/000")),
    "two tenants' tiles are exchanged": lambda it: swap(tile(it, "0/000"), tile(it, "0/000", "initech")),
    "two tiles are exchanged": lambda it: swap(tile(it, "0/000"), tile(it, "0/001")),
    "something else lies in the log": lambda it: (log(it) / "tile" / "0" / "x").write_bytes(b"x"),
    "a byte of a checkpoint's root": lambda it: flip(log(it) / "checkpoint", 70),
    "a byte of a checkpoint's signature": lambda it: flip(log(it) / "checkpoint", -20),
    "the checkpoint is another tenant's": lambda it: checkpoint_of(it, (log(it, "initech") / "checkpoint").read_bytes()),
    "the checkpoint is missing": lambda it: gone(log(it) / "checkpoint"),
    "records and their log are gone": lambda it: [shutil.rmtree(log(it)), shutil.rmtree(it.audit() / "records")],
    "the end of the table is gone, with all that speaks of it": lambda it: [
        [gone(entry) for entry in entries(it)[2:]],
        shutil.rmtree(log(it)),
    ],
    "a key of a file that there never was": lambda it: entries(it)[1].write_text(
        entries(it)[1].read_text().replace("/v1", "/v9")
    ),
    "an older checkpoint is put back": lambda it: checkpoint_of(it, (it.kept / "old.txt").read_bytes()),
}  # fmt: skip
# Older and true: only who kept the newer one can tell. Their tiles go further, and so does the table; nothing lies.
TRUE_ALL_THE_SAME = {"an older checkpoint is put back"}


def test_an_audit_is_gone_on_with_and_begins_anew_after_its_end(copy):
    progress, report = copy.kept / "audit.ndjson", copy.kept / "resumed.json"
    words = ["--tenant", "acme", "--jwks", copy.kept / "acme.jwks", "--resume", progress, "--report", report]
    words += ["--config", copy.world.config]
    # One object that cannot be read (a link to itself) keeps the audit from its end, not from what else is wrong.
    report.write_text("an older one")
    unreadable = min((copy.audit() / "records").rglob("*.parquet"))
    changed = min((copy.audit() / "evidence").rglob("*.parquet"))
    whole, sound = unreadable.read_bytes(), changed.read_bytes()
    unreadable.unlink()
    unreadable.symlink_to(unreadable)
    broken = copy.product("table", *words)
    assert broken.returncode == 2 and "UNREAD" in broken.stdout, broken.stdout + broken.stderr
    assert "verified" not in broken.stdout and progress.exists()
    changed.write_bytes(sound[:-1] + b"x")
    both = copy.product("table", *words)
    assert both.returncode == 1 and "UNREAD" in both.stdout and changed.name in both.stdout, both.stdout + both.stderr
    changed.write_bytes(sound)
    unreadable.unlink()
    unreadable.write_bytes(whole)
    second = copy.product("table", *words)
    assert second.returncode == 0 and "read anew" in second.stdout, second.stdout + second.stderr
    assert not progress.exists() and "an older one" not in report.read_text()
    third = copy.product("table", *words)
    assert third.returncode == 0 and "read anew" not in third.stdout, third.stdout + third.stderr
    progress.write_text("{}\n")
    refused = copy.product("table", *words)
    assert refused.returncode == 2 and "not that of an audit of this tenant" in refused.stderr, refused.stderr


def test_a_store_that_nobody_touched_is_found_whole_by_both(copy):
    first, second = copy.table()
    assert first.returncode == 0, first.stdout + first.stderr
    for done in second:
        assert done.returncode == 0, done.stderr
    report = json.loads((copy.kept / "report.json").read_text())
    assert json.loads(report["report"])["audit"]["findings"] == []


def test_whatever_happens_to_a_store_is_named_by_both(copy):
    first, _ = copy.table()
    assert first.returncode == 0, first.stdout + first.stderr
    # Commands leave evidence of the operator's elsewhere; what is of the tenants is put back after each change.
    tenants, whole = copy.silo / "tenants", copy.kept / "whole"
    for tenant in TENANTS:
        shutil.copytree(tenants / tenant, whole / tenant)
    silent = []
    for name, change in MUTATIONS.items():
        change(copy)
        first, second = copy.table()
        said = [line for line in first.stdout.splitlines() if line.startswith("WRONG")] or first.stderr.splitlines()
        other = [done.stderr.strip() for done in second if done.returncode != 0]
        print(f"{name:45} | {said[0][:150] if said else '-':150} | {(other or ['-'])[0][:150]}")
        told = first.returncode == 1 and said and "panicked" not in first.stderr
        told_too = other and all(done.returncode in (0, 1, 2) and "Traceback" not in done.stderr for done in second)
        if name not in TRUE_ALL_THE_SAME and not (told and told_too):
            silent.append((name, first.returncode, first.stdout, first.stderr, [done.stderr for done in second]))
        for tenant in TENANTS:
            shutil.rmtree(tenants / tenant)
            shutil.copytree(whole / tenant, tenants / tenant)
    print(f"{len(MUTATIONS)} changes, {len(silent)} silent")
    assert silent == []
