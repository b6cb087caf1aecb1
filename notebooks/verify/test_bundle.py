"""Export bundles: such that hold, made from the page of their format, and everything that must not pass."""

import copy
import hmac
import json
import os
import random
import re
import shutil
import struct
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import verify
import verify_bundle as vb
import verify_table
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_verify import KEY, KEYS, ORIGIN, PUBLIC, checkpoint, encoded_rest, jwks, signed, tree
from verify import INSTANT, JSON, LABELS, NOTHING, REST, TEXT, Keys, lp, sha256, to_base64

KID = "kms://eu/00/s1"
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
BEGIN = 1_761_638_400_000_000
TEXTS = [name for name in vb.NAMES if name not in ("created_at", "ingested_at", "labels")]
TIME = pa.timestamp("us", "UTC")
TYPES = dict.fromkeys(TEXTS, pa.string()) | {"created_at": TIME, "ingested_at": TIME, "leaf_index": pa.int64()}
TYPES |= {"labels": pa.map_(pa.string(), pa.string())}


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def stored(at):
    """A record as a table has it; what it has apart differs with its number."""
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    row = {
        "tenant_id": "acme", "stream": "audit.default", "retention_class": "standard", "salt": bytes([at % 256]) * 16,
        "record_id": "01J9ZC5K5Q2Z6S0Z2G1W" + "".join(digits[at >> 5 * place & 31] for place in (5, 4, 3, 2, 1, 0)),
        "created_at": BEGIN + at * 7919 % 1009 * 1_000_001, "ingested_at": BEGIN + at * 1_000_000,
        "action": ("Login", "Read", "Write")[at % 3], "resource_type": "Letter", "resource_id": f"l{at}",
        "actor_type": "User", "actor_id": f"ünn{at}", "trace_id": "", "span_id": None, "purpose": "care",
        "labels": {"env": ("prod", "test")[at % 2], "gone": None},
        "context": compact({"n": at, "list": [1, {"a": True}]}),
        "extras": compact({"severity": 3.5}), "schema_version": "1.1", "policy_version": "tenant:acme@7",
        "idempotency_key": None, "sealed_fields": {}, "leaf_layout": "[]",
    }  # fmt: skip
    if at % 4 == 1:
        row["leaf_layout"] = compact(["created_at", "actor_id", "purpose", "labels", "extras"])
        row["purpose"] = None
    elif at % 4 == 2:
        row |= {"context": compact({"list": [None, 2], "user": {}}), "labels": {"env": ("prod", "test")[at % 2]}}
        row |= {"name": "Bö", "phone": None, "extras": None}
        row["sealed_fields"] = {"/context/list/0": '{"k":[1,null]}', "/context/user/a~1b~0": '"h1:x"'}
        row["sealed_fields"] |= {"/labels/owner": '"ann"', "/context/user/none": "null"}
        layout = ["/context/list/0", "/context/user/a~1b~0", "name:/context/user/name", "/context/user/none"]
        row["leaf_layout"] = compact([*layout, "phone:/context/user/phone", "/labels/owner"])
    elif at % 4 == 3:
        row |= {"labels": None, "context": None, "extras": "{}", "trace_id": None, "span_id": "s"}
    return row


def parts_of(row):
    """seal/leaf: path, type, bytes and salt of every part."""
    placed = verify_table.layout_parts(row)
    apart = {column for column, *_ in placed if column}
    parts = [("", REST, encoded_rest(row, apart))]
    parts += [(path, kind, verify.encode_value(kind, value)) for _, path, kind, value in placed]
    salts = (hmac.digest(row["salt"], b"th-salt" + struct.pack("<I", at), "sha256") for at in range(1, len(parts) + 1))
    return [(*part, salt) for part, salt in zip(parts, salts)]


def encoded_parts(parts, withheld=()):
    texts = [struct.pack("<I", len(parts))]
    for path, kind, value, salt in parts:
        if path in withheld:
            texts.append(b"\0" + verify.commitment(salt, path, kind, value))
        else:
            texts.append(b"\1" + salt + lp(path) + bytes([kind]) + lp(value))
    return b"".join(texts)


def exported(row, withheld=()):
    """The row of a bundle: what stands apart is back where it stood, but for what is withheld."""
    row = copy.deepcopy(row)
    documents = {name: row[name] if name == "labels" or row[name] is None else json.loads(row[name]) for name in
                 vb.DOCUMENTS}  # fmt: skip
    for column, path, _, value in verify_table.layout_parts(row):
        if path in withheld:
            if column in vb.NAMES:
                row[column] = documents[column] = None
        elif path.startswith("/"):
            name, *steps, last = vb.steps_of(path)
            inside = vb.value_at(documents[name], steps)
            value = value if column or value is None else json.loads(value)
            inside[int(last) if isinstance(inside, list) else last] = value
    for name in ("context", "extras"):
        row[name] = None if documents[name] is None else compact(documents[name])
    return {name: row[name] for name in vb.NAMES}


def omitted(hashes, included, low, high):
    """The hashes of what is left out, by the recursion of the page."""
    if not any(low <= index < high for index in included) and high - low & high - low - 1 == 0:
        return tree(hashes[low:high])
    if high - low == 1:
        return b""
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    return omitted(hashes, included, low, middle) + omitted(hashes, included, middle, high)


