"""Exports of a real server: fetched, verified by both verifiers, opened by what readers have, cut off and tampered with."""

import base64
import hashlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import duckdb
import polars
import pyarrow.json
import pyarrow.parquet
import pytest

from conftest import BINARY, ROOT, World

sys.path.insert(0, str(ROOT / "notebooks" / "verify"))
import verify_bundle  # noqa: E402

PURPOSE = "yearly audit"
WAIT_SECONDS_MAX = 90


class Client:
    """A caller of the HTTP surface."""

    def __init__(self, world, silo="eu", tenant="acme", roles=("Export.Operator", "Audit.Investigator"), subject="ada"):
        words = ["token", "--tenant", tenant, "--subject", subject]
        for role in roles:
            words += ["--role", role]
        self.token = world.run(*words).strip()
        self.url = world.url(silo)

    def ask(self, method, path, body=None, **headers):
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def json(self, method, path, body=None, status=200):
        found, _, text = self.ask(method, path, body)
        assert found == status, (found, text)
        return json.loads(text)

    def create(self, status=202, **asked):
        asked = {"stream": "audit.default", "format": "parquet", "purpose": PURPOSE, **asked}
        return self.json("POST", "/v1/exports", asked, status)

    def wait(self, export, state="finished"):
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            job = self.json("GET", f"/v1/exports/{export}")
            if job["state"] == state:
                return job
            assert job["state"] in ("queued", "running"), job
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

    def fetch(self, job, folder):
        for file in job["files"]:
            status, headers, body = self.ask("GET", f"/v1/exports/{job['exportId']}/files/{file['path']}")
            assert status == 200, body
            digest = hashlib.sha256(body).hexdigest()
            assert digest == file["sha256"] == headers["x-trailhouse-sha256"] and len(body) == file["bytes"]
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return folder


def bundle(client, folder, **asked):
    made = client.create(**asked)
    return client.fetch(client.wait(made["exportId"]), folder)


def keys(world, tenant, folder):
    path = folder / f"{tenant}.jwks"
    path.write_text(world.run("key", "export", "--tenant", tenant))
    return path


