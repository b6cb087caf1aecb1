"""Answers are proven: by the product's own command, and by a second reading of the formats, written from their pages."""

import base64
import hashlib
import json
import struct
import urllib.request

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SQL = "SELECT record_id, created_at, action, labels, leaf_index FROM audit.records ORDER BY record_id"


def text(value):
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def type_of(kind):
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return text("utf8")
    if pa.types.is_integer(kind):
        return text("int")
    if pa.types.is_timestamp(kind):
        return text("instant" if kind.tz else "timestamp")
    if pa.types.is_map(kind):
        return text("map") + type_of(kind.key_type) + type_of(kind.item_type)
    raise AssertionError(kind)


def value_of(kind, value):
    if value is None:
        return b"\0"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return b"\1" + text(value)
    if pa.types.is_integer(kind):
        return b"\1" + struct.pack("<q", value)
    if pa.types.is_timestamp(kind):
        seconds, micros = divmod(value, 1_000_000)
        return b"\1" + struct.pack("<qI", seconds, micros * 1_000)
    keys = b"".join(value_of(kind.key_type, key) for key, _ in value)
    items = b"".join(value_of(kind.item_type, item) for _, item in value)
    return b"\1" + struct.pack("<I", len(value)) + keys + items


def digest_of(table):
    whole = b"trailhouse answer 1\0" + struct.pack("<I", table.num_columns)
    for field in table.schema:
        whole += text(field.name) + type_of(field.type)
    whole += struct.pack("<Q", table.num_rows)
    for field, column in zip(table.schema, table.columns):
        if pa.types.is_timestamp(field.type):
            assert field.type.unit == "us"
            column = column.cast(pa.int64())
        values = (value_of(field.type, value) for value in column.to_pylist())
        whole += hashlib.sha256(b"".join(values)).digest()
    return hashlib.sha256(whole).hexdigest()


def prefixed(*parts):
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def check(receipt, jwks):
    """The chain, read from the pages: tenant's key, statement, process key, receipt."""
    said, statement = receipt["receipt"], receipt["processKey"]
    (key,) = [key["x"] for key in jwks["keys"] if key["kid"] == statement["signingKey"]]
    tenants = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key + "=="))
    process = base64.b64decode(statement["key"])
    words = [statement[name].encode() for name in ("tenant", "silo", "notBefore", "notAfter", "signingKey")]
    message = b"trailhouse process key 1\0" + prefixed(*words[:2], process, *words[2:])
    tenants.verify(base64.b64decode(statement["signature"]), message)
    assert (statement["tenant"], statement["silo"]) == (said["tenant"], said["silo"])
    assert statement["notBefore"] <= said["answeredAt"] < statement["notAfter"]
    # RFC 8785, for what is in a receipt: ASCII names, texts and small numbers.
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signature = base64.b64decode(receipt["signature"])
    Ed25519PublicKey.from_public_bytes(process).verify(signature, b"trailhouse receipt 1\0" + canonical)