def rfc3339(micros):
    at = datetime.fromtimestamp(micros // 1_000_000, timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06}Z"


def matches(row, filters, times):
    values = {name: row[column] for name, column in vb.FILTERS.items()}
    values |= {f"labels.{name}": value for name, value in (row["labels"] or {}).items()}
    begin, end = times
    in_time = (begin is None or begin <= row["created_at"]) and (end is None or row["created_at"] < end)
    return in_time and all(values.get(name) in allowed for name, allowed in filters.items())


class Bundle:
    """A bundle before it is written. Everything in it can be changed; checksums, counts and signature then follow."""

    def __init__(self, count=23, form="parquet", filters=None, times=(None, None), withheld=(), values="stored",
                 proven=True, chunk=6, compression=None, source=stored):  # fmt: skip
        self.form, self.filters, self.times, self.values, self.proven = form, filters or {}, times, values, proven
        self.compression, self.chunk = compression or ("zstd", "none")[form == "ndjson"], chunk
        self.kid, self.key = KID, KEY
        records = [source(at) for at in range(count)]
        self.hashes = [verify_table.record_leaf(row) for row in records]
        pairs = [(exported(row, withheld), at, row) for at, row in enumerate(records)]
        pairs = [pair for pair in pairs if matches(pair[0], self.filters, times)]
        pairs.sort(key=lambda pair: (pair[0]["created_at"], pair[0]["record_id"]))
        self.rows = [row | ({"leaf_index": at} if proven else {}) for row, at, _ in pairs]
        self.entries = [[at, encoded_parts(parts_of(row), withheld)] for _, at, row in pairs]
        self.omitted = omitted(self.hashes, {at for _, at, _ in pairs}, 0, count) if proven and count else b""
        self.checkpoint = signed(checkpoint(count, tree(self.hashes)))
        self.size, self.manifest, self.head, self.after = count, {}, {}, lambda files: None
        self.columns = list(vb.NAMES) + ["leaf_index"] * proven
        self.types, self.codec = TYPES, self.compression

    def drop(self, at):
        del self.rows[at], self.entries[at]

    def table(self, rows):
        # Map columns are given as pairs.
        rows = [row | {"labels": None if row["labels"] is None else list(row["labels"].items())} for row in rows]
        columns = {name: [row[name] for row in rows] for name in self.columns}
        schema = pa.schema([(name, self.types[name]) for name in self.columns])
        return pa.table([pa.array(columns[name], self.types[name]) for name in self.columns], schema=schema)

    def lines(self, rows):
        def line(row):
            times = {name: rfc3339(row[name]) for name in ("created_at", "ingested_at") if isinstance(row[name], int)}
            return compact({name: (row | times)[name] for name in self.columns}) + "\n"

        return "".join(map(line, rows)).encode()

    def files(self):
        files, self.counts = {"dictionary.json": b"{}", "README-verify.md": b"# How to verify\n"}, {}
        for number, begin in enumerate(range(0, len(self.rows), self.chunk)):
            name, rows = f"part-{number:05}.{self.form}", self.rows[begin : begin + self.chunk]
            self.counts[name] = len(rows)
            if self.form == "parquet":
                files[name] = parquet(self.table(rows), self.codec)
            else:
                files[name] = self.lines(rows)
                if self.codec == "zstd":
                    files[name] = pa.Codec("zstd").compress(files[name], asbytes=True)
            if self.proven:
                entries = self.entries[begin : begin + self.chunk]
                columns = [pa.array([entry[0] for entry in entries], pa.int64())]
                columns += [pa.array([entry[1] for entry in entries], pa.binary())]
                table = pa.table(columns, names=["leaf_index", "parts"])
                files[f"proofs/part-{number:05}.leaves.parquet"] = parquet(table, "zstd")
        if self.proven:
            files |= {"proofs/checkpoint": self.checkpoint.encode(), "proofs/omitted": self.omitted}
        self.after(files)
        return files

    def described(self, files):
        entries = {}
        for name, data in files.items():
            entries[name] = {"path": name, "bytes": len(data), "sha256": sha256(data).hex()}
        begin, end = (None if bound is None else rfc3339(bound) for bound in self.times)
        tool = {"name": "trailhouse", "version": "1.0.0", "build": "0123abc"}
        made = {"tool": tool, "policyVersion": "tenant:acme@7", "maskingProfile": "auditor", "purpose": None}
        made |= {"requestedBy": "ann", "generatorHost": "node-1", "generatedAt": rfc3339(BEGIN), "correlationId": "c-1"}
        integrity = {"completeness": "proven" if self.proven else "attested", "values": self.values, "prevRoot": None}
        integrity |= {"treeSize": self.size if self.proven else None, "signingKeyId": KID}
        return {
            "manifestVersion": "1.2", "exportId": "exp-01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4", "tenantId": "acme",
            "stream": "audit.default", "format": self.form, "compression": self.compression,
            "timeRange": {"from": begin, "to": end}, "filters": self.filters, "schemaVersion": "trailhouse-records-1",
            "recordCount": len(self.rows), "provenance": made, "dictionaryRef": "dictionary.json",
            "chunks": [entries[name] | {"rows": rows} for name, rows in sorted(self.counts.items())],
            "files": [entries[name] for name in sorted(entries) if name not in self.counts],
            "integrity": integrity | {"segmentRoots": ["sha256:" + "ab" * 32]}, "readmeRef": "README-verify.md",
            "residency": {"dataSilo": "eu", "objectStore": "file:///x"},
        } | self.manifest  # fmt: skip

    def write(self, folder):
        files = self.files()
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        write_manifest(folder, self.described(files), self.kid, self.key, **self.head)
        return folder


def parquet(table, codec):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none" if codec == "none" else codec, row_group_size=4)
    return sink.getvalue().to_pybytes()


def write_manifest(folder, manifest, kid=KID, key=KEY, **head):
    data = manifest if isinstance(manifest, bytes) else vb.canonical(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    head = {"alg": "EdDSA", "kid": kid, "typ": "trailhouse-export-manifest"} | head
    protected = to_base64(compact(head).encode())
    signature = key.sign(f"{protected}.{to_base64(data)}".encode())
    (folder / "manifest.sig").write_text(f"{protected}..{to_base64(signature)}")


def resign(folder, change=lambda manifest: None):
    """The lists, and then the signature, of what lies in the folder now."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for entry in [*manifest["chunks"], *manifest["files"]]:
        data = (folder / entry["path"]).read_bytes()
        entry |= {"bytes": len(data), "sha256": sha256(data).hex()}
    change(manifest)
    write_manifest(folder, manifest)


def holds(folder, **counts):
    report = vb.verify_bundle(folder, KEYS)
    assert report.ok, report.findings
    assert {name: getattr(report, name) for name in counts} == counts
    return report


def found(folder, says, keys=KEYS):
    """There are findings, and the first that says this is given; all of them can be printed."""
    report = vb.verify_bundle(folder, keys)
    assert not report.ok and report.findings and "not verified" in str(report)
    matching = [finding for finding in report.findings if re.search(says, finding)]
    assert matching, report.findings
    return report


# Bundles that hold

FORMS = [("parquet", "zstd"), ("parquet", "none"), ("ndjson", "none"), ("ndjson", "zstd")]


@pytest.mark.parametrize("form, compression", FORMS)
def test_a_bundle_of_everything_holds(tmp_path, form, compression):
    report = holds(Bundle(form=form, compression=compression).write(tmp_path), rows=23, chunks=4, leaves=23, withheld=0)
    assert report.complete and report.omitted == 0 and report.shown == 23 + 6 * 5 + 6 * 6
    assert "the rows are all 23 leaves of " + ORIGIN in str(report) and str(report).endswith("\nverified")


@pytest.mark.parametrize("form, compression", FORMS[1:3])
@pytest.mark.parametrize(
    "filters, times",
    [
        ({"action": ["Login"]}, (None, None)), ({"action": ["Login", "Read"], "labels.env": ["prod"]}, (None, None)),
        ({}, (BEGIN + 300_000_000, None)), ({}, (None, BEGIN + 300_000_000)), ({"labels.x": ["y"]}, (None, None)),
        ({"resource.id": ["l3", "l4"], "tenantId": ["acme"]}, (BEGIN, BEGIN + 999_000_000)),
        ({"actor.id": []}, (None, None)),
    ],
)  # fmt: skip
def test_a_bundle_of_a_part_holds(tmp_path, form, compression, filters, times):
    bundle = Bundle(41, form, filters, times, compression=compression)
    report = holds(bundle.write(tmp_path), rows=len(bundle.rows), omitted=41 - len(bundle.rows), complete=True)
    assert 0 <= len(bundle.rows) < 41 and "of which only hashes are here" in str(report)


@pytest.mark.parametrize("form, compression", FORMS[1:3])
def test_parts_can_be_withheld(tmp_path, form, compression):
    hidden = {"actor_id", "labels", "extras", "/context/list/0", "/context/user/name", "/labels/owner"}
    bundle = Bundle(form=form, withheld=hidden, compression=compression)
    holds(bundle.write(tmp_path), withheld=6 * 3 + 6 * 3, complete=True)
    bundle = Bundle(form=form, withheld={""}, compression=compression)
    (tmp_path / "rest").mkdir()
    holds(bundle.write(tmp_path / "rest"), withheld=23, complete=True)


@pytest.mark.parametrize("form, compression", FORMS[1:3])
def test_rows_of_another_schema_are_compared_where_they_can_be(tmp_path, form, compression):
    bundle = Bundle(form=form, values="upcast", compression=compression)
    for row in bundle.rows:
        row |= {"action": "auth.login", "context": '{"new":1}', "labels": {}, "ingested_at": None}
    holds(bundle.write(tmp_path), complete=True)
    bundle.rows[5]["created_at"] += 1
    bundle.rows[6]["record_id"] += "0"
    report = found(bundle.write(tmp_path), f"part-00000.{form}: row 6: created_at")
    assert f"part-00001.{form}: row 1: record_id is not the value in its leaf" in report.findings


@pytest.mark.parametrize("form, compression", FORMS[1:3])
@pytest.mark.parametrize("count", [0, 23])
def test_an_attested_bundle_has_no_proofs(tmp_path, form, compression, count):
    report = holds(Bundle(count, form, proven=False, compression=compression).write(tmp_path), rows=count, leaves=0)
    assert not report.complete and "completeness: attested by the signature, and not proven" in str(report)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 300])
def test_logs_of_every_shape_hold(tmp_path, size):
    for number, form in enumerate(("parquet", "ndjson")):
        folder = tmp_path / str(number)
        folder.mkdir()
        holds(Bundle(size, form, chunk=100).write(folder), rows=size, complete=True)


def test_the_root_is_rebuilt_from_any_leaves_and_the_gaps_between_them():
    order = random.Random(1)
    for size in range(1, 70):
        hashes = [sha256(bytes([at])) for at in range(size)]
        for share in (0, 0.1, 0.5, 0.9, 1):
            included = sorted(at for at in range(size) if order.random() < share)
            left = [omitted(hashes, set(included), 0, size)]

            def take():
                hashed, left[0] = left[0][:32], left[0][32:]
                return hashed

            data = memoryview(b"".join(hashes[at] for at in included))
            assert vb.rebuilt_root(size, vb.array("q", included), data, take) == tree(hashes) and not left[0]


def test_the_leaves_are_those_of_the_page():
    for at in range(8):
        row = stored(at)
        for withheld in ((), ("", "actor_id", "/context/list/0")):
            commitments, _ = vb.open_leaf(encoded_parts(parts_of(row), withheld))
            hashed = verify.leaf_hash("acme", "audit.default", row["record_id"], commitments)
            assert hashed == verify_table.record_leaf(row)


def test_numbers_are_what_is_written():
    pairs = {"1": "1.0", "100": "1e2", "0": "-0", "10000000000000000000000": "1e22", '"a"': '"\\u0061"', "[]": "[ ]"}
    for one, other in pairs.items():
        assert vb.same(vb.document_of(one, "it"), vb.document_of(other, "it"))
    others = {"1": "true", "0": "false", "null": "0", "9007199254740993": "9007199254740992", "[]": "{}", '"1"': "1"}
    for one, other in (others | {"0.1": "0.10000000000000000001", "[1]": "[1,1]", '{"a":1}': "{}"}).items():
        assert not vb.same(vb.document_of(one, "it"), vb.document_of(other, "it")), one
    for text in ("NaN", "-Infinity", '{"a":1,"a":1}', "", "1 2", '"\\ud800"', "[" * 100_000, "01", "1e" + "9" * 30):
        with pytest.raises(verify.NotVerified):
            vb.document_of(text, "it")


def test_times_are_those_of_the_rfc():
    second = 1_000_000
    for text, micros in {
        "1970-01-01T00:00:00Z": 0, "1970-01-01T00:00:01.5Z": 1_500_000, "1970-01-01T01:00:00+01:00": 0,
        "1969-12-31T23:59:59.999999Z": -1, "2024-02-29T23:59:59-00:30": 1_709_252_999 * second,
        "2025-10-28T08:00:00.000000Z": BEGIN,
    }.items():  # fmt: skip
        assert vb.instant(text, "it") == micros
    for text in (
        "", "1970-01-01", "1970-01-01 00:00:00Z", "1970-01-01T00:00:00", "1970-01-01T00:00:60Z", "2023-02-29T00:00:00Z",
        "1970-01-01T00:00:00.1234567Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00:00+24:00", "1970-01-01T00:00:00.Z",
        "197\u0660-01-01T00:00:00Z", "1970-01-01T00:00:\u0660\u0660Z", "1970-01-01T00:00:00Z\n", None, 0, [],
        "0000-01-01T00:00:00Z",
    ):  # fmt: skip
        with pytest.raises(verify.NotVerified):
            vb.instant(text, "it")


# What was changed after it was signed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders that are not changed, by their format."""
    folders = {}
    for form in ("parquet", "ndjson"):
        folders[form] = Bundle(form=form, filters={"action": ["Login", "Read"]}).write(tmp_path_factory.mktemp(form))
    return folders


@pytest.fixture(params=["parquet", "ndjson"])
def folder(made, tmp_path, request):
    return shutil.copytree(made[request.param], tmp_path / "bundle")


def test_every_byte_of_the_manifest_is_signed(folder):
    path, data = folder / "manifest.json", (folder / "manifest.json").read_bytes()
    for at in range(0, len(data), 11):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        report = found(folder, r"^manifest\.sig: the key .* did not sign manifest\.json$")
        assert report.found == 1 and not report.manifest and report.rows == 0
    for changed in (data + b"\n", b"", data[:-1], b" " + data):
        path.write_bytes(changed)
        assert found(folder, r"^manifest\.sig: .* did not sign").found == 1


def test_every_byte_of_the_signature_counts(folder):
    path, text = folder / "manifest.sig", (folder / "manifest.sig").read_text()
    for at in range(len(text)):
        path.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
        assert found(folder, r"^manifest\.sig: ").found == 1
    payload = to_base64((folder / "manifest.json").read_bytes())
    others = ["", ".", "..", text[:-1], text + "A", text + "==", text + ".", "\n" + text, text * 2, "\u00fc" + text]
    others += ["x" * 20_000, *(text.replace("..", dots) for dots in (".", "...", f".{payload}."))]
    for other in others:
        path.write_text(other)
        assert found(folder, r"^manifest\.sig: ").found == 1, other
    path.write_text(text + " \r\n\n")
    holds(folder)


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "none"}, {"alg": "HS256"}, {"alg": "Ed25519"}, {"alg": None}, {"kid": "kms://eu/00/s2"}, {"kid": 1},
        {"typ": "JWT"}, {"typ": None}, {"crit": []}, {"crit": ["b64"], "b64": False},
    ],
)  # fmt: skip
def test_the_header_of_the_signature_is_just_this(folder, head):
    manifest = (folder / "manifest.json").read_bytes()
    write_manifest(folder, manifest, **head)
    assert found(folder, r"^manifest\.sig: ").found == 1
    write_manifest(folder, manifest, iat=1)
    holds(folder)