def verified(folder, jwks):
    """What both verifiers say: whether it holds, and the findings of each."""
    words = [BINARY, "verify", "bundle", folder, "--jwks", jwks, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    ours = json.loads(done.stdout)
    assert ours["ok"] == (done.returncode == 0)
    theirs = verify_bundle.verify_bundle(folder, jwks)
    assert ours["ok"] == theirs.ok, (ours["findings"], theirs.findings)
    return ours, theirs


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """One bundle of each kind."""
    folder = tmp_path_factory.mktemp("bundles")
    client = Client(world)
    clear = Client(world, roles=("Export.Admin", "Audit.Admin"), subject="bo")
    month = {"from": "2010-01-01T00:00:00Z", "to": "2040-01-01T00:00:00Z"}
    bundles = {
        "parquet": bundle(client, folder / "parquet"),
        "ndjson": bundle(client, folder / "ndjson", format="ndjson", timeRange=month),
        "clear": bundle(clear, folder / "clear"),
        "filtered": bundle(client, folder / "filtered", filters={"action": ["ec2.DescribeInstances", "sts.AssumeRole"]}),
        "none": bundle(client, folder / "none", filters={"action": "Nobody.Does.This"}),
    }
    return bundles, keys(world, "acme", folder)


@pytest.mark.parametrize("kind", ["parquet", "ndjson", "clear", "filtered", "none"])
def test_both_verifiers_find_a_bundle_sound(made, kind):
    bundles, jwks = made
    ours, theirs = verified(bundles[kind], jwks)
    assert ours["ok"], ours["findings"]
    manifest = json.loads((bundles[kind] / "manifest.json").read_text())
    assert ours["rows"] == ours["leaves"] == manifest["recordCount"]
    assert manifest["integrity"]["completeness"] == "proven"
    assert ours["omitted"] == manifest["integrity"]["treeSize"] - manifest["recordCount"]
    assert (ours["omitted"] == 0) == (kind in ("parquet", "ndjson", "clear"))
    assert manifest["provenance"]["purpose"] == PURPOSE and manifest["residency"]["dataSilo"] == "eu"
    if kind == "clear":
        assert ours["withheld"] == 0 and ours["shown"] > ours["rows"]
    if kind in ("parquet", "ndjson"):
        assert ours["withheld"] > 0


def test_readers_open_the_chunks_as_they_are(made, world):
    bundles, _ = made
    wanted = world.query("SELECT record_id, action FROM audit.records WHERE stream = 'audit.default' ORDER BY created_at, record_id")
    wanted = list(zip(wanted["record_id"].to_pylist(), wanted["action"].to_pylist()))
    parquet = str(bundles["parquet"] / "part-00000.parquet")
    lines = str(bundles["ndjson"] / "part-00000.ndjson")
    tables = [
        pyarrow.parquet.read_table(parquet),
        pyarrow.json.read_json(lines),
        duckdb.sql(f"SELECT * FROM read_parquet('{parquet}')").to_arrow_table(),
        duckdb.sql(f"SELECT * FROM read_json('{lines}', format = 'newline_delimited')").to_arrow_table(),
        polars.read_parquet(parquet).to_arrow(),
        polars.read_ndjson(lines).to_arrow(),
    ]
    for table in tables:
        assert list(zip(table["record_id"].to_pylist(), table["action"].to_pylist())) == wanted
    contexts = [json.loads(text) for text in tables[0]["context"].to_pylist() if text]
    assert contexts and contexts == [json.loads(text) for text in tables[1]["context"].to_pylist() if text]


def test_a_bundle_shows_what_a_query_shows_and_its_leaves_no_more(made, world):
    bundles, _ = made
    for kind, role in (("parquet", "Investigator"), ("clear", "Audit.Admin")):
        shown = world.query(
            "SELECT context FROM audit.records WHERE stream = 'audit.default' ORDER BY created_at, record_id", role=role
        )
        table = pyarrow.parquet.read_table(bundles[kind] / "part-00000.parquet")
        assert table["context"].to_pylist() == shown["context"].to_pylist()
        leaves = pyarrow.parquet.read_table(bundles[kind] / "proofs" / "part-00000.leaves.parquet")["parts"].to_pylist()
        # Every event has this member, and this caller sees a part of it only: so no leaf opens what it stands in.
        assert all(b'"recipientAccountId"' in leaf for leaf in leaves) == (kind == "clear")
        assert any(b'"recipientAccountId"' in leaf for leaf in leaves) == (kind == "clear")


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    at = len(data) // 2 if at is None else at
    data[at] ^= 1
    path.write_bytes(data)


def swap(folder, one, other):
    first = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(first)


TAMPERS = {
    "a byte of the manifest": lambda folder, other: flip(folder / "manifest.json"),
    "a byte of the signature": lambda folder, other: flip(folder / "manifest.sig", -4),
    "the header of the signature": lambda folder, other: flip(folder / "manifest.sig", 5),
    "a byte of a chunk": lambda folder, other: flip(folder / "part-00000.parquet"),
    "the end of a chunk": lambda folder, other: (folder / "part-00000.parquet").write_bytes(
        (folder / "part-00000.parquet").read_bytes()[:-1]
    ),
    "a missing chunk": lambda folder, other: (folder / "part-00000.parquet").unlink(),
    "an extra chunk": lambda folder, other: shutil.copy(folder / "part-00000.parquet", folder / "part-00001.parquet"),
    "an extra file": lambda folder, other: (folder / "proofs" / "more").write_text("x"),
    "a chunk of another export": lambda folder, other: shutil.copy(other / "part-00000.parquet", folder / "part-00000.parquet"),
    "files in each other's place": lambda folder, other: swap(folder, "proofs/omitted", "dictionary.json"),
    "a byte of the leaves": lambda folder, other: flip(folder / "proofs" / "part-00000.leaves.parquet"),
    "a byte of the checkpoint": lambda folder, other: flip(folder / "proofs" / "checkpoint"),
    "the manifest of another export": lambda folder, other: [
        shutil.copy(other / name, folder / name) for name in ("manifest.json", "manifest.sig")
    ],
    "a link in the place of a file": lambda folder, other: [
        (folder / "dictionary.json").unlink(),
        (folder / "dictionary.json").symlink_to(other / "dictionary.json"),
    ],
    "the instructions": lambda folder, other: (folder / "README-verify.md").write_text("all is well"),
}


@pytest.mark.parametrize("tamper", list(TAMPERS))
def test_both_verifiers_name_what_was_changed(made, tmp_path, tamper):
    bundles, jwks = made
    folder = tmp_path / "bundle"
    shutil.copytree(bundles["parquet"], folder)
    TAMPERS[tamper](folder, bundles["filtered"])
    ours, theirs = verified(folder, jwks)
    assert not ours["ok"] and ours["findings"] and theirs.findings


def test_the_keys_of_another_tenant_prove_nothing(made, world, tmp_path):
    bundles, _ = made
    ours, _ = verified(bundles["parquet"], keys(world, "globex", tmp_path))
    assert not ours["ok"] and ours["rows"] == 0


def test_what_an_export_may_not_be_is_refused(world):
    client = Client(world)
    for body, status, slug in [
        ({"purpose": None}, 400, "invalid-query"),
        ({"format": "xml"}, 400, "export-unsupported-format"),
        ({"format": "csv"}, 400, "export-unsupported-format"),
        ({"stream": "audit.evidence"}, 400, None),
        ({"stream": "nobody"}, 400, None),
        ({"tenantId": "globex"}, 400, "invalid-query"),
        ({"timeRange": {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}}, 400, "invalid-query"),
        ({"filters": {"context": "x"}}, 400, "unsupported-filter"),
        ({"filters": {"tenantId": "globex"}}, 403, "cross-tenant-query"),
    ]:
        asked = {"stream": "audit.default", "format": "parquet", "purpose": PURPOSE, **body}
        asked = {name: value for name, value in asked.items() if value is not None}
        found, _, text = client.ask("POST", "/v1/exports", asked)
        problem = json.loads(text)
        assert found == status, (body, text)
        assert slug is None or problem["type"].endswith(f"/{slug}"), (body, text)
    for caller, status, slug in [
        (Client(world, roles=("Audit.Admin",)), 403, "forbidden"),
        (Client(world, silo="us"), 409, "residency-conflict"),
    ]:
        found, _, text = caller.ask("POST", "/v1/exports", {"stream": "audit.default", "format": "parquet", "purpose": "x"})
        assert found == status and json.loads(text)["type"].endswith(f"/{slug}"), text


def test_nobody_else_finds_an_export(world):
    client = Client(world)
    export = client.create(filters={"action": "Nobody.Else"})["exportId"]
    client.wait(export)
    others = [Client(world, subject="eve"), Client(world, silo="us", tenant="globex")]
    for other in others:
        for path in ("", "/manifest", "/verify", "/files/manifest.json", "/files/part-00000.parquet"):
            found, _, text = other.ask("GET", f"/v1/exports/{export}{path}")
            assert found == 404, text
        assert other.ask("DELETE", f"/v1/exports/{export}")[0] == 404
        assert other.ask("POST", f"/v1/exports/{export}/links", {"path": "manifest.json"})[0] == 404
    # Nor whoever has the name and another role: they may see other records.
    same = Client(world, roles=("Export.Operator", "Audit.Admin"))
    found, _, text = same.ask("GET", f"/v1/exports/{export}/files/manifest.json")
    assert found == 409 and "policy-version-stale" in text.decode()


def test_links_ranges_and_digests(world, made):
    client = Client(world)
    export = client.create(filters={"action": ["ec2.DescribeInstances", "secretsmanager.GetSecretValue"]})["exportId"]
    job = client.wait(export)
    path = f"/v1/exports/{export}/files/part-00000.parquet"
    status, headers, whole = client.ask("GET", path)
    assert status == 200 and headers["etag"].strip('"') == hashlib.sha256(whole).hexdigest()
    status, headers, body = client.ask("HEAD", path)
    assert status == 200 and body == b"" and int(headers["content-length"]) == len(whole)
    for text, expected in [("bytes=0-0", whole[:1]), ("bytes=10-99", whole[10:100]), (f"bytes={len(whole) - 5}-", whole[-5:]), ("bytes=-7", whole[-7:])]:
        status, headers, body = client.ask("GET", path, Range=text)
        assert status == 206 and body == expected, text
    assert client.ask("GET", path, Range=f"bytes={len(whole)}-")[0] == 416
    assert client.json("GET", f"/v1/exports/{export}/verify")["ok"]
    link = client.json("POST", f"/v1/exports/{export}/links", {"path": "part-00000.parquet"}, 201)["url"]
    with urllib.request.urlopen(client.url + link, timeout=30) as answer:
        assert answer.read() == whole
    token = link.rsplit("/", 1)[1]
    changed = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(client.url + link.replace(token, changed), timeout=30)
    assert refused.value.code == 404
    assert job["files"]


def test_the_command_line_makes_fetches_and_verifies(world, tmp_path):
    client = Client(world)
    token = tmp_path / "token"
    token.write_text(client.token)
    words = ["--tenant", "acme", "--url", client.url, "--token-file", str(token)]

    def run(*rest, ok=True):
        done = subprocess.run([BINARY, "export", *rest, *words], capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout

    export = run(
        "create", "--stream", "audit.default", "--format", "parquet", "--purpose", PURPOSE,
        "--filter", "action=ec2.DescribeInstances", "--wait",
    ).split()[0]
    assert export.startswith("exp-")
    assert "finished" in run("status", export)
    folder = tmp_path / "bundle"
    run("download", export, str(folder))
    ours, _ = verified(folder, keys(world, "acme", tmp_path))
    assert ours["ok"], ours["findings"]
    run("verify", export)
    run("download", export, str(folder), ok=False)


def test_a_tenant_that_is_suspended_gets_nothing(tmp_path):
    world = World(tmp_path, ack="commit")
    world.start()
    try:
        world.run("tenant", "create", "acme", "--silo", "eu")
        world.run("ingest", "--tenant", "acme", "--format", "cloudtrail", "--url", world.url("eu"), str(ROOT / "tests" / "data" / "cloudtrail"))
        client = Client(world)
        export = client.create()["exportId"]
        client.wait(export)
        link = client.json("POST", f"/v1/exports/{export}/links", {"path": "manifest.json"}, 201)["url"]
        world.run("tenant", "suspend", "acme")
        # A server looks a tenant up again after two seconds.
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            found, _, text = client.ask("GET", f"/v1/exports/{export}/files/manifest.json")
            if found != 200:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert found == 403 and "unknown-tenant" in text.decode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(client.url + link, timeout=30)
        assert refused.value.code in (403, 404)
    finally:
        world.stop()


RECORDS = 40_000


def send(world, client_token, count, first=0):
    """Records of a month, ten thousand a batch, some created later than their neighbours came in."""
    for start in range(first, first + count, 5_000):
        lines = []
        for number in range(start, min(start + 5_000, first + count)):
            minute = (number * 7919) % (30 * 24 * 60)
            lines.append(json.dumps({
                "tenantId": "acme",
                "idempotencyKey": f"k-{number}",
                "createdAt": f"2026-01-{1 + minute // 1440:02}T{minute % 1440 // 60:02}:{minute % 60:02}:{number % 60:02}Z",
                "action": f"Thing.{number % 7}",
                "resource": {"type": "Thing", "id": f"thing-{number % 500}"},
                "actor": {"type": "User", "id": f"user-{number % 50}"},
                "correlation": {"traceId": f"{number:032x}"},
                "context": {"number": number, "email": f"u{number}@example.org", "blob": base64.b64encode(hashlib.sha256(str(number).encode()).digest() * 6).decode()},
            }))
        request = urllib.request.Request(
            f"{world.url('eu')}/v1/audit/records:batch", ("\n".join(lines) + "\n").encode(),
            {"Authorization": f"Bearer {client_token}", "Content-Type": "application/x-ndjson"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            told = answer.read().decode()
            assert '"status":4' not in told, told[:500]


@pytest.mark.parametrize("form", ["parquet", "ndjson"])
def test_an_export_that_was_killed_goes_on_to_the_same_bytes(tmp_path, form):
    world = World(tmp_path, ack="commit")
    # One chunk for each row group or so, so that there is a middle.
    world.config.write_text(world.config.read_text() + "[exports]\nchunk_mib = 1\nbeat_ms = 200\n")
    world.start()
    try:
        world.run("tenant", "create", "acme", "--silo", "eu")
        send(world, world.token("acme", scope="audit.write"), RECORDS)
        client = Client(world)
        january = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
        first = client.create(format=form, timeRange=january)["exportId"]
        wanted = client.fetch(client.wait(first), tmp_path / "first")
        again = client.create(format=form, timeRange=january)["exportId"]
        assert again != first
        kills = 0
        while kills < 3:
            job = client.json("GET", f"/v1/exports/{again}")
            if job["state"] == "finished":
                break
            if job["state"] == "running":
                time.sleep(0.15 * (kills + 1))
                world.stop(signal.SIGKILL)
                kills += 1
                world.start()
            time.sleep(0.02)
        found = client.fetch(client.wait(again), tmp_path / "again")
        assert kills > 0
        names = sorted(str(path.relative_to(wanted)) for path in wanted.rglob("*") if path.is_file())
        assert names == sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())
        assert len([name for name in names if name.startswith("part-")]) > 2
        for name in names:
            if name.startswith(("part-", "proofs/part-", "proofs/omitted")):
                assert (wanted / name).read_bytes() == (found / name).read_bytes(), name
        for folder in (wanted, found):
            ours, _ = verified(folder, keys(world, "acme", tmp_path))
            assert ours["ok"] and ours["rows"] == RECORDS, ours["findings"]
    finally:
        world.stop()


def test_an_export_that_is_called_off_ends(tmp_path):
    world = World(tmp_path, ack="commit")
    world.config.write_text(world.config.read_text() + "[exports]\nchunk_mib = 1\nbeat_ms = 100\n")
    world.start()
    try:
        world.run("tenant", "create", "acme", "--silo", "eu")
        send(world, world.token("acme", scope="audit.write"), 20_000)
        client = Client(world)
        one, other = client.create(), client.create(status=200)
        assert one["exportId"] == other["exportId"]
        job = client.json("DELETE", f"/v1/exports/{one['exportId']}")
        assert job["state"] in ("cancelled", "finished")
        found, _, text = client.ask("GET", f"/v1/exports/{one['exportId']}/files/manifest.json")
        assert found == (412 if job["state"] == "cancelled" else 200), text
        following = client.create()["exportId"]
        assert following != one["exportId"]
        client.wait(following)
        folder = pathlib.Path(tmp_path) / "eu" / "tenants" / "acme" / "exports"
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while job["state"] == "cancelled" and any(path.is_file() for path in folder.rglob(f"{one['exportId']}/**/*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # What lies in the store is no record that anybody can read.
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"example.org" not in path.read_bytes() and b"PAR1" not in path.read_bytes()[:4]
    finally:
        world.stop()