def ask_http(world, path, token):
    request = urllib.request.Request(world.url("eu") + path, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def kept(world, tmp_path_factory):
    """A result with its receipt and the tenant's keys, as the command line keeps them."""
    folder = tmp_path_factory.mktemp("receipt")
    words = ["sql", "--tenant", "acme", "--role", "Reader", "--uri", f"http://127.0.0.1:{world.ports['eu_flight']}"]
    world.run(*words, "--save", str(folder / "result.arrow"), "--receipt", str(folder / "receipt.json"), SQL)
    for tenant in ("acme", "globex"):
        (folder / f"{tenant}.jwks").write_text(world.run("key", "export", "--tenant", tenant))
    return folder


def verify(world, folder, receipt="receipt.json", jwks="acme.jwks", data=None, ok=True):
    words = ["receipt", "verify", str(folder / receipt), "--jwks", str(folder / jwks)]
    words += ["--data", str(folder / data)] if data else []
    return world.run(*words, ok=ok)


def test_a_kept_answer_is_verified_offline(world, kept):
    assert "no result was given" in verify(world, kept)
    assert "the result is the one it is about" in verify(world, kept, data="result.arrow")
    receipt = json.loads((kept / "receipt.json").read_text())
    check(receipt, json.loads((kept / "acme.jwks").read_text()))
    table = pa.ipc.open_file(kept / "result.arrow").read_all()
    assert table.num_rows == receipt["receipt"]["rows"] == 310
    assert digest_of(table) == receipt["receipt"]["answerDigest"]


def test_the_same_rows_in_other_files_are_the_same_answer(world, kept):
    table = pa.ipc.open_file(kept / "result.arrow").read_all()
    with pa.ipc.new_stream(kept / "result.stream", table.schema) as writer:
        for batch in table.to_batches(max_chunksize=7):
            writer.write_batch(batch)
    verify(world, kept, data="result.stream")
    for compression in ("zstd", "none"):
        pa.parquet.write_table(table, kept / "result.parquet", compression=compression, row_group_size=100)
        verify(world, kept, data="result.parquet")
    encoded = table.set_column(2, "action", table["action"].combine_chunks().dictionary_encode())
    with pa.ipc.new_file(kept / "encoded.arrow", encoded.schema) as writer:
        writer.write_table(encoded)
    verify(world, kept, data="encoded.arrow")


def test_whatever_is_changed_is_noticed_and_named(world, kept):
    bytes_kept = (kept / "result.arrow").read_bytes()
    at = bytes_kept.index(b"DescribeInstances")
    (kept / "changed.arrow").write_bytes(bytes_kept[:at] + b"d" + bytes_kept[at + 1 :])
    assert "values" in verify(world, kept, data="changed.arrow", ok=False)
    table = pa.ipc.open_file(kept / "result.arrow").read_all()
    for name, other, said in [
        ("fewer", table.slice(1), "309 row(s)"),
        ("turned", table.take(list(reversed(range(310)))), "values"),
        ("renamed", table.rename_columns(["a", "b", "c", "d", "e"]), "values"),
    ]:
        with pa.ipc.new_file(kept / name, other.schema) as writer:
            writer.write_table(other)
        assert said in verify(world, kept, data=name, ok=False)
    (kept / "cut").write_bytes(bytes_kept[:-100])
    assert "cannot be compared" in verify(world, kept, data="cut", ok=False)
    receipt = json.loads((kept / "receipt.json").read_text())
    jwks = json.loads((kept / "acme.jwks").read_text())
    for change in ({"rows": 311}, {"maskProfile": "Investigator"}, {"tenant": "globex"}, {"note": "x"}):
        changed = {**receipt, "receipt": {**receipt["receipt"], **change}}
        (kept / "forged.json").write_text(json.dumps(changed))
        verify(world, kept, receipt="forged.json", ok=False)
        if "tenant" not in change:
            with pytest.raises(InvalidSignature):
                check(changed, jwks)
    assert "another tenant" in verify(world, kept, jwks="globex.jwks", ok=False)
    keys = {"keys": json.loads((kept / "globex.jwks").read_text())["keys"]}
    (kept / "bare.jwks").write_text(json.dumps(keys))
    assert "not among the tenant's" in verify(world, kept, jwks="bare.jwks", ok=False)


def test_adbc_asks_by_the_name_that_it_gave_the_request(world):
    name = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    with world.connect("acme", "eu", "Reader") as connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.flight.sql.rpc.call_header.x-correlation-id": name})
        cursor.execute(SQL)
        table = cursor.fetch_arrow_table()
    token = world.token("acme", "Reader")
    (receipt,) = ask_http(world, f"/v1/receipts?correlation={name}", token)["receipts"]
    check(receipt, ask_http(world, "/v1/keys", token))
    assert receipt["receipt"]["answerDigest"] == digest_of(table)
    assert ask_http(world, f"/v1/receipts/{receipt['receipt']['id']}", token) == receipt