def test_only_the_key_that_the_manifest_names_signs_it(folder):
    keys = Keys("acme", {KID: PUBLIC, "other": STRANGER.public_key().public_bytes_raw()})
    manifest = (folder / "manifest.json").read_bytes()
    write_manifest(folder, manifest, "other", STRANGER)
    assert found(folder, r"^manifest\.sig: kid is not the signingKeyId", keys).found == 1
    assert found(folder, r"^manifest\.sig: kid 'other' is none of the tenant's keys").found == 1
    write_manifest(folder, manifest, KID, STRANGER)
    assert found(folder, r"^manifest\.sig: .* did not sign", keys).found == 1
    write_manifest(folder, manifest)
    assert found(folder, r"another tenant's", Keys("globex", KEYS.public)).found == 1
    assert vb.verify_bundle(folder, Keys(None, KEYS.public)).ok
    for name in ("manifest.sig", "manifest.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        assert found(folder, f"^{name}: is missing$").found == 1
        (folder / "aside").write_bytes(kept)
        (folder / name).symlink_to(folder / "aside")
        assert found(folder, f"^{name}: is no regular file$").found == 1
        (folder / name).unlink()
        (folder / "aside").rename(folder / name)


def test_every_file_is_the_one_that_the_manifest_names(folder):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith("manifest.")]
    assert len(names) == 2 + 3 + 3 + 2
    for name in names:
        path = folder / name
        data = path.read_bytes()
        for at in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 1}):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
            assert found(folder, f"^{name}: its digest is not the one").found == 1
        for changed in (data[:-1], data + b"x", b"", data * 2):
            path.write_bytes(changed)
            assert found(folder, f"^{name}: has {len(changed)} bytes, not {len(data)}").found == 1
        path.unlink()
        assert found(folder, f"^{name}: is missing$").found == 1
        path.symlink_to("/dev/zero")
        assert found(folder, f"^{name}: is a symbolic link$").found == 2
        path.unlink()
        os.mkfifo(path)
        assert found(folder, f"^{name}: is no regular file$").found == 2
        path.unlink()
        path.mkdir()
        assert found(folder, f"^{name}: is an extra folder$").found == 2
        path.rmdir()
        path.write_bytes(data)
    holds(folder)


def test_nothing_else_lies_there(folder):
    for name in ("notes.txt", "part-00009.parquet", "proofs/x", ".hidden", "proofs/part-00000.leaves.bak", "a\nb"):
        (folder / name).write_text("x")
        assert found(folder, f"^{re.escape(ascii(name)[1:-1])}: is an extra file").found == 1
        (folder / name).unlink()
    (folder / "more" / "deep").mkdir(parents=True)
    assert found(folder, "^more: is an extra folder$").found == 1
    (folder / "more" / "deep").rmdir()
    (folder / "more").rmdir()
    (folder / "link").symlink_to(folder / "README-verify.md")
    assert found(folder, "^link: is a symbolic link$").found == 1
    (folder / "link").unlink()
    (folder / "proofs").rename(folder.parent / "aside")
    (folder / "proofs").symlink_to(folder.parent / "aside", target_is_directory=True)
    report = found(folder, "^proofs: is a symbolic link$")
    assert "proofs/checkpoint: is missing" in report.findings and not report.complete


def test_chunks_do_not_change_places(folder, made):
    form = "parquet" if (folder / "part-00000.parquet").exists() else "ndjson"
    first, second = folder / f"part-00000.{form}", folder / f"part-00001.{form}"
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    report = found(folder, rf"^part-00000\.{form}: ")
    assert any(finding.startswith(f"part-00001.{form}: ") for finding in report.findings)
    resign(folder)
    report = found(folder, rf"^part-00000\.{form}: row 1: its leaf_index is not")
    assert any("does not come after the row before" in finding for finding in report.findings)
    first.write_bytes(one)
    second.write_bytes(other)
    (folder / "another").mkdir()
    stranger = Bundle(form=form, source=lambda at: stored(at) | {"salt": b"\x77" * 16}).write(folder / "another")
    first.write_bytes((stranger / first.name).read_bytes())
    shutil.rmtree(stranger)
    found(folder, rf"^part-00000\.{form}: ")


# What was signed by the tenant's key, and still is not so


@pytest.fixture(params=["parquet", "ndjson"])
def form(request):
    return request.param


def test_no_row_can_be_left_out(tmp_path, form):
    for number, at in enumerate((0, 9, 22)):
        folder = tmp_path / str(number)
        folder.mkdir()
        bundle = Bundle(form=form)
        index = bundle.rows[at]["leaf_index"]
        bundle.drop(at)
        report = found(bundle.write(folder), r"^manifest\.json: nothing was to be left out, and 1 of treeSize")
        assert not report.complete
        bundle.omitted = bundle.hashes[index]
        found(bundle.write(folder), r"^manifest\.json: nothing was to be left out")
        bundle.filters = {"tenantId": ["acme"]}
        assert vb.verify_bundle(bundle.write(folder), KEYS).ok, "that it matched is known to nobody"
        bundle.omitted = b""
        found(bundle.write(folder), r"^proofs/omitted: ends too early: rows are missing")
        bundle.omitted = bytes(32)
        found(bundle.write(folder), r"^proofs/checkpoint: its root is not that of the rows")
        bundle.key = STRANGER
        assert found(bundle.write(folder), r"^manifest\.sig: ").found == 1


def test_what_is_left_out_is_neither_less_nor_more(tmp_path, form):
    bundle = Bundle(form=form, filters={"action": ["Login"]})
    good = bundle.omitted
    for data, says in [
        (good[:-32], "ends too early"), (good[:-1], "ends too early"), (b"", "ends too early"),
        (good + b"x", "has more"),
        (good + bytes(32), "has more"), (good[32:] + good[:32], "proofs/omitted is"),
        (bytes(len(good)), "proofs/omitted is"),
        (good[:40] + bytes([good[40] ^ 1]) + good[41:], "proofs/omitted is"),
    ]:  # fmt: skip
        bundle.omitted = data
        report = found(bundle.write(tmp_path), f"proofs/omitted.*{says}|{says}")
        assert report.found == 1 and not report.complete
    bundle.omitted = good
    holds(bundle.write(tmp_path))


def test_the_checkpoint_is_that_of_the_rows(tmp_path, form):
    bundle = Bundle(form=form)
    root = tree(bundle.hashes)
    for note, says in [
        (signed(checkpoint(23, bytes(32))), "its root is not that of the rows"), ("", "proofs/checkpoint: "),
        (signed(checkpoint(23, root), STRANGER), "proofs/checkpoint: none of the tenant's keys"),
        (signed(checkpoint(24, root)), "proofs/checkpoint: is of 24 leaves"),
        (signed(checkpoint(22, root)), "proofs/checkpoint: is of 22 leaves"),
        (checkpoint(23, root).text(), "proofs/checkpoint: "),
        (bundle.checkpoint.replace("Version 1", "Version 2"), "proofs/checkpoint: a signature"),
        ("x" * 70_000, "proofs/checkpoint"),
        (signed(checkpoint(23, tree(Bundle(source=lambda at: stored(at + 1)).hashes))), "proofs/checkpoint: its root"),
    ]:  # fmt: skip
        bundle.checkpoint = note
        assert found(bundle.write(tmp_path), says).found == 1


CHANGES = {
    "tenant_id": "globex", "record_id": "01J9ZC5K5Q2Z6S0Z2G1W000000X", "created_at": BEGIN - 9,
    "ingested_at": BEGIN - 9,
    "stream": "audit.other", "action": "Logout", "resource_type": "Bill", "resource_id": "l999", "actor_type": "Robot",
    "actor_id": "bob", "trace_id": "t", "span_id": "x", "purpose": "fun", "labels": {"env": "other"}, "context": "{}",
    "extras": '{"severity":4}', "schema_version": "1.2", "policy_version": "x", "idempotency_key": "k",
}  # fmt: skip


@pytest.mark.parametrize("name", vb.NAMES)
def test_no_value_of_a_row_can_be_changed(tmp_path, form, name):
    """In rows that have it in the rest, apart, or not at all; also made null, and put where null was."""
    for number in range(4):
        for value in (CHANGES[name], None):
            bundle = Bundle(4, form)
            at = next(at for at, row in enumerate(bundle.rows) if row["leaf_index"] == number)
            if bundle.rows[at][name] == value:
                continue
            bundle.rows[at][name] = value
            found(bundle.write(tmp_path), rf"^part-00000\.{form}: row {at + 1}: .*({name}|tenant or stream|row before)")


@pytest.mark.parametrize(
    "number, name, value, says",
    [
        (0, "context", {"n": 0, "list": [1, {"a": 1}]}, "context does not have"),
        (0, "context", {"n": False, "list": [1, {"a": True}]}, "context does not have"),
        (0, "context", {"n": 0, "list": [1, {"a": True}, 2]}, "context does not have"),
        (0, "context", {"n": 0}, "context does not have"), (0, "context", [], "context does not have"),
        (0, "context", {"n": 0, "list": [1, {"a": True}], "more": 1}, "context has a value that is not in its leaf"),
        (0, "context", {"n": 0, "list": [1, {"a": True, "b": None}]}, "context has a value that is not in its leaf"),
        (0, "context", {"n": 0.0, "list": [1.0, {"a": True}]}, None),
        (0, "labels", {"env": "prod"}, "labels does not have"),
        (0, "labels", {"env": "prod", "gone": "x"}, "labels has a value"),
        (0, "labels", {"env": "prod", "gone": None, "new": "x"}, "labels has a value"),
        (1, "extras", {"severity": 3.50}, None), (1, "extras", {"severity": 3.5, "more": 1}, "extras has a value"),
        (2, "extras", {}, "extras has a value"), (2, "labels", {"env": "prod"}, "'/labels/owner' is not"),
        (2, "labels", {"env": "prod", "owner": "bob"}, "'/labels/owner' is not"),
        (2, "labels", {"env": "prod", "owner": "ann", "x": "y"}, "labels has a value"),
        (3, "context", {}, "context has a value"),
        (3, "labels", {}, "labels has a value"), (3, "extras", {"a": 1}, "extras has a value"),
    ],
)  # fmt: skip
def test_documents_have_what_the_leaf_has(tmp_path, form, number, name, value, says):
    bundle = Bundle(4, form)
    row = next(row for row in bundle.rows if row["leaf_index"] == number)
    row[name] = value if name == "labels" else json.dumps(value)
    found(bundle.write(tmp_path), rf"^part-00000\.{form}: row \d: {says}") if says else holds(bundle.write(tmp_path))


USER = {"a/b~": "h1:x", "name": "Bö", "none": None, "phone": None}
CONTEXT = {"list": [{"k": [1, None]}, 2], "user": USER}


@pytest.mark.parametrize(
    "context, says",
    [
        (CONTEXT, None), (CONTEXT | {"user": {"a/b~": "h1:x", "name": "Bö", "none": None}}, None),
        (CONTEXT | {"user": {"a/b~": "h1:x", "name": "Bö", "phone": None}}, "'/context/user/none'"),
        (CONTEXT | {"list": [{"k": [1.0, None]}, 2.0]}, None),
        (CONTEXT | {"list": [{"k": [1]}, 2]}, "'/context/list/0'"),
        (CONTEXT | {"list": [{"k": [1, 0]}, 2]}, "'/context/list/0'"),
        (CONTEXT | {"list": [None, 2]}, "'/context/list/0'"),
        (CONTEXT | {"list": [{"k": [1, None], "l": 1}, 2]}, "'/context/list/0'"),
        (CONTEXT | {"list": []}, "'/context/list/0'"),
        (CONTEXT | {"list": [{"k": [1, None]}, 3]}, "context does not have"),
        (CONTEXT | {"user": USER | {"name": "bo"}}, "'/context/user/name'"),
        (CONTEXT | {"user": USER | {"a/b~": None}}, "'/context/user/a~1b~0'"),
        (CONTEXT | {"user": USER | {"phone": "1"}}, "'/context/user/phone'"),
        (CONTEXT | {"user": USER | {"none": 0}}, "'/context/user/none'"),
        (CONTEXT | {"user": USER | {"mail": "x"}}, "context has a value"), (CONTEXT | {"x": {}}, "context has a value"),
        ({"list": CONTEXT["list"]}, "'/context/user"), ({"user": USER}, "'/context/list/0'"),
        (None, "'/context/list/0'"),
    ],
)  # fmt: skip
def test_what_stands_apart_is_where_it_stood(tmp_path, form, context, says):
    bundle = Bundle(4, form)
    at = next(at for at, row in enumerate(bundle.rows) if row["leaf_index"] == 2)
    bundle.rows[at]["context"] = None if context is None else json.dumps(context)
    if says:
        assert found(bundle.write(tmp_path), rf"^part-00000\.{form}: row {at + 1}: {says}").found == 1
    else:
        holds(bundle.write(tmp_path))


def test_of_what_is_withheld_nothing_is_known(tmp_path, form):
    """But that columns which no rule can name are in the rest."""
    bundle = Bundle(4, form, withheld={"actor_id", "/context/list/0"})
    for row in bundle.rows:
        if row["leaf_index"] == 1:
            row |= {"actor_id": "***", "idempotency_key": "k"}
        if row["leaf_index"] == 2:
            row["context"] = json.dumps(CONTEXT | {"list": ["***", 2], "more": 1})
    holds(bundle.write(tmp_path), withheld=2)
    bundle = Bundle(4, form, withheld={"actor_id"}, source=lambda at: stored(at) | {"policy_version": None})
    for row in bundle.rows:
        row["policy_version"] = "x"
    assert found(bundle.write(tmp_path), "row [1-4]: policy_version has a value, and its leaf has none").found == 4


def test_rows_are_in_order_and_there_once(tmp_path, form):
    def check(change, says, **others):
        bundle = Bundle(form=form, **others)
        change(bundle)
        return found(bundle.write(tmp_path), says)

    def swap(one, other):
        def change(bundle):
            for of in (bundle.rows, bundle.entries):
                of[one], of[other] = of[other], of[one]

        return change

    after = "does not come after the row before"
    check(swap(2, 3), rf"^part-00000\.{form}: row 4: {after}")
    check(swap(5, 6), rf"^part-00001\.{form}: row 1: {after}")

    def twice(bundle):
        for of in (bundle.rows, bundle.entries):
            of.insert(3, copy.deepcopy(of[3]))

    check(twice, rf"^part-00000\.{form}: row 5: {after}")
    folder = found(Bundle(form=form, filters={"action": ["Login"]}).write(tmp_path), "extra file") and tmp_path

    def doubled(bundle):
        """A row that is said to be at the place of another one."""
        bundle.rows[7]["leaf_index"] = bundle.entries[7][0] = bundle.entries[2][0]

    report = check(doubled, rf"^part-00001\.{form}: row 2: its leaf_index is also that of part-00000\.{form}: row 3")
    assert folder and not report.complete

    def beyond(index):
        def change(bundle):
            bundle.rows[7]["leaf_index"] = bundle.entries[7][0] = index

        return change

    for index in (23, -1, 2**60 if form == "parquet" else 2**50):
        check(beyond(index), rf"^part-00001\.{form}: row 2: leaf {index} is not among the 23 of the log")

    def other_index(bundle):
        bundle.rows[7]["leaf_index"] += 1

    check(other_index, rf"^part-00001\.{form}: row 2: its leaf_index is not")


def test_rows_are_what_was_asked_for(tmp_path, form):
    for filters in ({"action": ["Login"]}, {"labels.env": ["prod"]}, {"labels.x": ["y"]}, {"resource.type": ["Bill"]},
                    {"actor.type": ["Robot"]}, {"actor.id": ["x"]}, {"tenantId": ["globex"]}):  # fmt: skip
        bundle = Bundle(form=form)
        bundle.filters = filters
        (name,) = filters
        found(bundle.write(tmp_path), rf"^part-0000\d\.{form}: row \d: does not match the filter '{name}'")
    for times in ((BEGIN + 300_000_000, None), (None, BEGIN + 300_000_000)):
        bundle = Bundle(form=form)
        bundle.times = times
        found(bundle.write(tmp_path), rf"^part-0000\d\.{form}: row \d: created_at is not in the timeRange")
    bundle = Bundle(form=form)
    last = bundle.rows[-1]["created_at"]
    for times, is_held in (((bundle.rows[0]["created_at"], last + 1), True), ((None, last), False)):
        bundle.times = times
        assert vb.verify_bundle(bundle.write(tmp_path), KEYS).ok == is_held


# Leaves


def test_every_byte_of_a_leaf_counts(tmp_path):
    for number in range(3):
        bundle = Bundle(4, "ndjson")
        at = next(at for at, entry in enumerate(bundle.entries) if entry[0] == number)
        data = bundle.entries[at][1]
        for place in range(0, len(data), 5):
            bundle.entries[at][1] = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            report = found(bundle.write(tmp_path), rf"^part-00000\.ndjson: row {at + 1}: |^proofs/checkpoint: its root")
            assert not report.complete
        for changed in (data[:-1], data + b"x", b"", data[:4], data[4:], data * 2, bytes(4), b"\xff" * 4, None,
                        b"\xff\xff\0\0" + data[4:], data[:5] + b"\xff" * 400):  # fmt: skip
            bundle.entries[at][1] = changed
            found(bundle.write(tmp_path), rf"^part-00000\.ndjson: row {at + 1}: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[1:], lambda parts: [parts[1], parts[0]],
        lambda parts: [parts[0], parts[2], parts[1], *parts[3:]],
        lambda parts: [parts[0], parts[0]], lambda parts: [*parts, ("stream", TEXT, b"audit.default", bytes(32))],
        lambda parts: [*parts, ("/a", 3, bytes(8), bytes(32))],
        lambda parts: [*parts, ("/other/a", NOTHING, b"", bytes(32))],
        lambda parts: [*parts, ("nobody", TEXT, b"x", bytes(32))], lambda parts: [*parts, parts[-1]],
        lambda parts: [*parts, ("/extras/x", TEXT, b"x", bytes(32))],
        lambda parts: [*parts, ("/extras", JSON, b"1", bytes(32))],
        lambda parts: [*parts, ("/extras/x", NOTHING, b"x", bytes(32))],
        lambda parts: [*parts, ("/extras/x", JSON, b"{", bytes(32))],
        lambda parts: [*parts, ("/extras/x", JSON, b"\xff", bytes(32))],
        lambda parts: [*parts, (b"/\xff", JSON, b"", bytes(32))],
        lambda parts: [("", REST, b"", bytes(32)), *parts[1:]],
        lambda parts: [("", REST, parts[0][2] + b"\x63", bytes(32)), *parts[1:]],
        lambda parts: [("", REST, parts[0][2] + b"\x0e\1" + lp("x"), bytes(32)), *parts[1:]],
        lambda parts: [(part[0], part[1], b"\1\0\0\0", part[3]) if part[1] == LABELS else part for part in parts],
        lambda parts: [(part[0], part[1], b"short", part[3]) if part[1] == INSTANT else part for part in parts],
    ],
)  # fmt: skip
def test_leaves_that_no_record_has_are_refused(tmp_path, change):
    """Even if the log has them: the checkpoint is made for the changed leaf."""
    bundle = Bundle(4, "ndjson")
    at = next(at for at, entry in enumerate(bundle.entries) if entry[0] == 1)
    parts = change(parts_of(stored(1)))
    bundle.entries[at][1] = encoded_parts(parts)
    commitments = [sha256(b"th-c1", salt, lp(path), bytes([kind]), lp(value)) for path, kind, value, salt in parts]
    bundle.hashes[1] = verify.leaf_hash("acme", "audit.default", stored(1)["record_id"], commitments)
    bundle.checkpoint = signed(checkpoint(4, tree(bundle.hashes)))
    found(bundle.write(tmp_path), rf"^part-00000\.ndjson: row {at + 1}: ")


def test_promoted_columns_of_the_rest_say_not_where_they_stood(tmp_path):
    def source(at):
        return stored(at) | {"statement": "SELECT ?"} if at % 4 != 2 else stored(at)

    bundle = Bundle(4, "ndjson", source=source)
    bundle.entries = [[at, with_statement(at)] for at, _ in bundle.entries]
    bundle.rows[0]["context"] = json.dumps(json.loads(bundle.rows[0]["context"] or "{}") | {"statement": "SELECT ?"})
    holds(bundle.write(tmp_path), complete=True)


def with_statement(at):
    parts = parts_of(stored(at))
    if at % 4 != 2:
        path, kind, value, salt = parts[0]
        parts[0] = (path, kind, value + b"\xff" + lp("statement") + b"\1" + lp("SELECT ?"), salt)
    return encoded_parts(parts)


def test_every_row_has_its_leaf(tmp_path, form):
    bundle = Bundle(form=form)
    leaf_file = "proofs/part-00001.leaves.parquet"

    def check(change, says):
        bundle.after = change
        return found(bundle.write(tmp_path), says)

    def table(change):
        def after(files):
            files[leaf_file] = parquet(change(pq.read_table(pa.BufferReader(files[leaf_file]))), "zstd")

        return after

    check(table(lambda table: table.slice(0, 4)), f"^{leaf_file}: has no leaf of row 5")
    check(table(lambda table: pa.concat_tables([table, table])), f"^{leaf_file}: has more leaves")
    check(table(lambda table: table.take([1, 0, 2, 3, 4, 5])), rf"^part-00001\.{form}: row 1: its leaf_index is not")
    check(table(lambda table: table.select(["parts", "leaf_index"])), f"^{leaf_file}: its columns are not")
    check(table(lambda table: table.select(["parts"])), f"^{leaf_file}: its columns are not")
    check(table(lambda table: table.append_column("x", table["parts"])), f"^{leaf_file}: its columns are not")
    check(table(lambda table: table.cast(pa.schema([("leaf_index", pa.int32()), ("parts", pa.binary())]))),
          f"^{leaf_file}: leaf_index is of another type")  # fmt: skip
    nulls = pa.array([None] * 6, pa.int64())
    without = table(lambda table: table.set_column(0, "leaf_index", nulls))
    check(without, rf"^part-00001\.{form}: row 1: its leaf is null")
    for data in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"{}"):
        report = check(lambda files: files.update({leaf_file: data}), f"^{leaf_file}: cannot be read")
        assert (report.found, report.rows, report.leaves) == (1, 23, 17) and not report.complete


# Manifests


MANIFESTS = [
    {"manifestVersion": "1.1"}, {"manifestVersion": 1}, {"exportId": "exp-1"},
    {"exportId": "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4"},
    {"tenantId": "globex"}, {"tenantId": None}, {"format": "csv"}, {"format": "ndjson"}, {"compression": "gzip"},
    {"x": 1},
    {"compression": "none"}, {"stream": "other"}, {"timeRange": {"from": None}},
    {"timeRange": {"from": "x", "to": None}},
    {"timeRange": {"from": 1, "to": None}}, {"timeRange": None}, {"filters": []}, {"filters": {"nobody": ["x"]}},
    {"filters": {"action": "x"}}, {"filters": {"action": ["b", "a"]}}, {"filters": {"action": [1]}},
    {"recordCount": 22},
    {"recordCount": "23"}, {"recordCount": True}, {"schemaVersion": "x"}, {"chunks": []}, {"chunks": {}}, {"files": []},
    {"dictionaryRef": "x.json"}, {"readmeRef": "../x"}, {"provenance": {}}, {"integrity": {}}, {"residency": {}},
    {"residency": {"dataSilo": "eu", "objectStore": 1}},
]  # fmt: skip


@pytest.mark.parametrize("change", MANIFESTS, ids=lambda change: compact(change)[:40])
def test_a_manifest_is_of_its_format(tmp_path, change):
    bundle = Bundle()
    bundle.manifest = change
    is_of_rows = change in ({"compression": "none"}, {"stream": "other"})
    found(bundle.write(tmp_path), r"^part-0000" if is_of_rows else r"^manifest\.json: |another tenant")


@pytest.mark.parametrize(
    "where, change",
    [
        ("provenance", {"tool": {"name": "other", "version": "1", "build": "1"}}), ("provenance", {"tool": {}}),
        ("provenance", {"purpose": 1}), ("provenance", {"generatedAt": "today"}), ("provenance", {"requestedBy": None}),
        ("integrity", {"completeness": "sure"}), ("integrity", {"completeness": "attested"}),
        ("integrity", {"treeSize": 22}),
        ("integrity", {"treeSize": None}), ("integrity", {"treeSize": 0}), ("integrity", {"treeSize": "23"}),
        ("integrity", {"treeSize": 2**60}), ("integrity", {"treeSize": -1}), ("integrity", {"values": "new"}),
        ("integrity", {"segmentRoots": ["ab"]}), ("integrity", {"segmentRoots": [1]}),
        ("integrity", {"prevRoot": "sha256:x"}),
        ("integrity", {"signingKeyId": "other"}), ("integrity", {"x": 1.5}), ("integrity", {"treeSize": 23.0}),
    ],
)  # fmt: skip
def test_what_the_manifest_says_within_is_of_its_format(folder, where, change):
    def changed(manifest):
        manifest[where] |= change

    data = json.loads((folder / "manifest.json").read_bytes())
    changed(data)
    write_manifest(folder, json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
    found(folder, r"^manifest\.json: |^manifest\.sig: kid|^proofs/checkpoint: is of")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["chunks"].reverse(), lambda m: m["files"].reverse(), lambda m: m["chunks"].append(m["chunks"][0]),
        lambda m: m["files"].append(m["files"][0]), lambda m: m["chunks"][0].update(path="part-00001.parquet"),
        lambda m: m["chunks"][0].update(path="../part-00000.parquet"),
        lambda m: m["chunks"][0].update(path="/etc/passwd"),
        lambda m: m["chunks"][0].update(path="part 0"), lambda m: m["chunks"][0].update(sha256="AB" * 32),
        lambda m: m["chunks"][0].update(sha256="ab"), lambda m: m["chunks"][0].update(bytes=-1),
        lambda m: m["files"].pop(),
        lambda m: m["chunks"][0].update(rows=5), lambda m: m["chunks"][0].pop("rows"), lambda m: m["chunks"].append(1),
        lambda m: m["files"].append(m["files"][-1] | {"path": "proofs/x"}), lambda m: m["files"].append({}),
        lambda m: (m["chunks"][0].update(rows=5), m["chunks"][1].update(rows=7)), lambda m: m["chunks"].pop(),
        lambda m: m.pop("filters"), lambda m: m["chunks"][0].update(path="part-0.parquet"),
    ],
)  # fmt: skip
def test_the_lists_of_a_manifest_are_those_of_its_files(tmp_path, change):
    folder = Bundle().write(tmp_path)
    resign(folder, change)
    found(folder, r"^manifest\.json: |^part-0000[01]\.parquet: has ")


def test_a_manifest_has_one_text(folder):
    data = (folder / "manifest.json").read_bytes()
    value = json.loads(data)
    backwards = dict(reversed(value.items()))
    for other in (
        b"", b"[]", b"null", data + b"\n", json.dumps(value, sort_keys=True).encode(), compact(backwards).encode(),
        b"\xff",
        data.replace(b'"acme"', b'"\\u0061cme"'), data.replace(b'"recordCount":', b'"recordCount":1,"recordCount":'),
        b"[" * 100_000, data[:-1] + b',"z":NaN}', b"\xef\xbb\xbf" + data,
    ):  # fmt: skip
        write_manifest(folder, other)
        assert found(folder, r"^manifest\.json: ").found == 1
    assert vb.canonical({"\ufb01": 1, "\U0001f600": 2, "a": '\n"\\\x1f\x7f\u00fc'}) == (
        '{"a":"\\n\\"\\\\\\u001f\x7f\u00fc","\U0001f600":2,"\ufb01":1}'
    )


# Files of another form


def test_parquet_has_just_the_columns(tmp_path):
    for change, says in [
        (lambda b: b.columns.reverse(), "its columns are not"),
        (lambda b: b.columns.remove("purpose"), "its columns are not"),
        (lambda b: b.columns.append("action"), "its columns are not"),
        (lambda b: b.columns.remove("leaf_index"), "its columns are"),
        (lambda b: b.types.update(created_at=pa.timestamp("ms", "UTC")), "created_at is of another type"),
        (lambda b: b.types.update(created_at=pa.timestamp("us")), "created_at is of another type"),
        (lambda b: b.types.update(created_at=pa.int64()), "created_at is of another type"),
        (lambda b: b.types.update(action=pa.binary()), "action is of another type"),
        (lambda b: b.types.update(labels=pa.list_(pa.string())), "labels is of another type"),
        (lambda b: setattr(b, "codec", "gzip"), "is not compressed as"),
        (lambda b: setattr(b, "codec", "none"), "is not compressed as"),
    ]:  # fmt: skip
        bundle = Bundle()
        bundle.types = dict(bundle.types)
        for row in bundle.rows:
            row["created_at"] = row["created_at"] // 1000 * 1000
        change(bundle)
        if pa.types.is_list(bundle.types["labels"]):
            bundle.rows = [row | {"labels": {}} for row in bundle.rows]
        found(bundle.write(tmp_path), rf"^part-00000\.parquet: {says}")


def test_lines_have_just_the_members(tmp_path):
    def line(change):
        def after(files):
            lines = files["part-00001.ndjson"].split(b"\n")
            lines[1] = change(lines[1])
            files["part-00001.ndjson"] = b"\n".join(lines)

        return after

    def row(change):
        return line(lambda data: compact(change(json.loads(data))).encode())

    def cut(files):
        files["part-00001.ndjson"] = files["part-00001.ndjson"][:-1]

    for change, says in [
        (row(lambda row: dict(reversed(row.items()))), "line 2"), (row(lambda row: row | {"x": 1}), "line 2"),
        (row(lambda row: {name: row[name] for name in row if name != "purpose"}), "line 2"),
        (line(lambda _: b""), "line 2"),
        (row(lambda row: row | {"created_at": 1}), "line 2: created_at"),
        (row(lambda row: row | {"ingested_at": "x"}), "line 2: ingested"),
        (row(lambda row: row | {"labels": []}), "line 2: labels"),
        (row(lambda row: row | {"labels": {"a": 1}}), "line 2: a label"),
        (row(lambda row: row | {"context": {}}), "line 2: context"),
        (row(lambda row: row | {"action": True}), "line 2: action"),
        (row(lambda row: row | {"leaf_index": "1"}), "line 2: leaf_index"),
        (row(lambda row: row | {"leaf_index": 1.0}), "line 2: leaf"),
        (row(lambda row: row | {"leaf_index": None}), "line 2: leaf_index"),
        (line(lambda data: b"\xff" + data), "line 2"),
        (line(lambda data: data + data), "line 2"), (line(lambda data: b"[]"), "line 2"),
        (line(lambda data: b"[" * 99_999), "line 2"),
        (line(lambda data: data.replace(b'"action":', b'"action":"x","action":')), "line 2"),
        (line(lambda data: data.replace(b'"Letter"', b'"\\ud800"')), "line 2"),
        (row(lambda row: row | {"created_at": None}), "row 2: has no created_at"),
        (row(lambda row: row | {"record_id": None}), "row 2: has no created_at or no record_id"),
        (cut, "line 6: does not end with"),
        (line(lambda data: data + b"\n" + data), "has more rows than the 6"),
        (lambda files: files.update({"part-00001.ndjson": b""}), "has 0 rows, not 6"),
    ]:  # fmt: skip
        bundle = Bundle(form="ndjson")
        bundle.after = change
        found(bundle.write(tmp_path), rf"^part-00001\.ndjson: {says}")
    bundle = Bundle(form="ndjson", compression="zstd")
    bundle.codec = "none"
    found(bundle.write(tmp_path), r"^part-00000\.ndjson: cannot be read")


@pytest.mark.parametrize("name", ["context", "extras"])
def test_the_text_of_a_document_is_json_even_if_no_leaf_says_so(tmp_path, form, name):
    for text in ("{", "", "NaN", '{"a":1,"a":2}', "[" * 5000):
        bundle = Bundle(4, form, proven=False)
        bundle.rows[2][name] = text
        assert found(bundle.write(tmp_path), rf"^part-00000\.{form}: row 3: {name}: is not the JSON").found == 1
    bundle = Bundle(4, form)
    deep = next(at for at, row in enumerate(bundle.rows) if row["leaf_index"] == 0)
    bundle.rows[deep]["context"] = '{"a":' * 900 + "1" + "}" * 900
    found(bundle.write(tmp_path), rf"^part-00000\.{form}: row {deep + 1}: ")


def test_whatever_a_signed_file_contains_is_a_finding_and_no_crash(tmp_path):
    order, whole = random.Random(7), Bundle(12, chunk=12).files()
    for number in range(150):
        bundle, name = Bundle(12, chunk=12), order.choice([name for name in whole if name.endswith("parquet")])
        data = bytearray(whole[name])
        for _ in range(order.choice((1, 3, 40))):
            data[order.randrange(len(data))] = order.randrange(256)
        data = data[: order.randrange(len(data))] if number % 5 == 0 else data
        bundle.after = lambda files: files.update({name: bytes(data)})
        report = vb.verify_bundle(bundle.write(tmp_path), KEYS)
        assert report.ok or "part-00000" in str(report) or "proofs/checkpoint" in str(report), str(report)


# Reports


def test_only_the_first_findings_are_kept(tmp_path):
    bundle = Bundle(60, chunk=9)
    for row in bundle.rows:
        row["actor_type"] = "Robot\x1b[2J" * 90
    report = found(bundle.write(tmp_path), "actor_type is not the value in its leaf")
    assert (len(report.findings), report.found) == (20, 60) and "and 40 more" in str(report)
    bundle = Bundle(4)
    bundle.filters = {"labels.\x1b[2J" + "x" * 999: ["y"]}
    report = found(bundle.write(tmp_path), "does not match the filter|extra file")
    assert all(finding.isprintable() and len(finding) <= 401 for finding in report.findings)


def test_the_exit_code_says_what_was_found(tmp_path, capsys):
    def run(*words):
        try:
            return vb.main([str(word) for word in words])
        except SystemExit as ended:
            return ended.code

    keys, folder = tmp_path / "acme.jwks", tmp_path / "bundle"
    keys.write_text(json.dumps(jwks()))
    folder.mkdir()
    Bundle().write(folder)
    assert run(folder, "--jwks", keys) == 0
    printed = capsys.readouterr().out
    assert "23 row(s) in 4 chunk(s)" in printed and printed.endswith("\nverified\n")
    assert vb.verify_bundle(str(folder), str(keys)).ok and vb.verify_bundle(folder, keys.read_bytes()).ok
    (folder / "README-verify.md").write_text("changed")
    assert run(folder, "--jwks", keys) == 1
    assert "finding: README-verify.md: has 7 bytes" in capsys.readouterr().out
    (tmp_path / "bad").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--jwks", keys) == 1
    for words in (
        (), (folder,), ("--jwks", keys), (folder, "--jwks", tmp_path / "none"), (folder, "--jwks", tmp_path / "bad"),
        (tmp_path / "none", "--jwks", keys), (keys, "--jwks", keys), (folder, "--jwks", keys, "x"),
    ):  # fmt: skip
        assert run(*words) == 2, words
