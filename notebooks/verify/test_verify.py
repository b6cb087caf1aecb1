"""The verifier against the vectors of the format pages, and against everything that must not pass."""

import base64
import json
import struct
from pathlib import Path

import pytest
import verify
import verify_table
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from verify import (
    EMPTY_ROOT, JSON, NOTHING, REST, TEXT, Checkpoint, Keys, NotVerified, lp, sha256, subtrees, tile_path, to_base64,
    tree_root, unbase64,
)  # fmt: skip

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = Keys("acme", {"kms://eu/00/s1": PUBLIC})
ORIGIN = "trailhouse.dev/log/" + "a5" * 16


def refused(call, *words, says=""):
    with pytest.raises(NotVerified) as caught:
        call(*words)
    assert says in caught.value.reason, caught.value.reason


# seal/leaf

BARE = {
    "tenant_id": "acme", "stream": "audit.default", "record_id": "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4",
    "created_at": 1_761_638_112_345_678, "ingested_at": 1_761_638_400_000_000, "retention_class": "standard",
    "salt": bytes(range(16)), "leaf_layout": "[]",
}  # fmt: skip
LAYOUT = ["actor_id", "purpose", "labels", "/context/user/email", "name:/context/user/name",
    "phone:/context/user/phone",
          "/labels/owner"]  # fmt: skip
FULL = BARE | {
    "action": "Appointment.Booked", "resource_type": "Appointment", "resource_id": "apt_123", "actor_type": "User",
    "actor_id": "h1:bp1x6v-Q1RAiWyQrE_syvQ", "trace_id": "3e1f", "span_id": "", "purpose": None,
    "labels": {"env": "prod", "gone": None}, "context": '{"list":[null],"n":1.5}', "extras": '{"severity":3}',
    "schema_version": "1.1", "policy_version": "tenant:acme@7", "idempotency_key": "k-1", "name": "Bo", "phone": None,
    "sealed_fields": {"/context/user/email": '"h1:x"', "/labels/owner": "null"},
    "leaf_layout": json.dumps(LAYOUT, separators=(",", ":")), "leaf_index": 41, "segment_id": "seg-2025-10-28T08",
    "payload_hash": "x", "key_digest": "x",
}  # fmt: skip
COMMITMENTS = """a189b5ed83398beeda00c77522448a1bdad9e99cccd901161fd151a35bb06bcf
47e9bf6e56693e878156697271d8bbc9f5226964d455028ff1d630390d9004b7
bd55e1be28d65ae95b9f952bdf18dd72da4bcfa5d763f606f90fb45143da7b7c
c80c54a1539878bab283e6b24b83390ee732d42de6b927cc0a80951e7472ca33
5d2bd707312ac19c84518c0ff0e161cbb4216a03fc1ec170431e3229065c7f87
3d07eac2b12085ff090803811bac0804964669ae065df5079d75f8870e7de9aa
028a6e68b28c6b0851626006a9adc2bb9c96cfa50763590f622aac2878b55d06
90d13be794b2628bae116139098915bd8ccf611c4c506a94912fdfe222239fd5""".split()


def test_the_vectors_of_the_leaf():
    bare, full = verify_table.record_leaf(BARE), verify_table.record_leaf(FULL)
    assert bare.hex() == "32ed811cf3054beb9800c6ea9e7dd842b736f1e300bc91b304ba3722444e3665"
    assert [found.hex() for found in verify_table.record_commitments(FULL)] == COMMITMENTS
    assert full.hex() == "7890620217f5bf497832c9a11624307f8411a88fa00a5b048982c8ac6ee1d59c"


def test_places_and_keyed_hashes_are_not_part_of_a_leaf():
    moved = FULL | {"leaf_index": None, "segment_id": None, "payload_hash": None, "key_digest": None,
    "subject_ref": "s"}
    assert verify_table.record_leaf(moved) == verify_table.record_leaf(FULL)


def test_null_absent_and_empty_differ_and_so_does_every_value():
    changes = [
        {}, {"purpose": ""}, {"span_id": None}, {"labels": None}, {"labels": {}}, {"labels": {"env": None}},
        {"labels": {"env": ""}}, {"phone": ""}, {"phone": "null"}, {"extras": None}, {"salt": bytes(16)},
        {"sealed_fields": FULL["sealed_fields"] | {"/labels/owner": ""}}, {"retention_class": "kept"},
        {"stream": "audit.security"}, {"created_at": 0}, {"operation": "Read"}, {"operation": ""},
    ]  # fmt: skip
    assert len({verify_table.record_leaf(FULL | change) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    "layout",
    [
        "", "[]", "{}", '["nobody","/context/user/email","/labels/owner"]', '["/context/user/email"]',
        '["/labels/owner","/context/user/email"]', '["/context/user/email","/context/user/email"]',
        '["/context/user/email","/labels/owner","/labels/x"]', '["/context/user/email","/labels/owner","actor_id"]',
        '["actor_id","actor_id","/context/user/email","/labels/owner"]',
        '["stream","/context/user/email","/labels/owner"]',
        '["purpose","actor_id","/context/user/email","/labels/owner"]',
        '["/context/user/email","other:/context/user/name","/labels/owner"]',
        '["/context/user/email","action:/context/user/name","/labels/owner"]',
        '["/context/user/email","name:","/labels/owner"]', '["/context/user/email", "/labels/owner"]',
        '["/context/user/email","name:/context/user/name","name:/context/user/other","/labels/owner"]',
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_gives_no_leaf(layout):
    refused(verify_table.record_leaf, FULL | {"leaf_layout": layout})


# seal/merkle


VECTORS = [
    ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
    ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
    ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
    ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
]


def leaves(count):
    return [sha256(struct.pack("<Q", number)) for number in range(count)]


def tree(hashes):
    """RFC 6962, section 2.1."""
    if len(hashes) < 2:
        return hashes[0] if hashes else EMPTY_ROOT
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\x01", tree(hashes[:half]), tree(hashes[half:]))


def audit_path(index, hashes):
    """RFC 6962, section 2.1.1."""
    if len(hashes) < 2:
        return []
    half = 1 << (len(hashes) - 1).bit_length() - 1
    if index < half:
        return audit_path(index, hashes[:half]) + [tree(hashes[half:])]
    return audit_path(index - half, hashes[half:]) + [tree(hashes[:half])]


def consistency_path(old, hashes, whole=True):
    """RFC 6962, section 2.1.2."""
    if old == len(hashes):
        return [] if whole else [tree(hashes)]
    half = 1 << (len(hashes) - 1).bit_length() - 1
    if old <= half:
        return consistency_path(old, hashes[:half], whole) + [tree(hashes[half:])]
    return consistency_path(old - half, hashes[half:], False) + [tree(hashes[:half])]


def test_the_roots_of_the_certificate_transparency_vectors():
    levels = subtrees([sha256(b"\0", bytes.fromhex(data)) for data, _ in VECTORS])
    assert tree_root(levels, 0) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, (_, root) in enumerate(VECTORS, 1):
        assert tree_root(levels, size).hex() == root


def test_every_audit_path_leads_to_the_root_and_no_other_does():
    for size in range(1, 40):
        hashes = leaves(size)
        root = tree(hashes)
        assert tree_root(subtrees(hashes), size) == root
        for index in range(size):
            path = audit_path(index, hashes)
            assert verify.inclusion_root(hashes[index], index, size, path) == root
            refused(verify.inclusion_root, hashes[index], index, size, path + [root])
            if path:
                refused(verify.inclusion_root, hashes[index], index, size, path[1:])
                refused(verify.inclusion_root, hashes[index], index, 2 * size + 1, path[:1])
        for index in range(size - 1 if size & 1 else size):
            assert verify.inclusion_root(hashes[index], index ^ 1, size, audit_path(index, hashes)) != root


def checkpoint(size, root, version=1, origin=ORIGIN):
    return Checkpoint(origin, size, root, version, bytes(32), bytes(32))


def consistency(begin, end, path, **others):
    document = {"format": "trailhouse-consistency-1", "origin": ORIGIN, "from": begin, "to": end}
    return json.dumps(document | {"path": [to_base64(found) for found in path]} | others)


def test_a_consistency_proof_holds_for_its_logs_alone():
    hashes = leaves(33)
    for new in range(1, 33):
        after = checkpoint(new, tree(hashes[:new]), 7)
        for old in range(new + 1):
            before = checkpoint(old, tree(hashes[:old]), 6)
            path = consistency_path(old, hashes[:new]) if old else []
            verify.verify_consistency(after, before, consistency(old, new, path))
            for forged in (before._replace(root=bytes(32)), before._replace(origin=ORIGIN[:-1] + "0")):
                refused(verify.verify_consistency, after, forged, consistency(old, new, path))
            if old:
                refused(verify.verify_consistency, after._replace(root=bytes(32)), before, consistency(old, new, path))
            refused(verify.verify_consistency, after, before, consistency(old, new, path + [EMPTY_ROOT]))
            if path:
                refused(verify.verify_consistency, after, before, consistency(old, new, path[:-1]))


def test_checkpoints_of_one_version_are_one():
    hashes = leaves(3)
    old, new = checkpoint(2, tree(hashes[:2])), checkpoint(3, tree(hashes))
    proof = consistency(2, 3, consistency_path(2, hashes))
    refused(verify.verify_consistency, new, old, proof, says="one table version")
    refused(verify.verify_consistency, new, old._replace(table_version=2), proof, says="the older one")
    old = old._replace(table_version=0)
    verify.verify_consistency(new, old, proof)
    for text in (
        consistency(2, 3, [bytes(32)] * 65), consistency(2, 3, [], format="x"), consistency(2, 4, []), proof + "x",
        consistency(2, 3, [], extra=1), consistency(2.0, 3, []), consistency(True, 3, []), consistency(2, 3,
        [b"short"]),
        proof.replace('"to"', '"from"'), proof.replace('"to": 3', '"to": 3, "to": 3'),
    ):  # fmt: skip
        refused(verify.verify_consistency, new, old, text)
    refused(verify.verify_consistency, old, new, consistency(3, 2, []))


# Texts


def test_base64_has_one_spelling():
    assert unbase64("AQ", "it") == b"\1" and unbase64("AQ==", "it", url=False) == b"\1"
    assert unbase64("-_8", "it") == b"\xfb\xff" and unbase64("", "it") == b""
    for text in ("AR", "AQ==", "AQ=", "A", "+_8", "-/8", " AQ", "AQ\n", "\u0661Q", "A.Q", 1, None, [], {}):
        refused(unbase64, text, "it")
    for text in ("AQ", "AR==", "-_8=", "AQ==AQ==", "AQ==\n"):
        refused(lambda text: unbase64(text, "it", url=False), text)
    refused(unbase64, "AQ", "it", 2)


def test_json_has_no_double_members_and_no_end_after_its_end():
    double = ['{"a":1,"a":1}', '{"a":{"b":1,"b":2}}']
    for text in (*double, "{} x", "{}{}", "", "\ufeff{}", '"\\ud800"', "[" * 100_000, b"\xff", "01"):
        refused(verify.parse_json, text, "it")


# seal/note: the example of golang.org/x/mod/sumdb/note

NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
VERIFIER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER = base64.b64decode(VERIFIER_KEY.split("+", 2)[2])[1:]


def test_the_example_of_the_other_implementation_holds():
    assert verify.key_id("PeterNeumann", PETER).hex() == "c74f20a3"
    assert verify.open_note(NOTE.encode(), "PeterNeumann", [PUBLIC, PETER]).endswith("problem is.\n")
    refused(verify.open_note, NOTE.replace("don't", "do").encode(), "PeterNeumann", [PETER], says="not that of the key")
    refused(verify.open_note, NOTE.encode(), "EnochRoot", [PETER], says="none of the tenant's keys")
    refused(verify.open_note, NOTE.encode(), "PeterNeumann", [PUBLIC], says="none of the tenant's keys")


def test_signatures_of_strangers_are_passed_over_and_false_ones_are_not():
    stranger = "\u2014 stranger " + base64.b64encode(bytes(68)).decode() + "\n"
    assert verify.open_note((NOTE + stranger).encode(), "PeterNeumann", [PETER])
    false = "\u2014 PeterNeumann " + base64.b64encode(bytes.fromhex("c74f20a3") + bytes(64)).decode() + "\n"
    refused(verify.open_note, (NOTE + false).encode(), "PeterNeumann", [PETER])
    refused(verify.parse_note, (NOTE + stranger * 64).encode())


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "text\n", "text\n\n", "text\n\n\u2014 name\n", "text\n\n\u2014 name AAAA\n",
        "text\n\n\u2014 name AAAAAA==",
        "text\n\n- name AAAAAAA=\n", "text\n\n\u2014 na+me AAAAAAA=\n", "te\rxt\n\n\u2014 name AAAAAAA=\n",
        "text\n\n\u2014 name AAAAAAA=\n\u2014", "text\n\n\u2014 name AAAAAAB=\n", "x" * 65_536 + NOTE,
        "text\n\n\u2014  AAAAAAA=\n",
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(text):
    refused(verify.parse_note, text.encode())
    assert verify.parse_note("text\n\n\u2014 name AAAAAAA=\n".encode())[0] == "text\n"


# C2SP tlog-cosignature

WITNESSES = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 4)]


def verifier_key(name, key, kind=b"\4"):
    public = key.public_key().public_bytes_raw()
    begin, text = sha256(name.encode(), b"\n", kind, public)[:4].hex(), base64.b64encode(kind + public).decode()
    return f"{name}+{begin}+{text}"


def cosigned(note, name, key, time=1_795_000_000, said=None):
    message = f"cosignature/v1\ntime {time}\n{note.rpartition(chr(10) * 2)[0]}\n".encode()
    begin = sha256(name.encode(), b"\n\4", key.public_key().public_bytes_raw())[:4]
    blob = begin + struct.pack(">Q", time if said is None else said) + key.sign(message)
    return f"{note}\u2014 {name} {base64.b64encode(blob).decode()}\n"


def test_a_quorum_of_witnesses_signed_the_checkpoint():
    keys = [verify.parse_witness(verifier_key(f"w{at}", key)) for at, key in enumerate(WITNESSES)]
    note = signed(CHECKPOINT)
    asked = KEYS._replace(witnesses=keys, quorum=2)
    two = cosigned(cosigned(note, "w0", WITNESSES[0]), "w2", WITNESSES[2], time=0)
    assert verify.open_checkpoint(two.encode(), asked, "it") == CHECKPOINT
    refused(verify.open_checkpoint, two.encode(), asked._replace(quorum=3), "it", says="it: 2 of 3 witnesses signed it")
    refused(verify.open_checkpoint, note.encode(), asked, "it", says="0 of 3 witnesses signed it, not 2")
    one = cosigned(note, "w0", WITNESSES[0])
    again = ("w0", keys[0][1]), ("w9", keys[0][1])
    refused(verify.open_checkpoint, cosigned(one, "w9", WITNESSES[0]).encode(),
    asked._replace(witnesses=again), "it", says="1 of 1")
    for other in (
        one, cosigned(one, "w0", WITNESSES[0], time=5), cosigned(one, "w1", WITNESSES[1], said=1_795_000_001),
        cosigned(one, "w1", WITNESSES[2]), cosigned(one, "w2", WITNESSES[1]), cosigned(one, "w9", WITNESSES[1]),
        cosigned(one.replace("Version 12", "Version 13"), "w1", WITNESSES[1]).replace("Version 13", "Version 12"),
        one + two.split("\n")[-2][:-12] + "AAAA\n",
    ):  # fmt: skip
        refused(verify.open_checkpoint, other.encode(), asked, "it", says="1 of 3 witnesses signed it, not 2")
    own = KEYS._replace(witnesses=[(ORIGIN, PUBLIC)], quorum=1)
    refused(verify.open_checkpoint, note.encode(), own, "it", says="0 of 1")


def test_a_verifier_key_of_a_witness_has_one_text():
    good = verifier_key("w0", WITNESSES[0])
    for text in (
        "", "w0", VERIFIER_KEY, verifier_key("w0", WITNESSES[0], b"\1"), good[1:], good + "A", good[:-1], good.upper(),
        "w" + good, verifier_key("w 0", WITNESSES[0]), good.replace("w0+", "w0++"),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            verify.parse_witness(text)


# seal/checkpoint

CHECKPOINT = Checkpoint(ORIGIN, 20_852_163, b"\7" * 32, 12, b"\x09" * 32, b"\1" * 32)
CHECKPOINT_TEXT = (
    "trailhouse.dev/log/a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\n20852163\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n"
    "tableVersion 12\nfileSetRoot CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"
    "tableLogDigest AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n"
)


def signed(found, key=KEY):
    public = key.public_key().public_bytes_raw()
    signature = base64.b64encode(verify.key_id(found.origin, public) + key.sign(found.text().encode())).decode()
    return f"{found.text()}\n\u2014 {found.origin} {signature}\n"


def test_a_checkpoint_has_one_text():
    assert CHECKPOINT.text() == CHECKPOINT_TEXT
    assert verify.parse_checkpoint(CHECKPOINT_TEXT) == CHECKPOINT
    for text, other in [
        ("20852163", "020852163"), ("20852163", "+20852163"), ("20852163", "-1"), ("20852163", "9" * 19), ("a5\n",
        "A5\n"),
        ("a5\n", "\n"), ("trailhouse.dev/log", "example.org/log"), ("tableVersion 12", "tableVersion  12"),
        ("tableVersion 12\n", ""), ("Bwc=", "Bwd="), ("QE=\n", "QE=\n\n"), ("QE=\n", "QE="), ("QE=\n",
        "QE=\nother 1\n"),
        ("tableVersion 12", "tableVersion 012"), ("20852163", "\u0662"),
    ]:  # fmt: skip
        refused(verify.parse_checkpoint, CHECKPOINT_TEXT.replace(text, other, 1))


def test_a_checkpoint_is_signed_by_the_tenant():
    assert verify.open_checkpoint(signed(CHECKPOINT).encode(), KEYS, "it") == CHECKPOINT
    stranger = Ed25519PrivateKey.generate()
    refused(verify.open_checkpoint, signed(CHECKPOINT, stranger).encode(), KEYS, "it", says="it: none of")
    refused(verify.open_checkpoint, signed(CHECKPOINT).replace("Version 12", "Version 13").encode(), KEYS, "it")


def jwks(**others):
    key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "kms://eu/00/s1",
    "x": to_base64(PUBLIC)}
    return {"tenant": "acme", "keys": [key | others]}


def test_a_key_set_has_ed25519_keys():
    assert verify.parse_jwks(json.dumps(jwks()).encode()) == KEYS
    other = jwks()["keys"] + [{"kty": "RSA", "kid": "r"}]
    assert verify.parse_jwks(json.dumps({"keys": other}).encode()) == Keys(None, KEYS.public)
    double = {"keys": jwks()["keys"] * 2}
    for document in (jwks(x="AQ"), jwks(kid=1), jwks(kty="RSA"), {"keys": []}, [], {}, jwks() | {"tenant": 1}, double):
        refused(verify.parse_jwks, json.dumps(document).encode())


# proof/record


def encoded_rest(row, apart=()):
    rest = b""
    for number, name in enumerate(verify.COLUMNS, 1):
        if name not in apart and row.get(name) is not None:
            kind = verify.KINDS[name]
            rest += bytes([number, kind]) + lp(verify.encode_value(kind, row[name]))
    return rest


def proof_of(parts, index=5, size=7, **leaf):
    """A proof that holds for whatever parts: each of them (path, type, value), or just a commitment."""
    commitments, shown = [], []
    for number, part in enumerate(parts):
        if isinstance(part, bytes):
            commitments.append(part)
            shown.append({"commitment": to_base64(part)})
        else:
            salt, (path, kind, value) = bytes([number]) * 32, part
            commitments.append(verify.commitment(salt, path, kind, value))
            shown.append({"path": path, "type": kind, "salt": to_base64(salt), "value": to_base64(value)})
    names = {"tenant": "acme", "stream": "audit.default", "recordId": BARE["record_id"]} | leaf
    hashes = leaves(size)
    hashes[index] = verify.leaf_hash(*names.values(), commitments)
    return {
        "format": "trailhouse-record-proof-1", "leaf": names | {"parts": shown}, "leafIndex": index,
        "path": [to_base64(found) for found in audit_path(index, hashes)], "checkpoint": signed(checkpoint(size,
        tree(hashes))),
    }  # fmt: skip


PARTS = [
    ("", REST, encoded_rest(FULL, ("actor_id", "purpose",
    "labels")) + b"\xff" + lp("statement") + b"\1" + lp("SELECT ?")),
    ("actor_id", TEXT, b"ann"), ("purpose", NOTHING, b""), b"\x55" * 32, ("/context/user/email", JSON, b'"h1:x"'),
    ("/context/user/name", TEXT, b"B\xc3\xb6"), ("/labels/owner", NOTHING, b""),
]  # fmt: skip


def prove(document):
    return verify.verify_proof(json.dumps(document).encode(), KEYS)


def test_a_proof_shows_what_the_leaf_holds():
    proven = prove(proof_of(PARTS))
    assert (proven.record_id, proven.leaf_index, proven.withheld) == (BARE["record_id"], 5, 1)
    expected = {
        "tenant_id": '"acme"', "created_at": "1761638112345678", "context": FULL["context"], "statement": '"SELECT ?"',
        "actor_id": '"ann"', "purpose": "null", "/context/user/email": '"h1:x"', "/context/user/name": '"B\u00f6"',
        "span_id": '""',
    }  # fmt: skip
    assert expected.items() <= proven.shown.items()
    labels = ("labels", verify.LABELS, verify.encode_value(verify.LABELS, FULL["labels"]))
    assert prove(proof_of([bytes(32), labels])).shown == {"labels": '{"env": "prod", "gone": null}'}
    assert prove(proof_of(PARTS, index=0, size=1)).leaf_index == 0


REST_BYTES = encoded_rest(BARE)


@pytest.mark.parametrize(
    "parts",
    [
        [], [("actor_id", TEXT, b"ann")], [("", TEXT, REST_BYTES)], [("x", REST, REST_BYTES)],
        [("", REST, REST_BYTES), ("", REST, REST_BYTES)], [bytes(32), ("", TEXT, b"")],
        [("", REST, REST_BYTES + b"\0")], [("", REST, REST_BYTES[:-1])], [("", REST, REST_BYTES * 2)], [("", REST,
        b"")],
        [("", REST, encoded_rest(BARE, ["record_id"]))], [("", REST, encoded_rest(BARE | {"stream": "other"}))],
        [("", REST, REST_BYTES + b"\x15\1" + lp("new"))], [("", REST, REST_BYTES + b"\x07\2" + lp("x"))],
        [("", REST, REST_BYTES + b"\x07\1" + lp(b"\xff"))], [("", REST,
        REST_BYTES + b"\xff" + lp("action") + b"\1" + lp("x"))],
        [("", REST, REST_BYTES + (b"\xff" + lp("b") + b"\1" + lp("x")) * 2)],
        [("", REST, encoded_rest(BARE | {"actor_id": "ann"})), ("actor_id", TEXT, b"bob")],
        [bytes(32), ("tenant_id", TEXT, b"acme")], [bytes(32), ("actor_id", JSON, b"1")], [bytes(32), ("actor_id",
        REST, b"")],
        [bytes(32), ("purpose", TEXT, b"x"), ("actor_id", TEXT, b"x")], [bytes(32)] + [("actor_id", TEXT, b"x")] * 2,
        [bytes(32), ("/b", JSON, b"1"), ("/a", JSON, b"1")], [bytes(32), ("/b", JSON, b"1"), ("actor_id", TEXT, b"x")],
        [bytes(32), ("purpose", NOTHING, b"x")], [bytes(32), ("created_at", verify.INSTANT, b"1234")],
        [bytes(32), ("labels", verify.LABELS, b"\1\0\0\0" + lp("a") + b"\2")], [bytes(32), ("labels", verify.LABELS,
        b"")],
        [bytes(32), ("labels", verify.LABELS, b"\2\0\0\0" + (lp("a") + b"\0") * 2)], [bytes(32), ("/a", 3, bytes(8))],
        [bytes(32), ("a", TEXT, b"x")], [bytes(32), ("/a", 6, b"")], [bytes(32), ("/a", JSON, b"\xff")], [bytes(31)],
    ],
)  # fmt: skip
def test_values_that_no_record_has_are_refused(parts):
    refused(prove, proof_of(parts))


def test_whatever_is_changed_in_a_proof_is_noticed():
    good = proof_of(PARTS)
    leaf, parts = good["leaf"], good["leaf"]["parts"]
    for change in (
        {"leafIndex": 4}, {"leafIndex": 7}, {"leafIndex": -1}, {"leafIndex": 5.0}, {"leafIndex": "5"}, {"format": "x"},
        {"path": good["path"][:-1]}, {"path": good["path"] + [good["path"][0]]}, {"path": ["A" * 43] * 65}, {"note": 1},
        {"leaf": leaf | {"recordId": "x"}}, {"leaf": leaf | {"parts": parts[:-1]}},
        {"leaf": leaf | {"tenant": "globex"}},
        {"leaf": leaf | {"parts": [parts[0] | {"salt": to_base64(bytes(31))}, *parts[1:]]}}, {"leaf": leaf | {"x": 1}},
        {"leaf": leaf | {"parts": [parts[0] | {"commitment": "A" * 43}, *parts[1:]]}}, {"leaf": []},
        {"leaf": leaf | {"parts": [*parts[:3], {"commitment": "A" * 43}, *parts[4:]]}}, {"leaf": leaf | {"parts": [1]}},
        {"leaf": leaf | {"parts": [parts[0], parts[1] | {"value": "Ym9i"}, *parts[2:]]}}, {"checkpoint": ""},
        {"checkpoint": signed(CHECKPOINT)}, {"checkpoint": good["checkpoint"] + "\n"},
    ):  # fmt: skip
        refused(prove, good | change)
    refused(prove, proof_of([bytes(32)], tenant="globex"), says="another tenant")
    without = Keys(None, KEYS.public)
    assert verify.verify_proof(json.dumps(proof_of([bytes(32)], tenant="globex")).encode(), without).tenant == "globex"
    refused(verify.verify_proof, json.dumps(good).encode() + b"x", KEYS)


# seal/tile, table/published


def test_paths_of_tiles_are_those_of_the_specification():
    for tile, path in [
        ((0, 0, 256), "tile/0/000"), ((0, 1_234_067, 256), "tile/0/x001/x234/067"), ((1, 999, 1), "tile/1/999.p/1"),
        ((3, 1_000, 255), "tile/3/x001/000.p/255"),
    ]:  # fmt: skip
        assert tile_path(*tile) == path and verify.parse_tile_path(path) == tile
    for path in [
        "", "tile", "tile/0", "tile/0/0", "tile/00/000", "tile/0/x000/001", "tile/0/001/002", "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256", "tile/0/000.p/01", "tile/8/000", "tile/+0/000", "tile/0/+00", "tile/0/000/",
        "tile/0/../000",
        "tile/0/000\n",
    ]:  # fmt: skip
        assert verify.parse_tile_path(path) is None, path


def write_log(folder, size, olds=()):
    hashes = leaves(size)
    levels = subtrees(hashes)
    for partial in (*olds, size):
        for level in range(8):
            held = partial >> 8 * level
            for index in range(-(-held // 256)):
                tile = levels[8 * level][index * 256 : min(held, index * 256 + 256)]
                path = folder / tile_path(level, index, len(tile))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(tile))
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint").write_text(signed(checkpoint(size, tree_root(levels, size))))
    return hashes


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700, 65_536, 65_537 + 256])
def test_tiles_of_every_level_make_the_root(tmp_path, size):
    hashes = write_log(tmp_path, size, olds=(size // 3, size // 2))
    found, levels, _ = verify.verify_log(tmp_path, KEYS)
    assert found.size == size and levels[0] == hashes


def test_every_file_of_a_log_is_accounted_for(tmp_path):
    write_log(tmp_path, 700, olds=(5, 300))
    (tmp_path / "tile" / "0" / "003#17000000000002").write_bytes(b"left by a writer that was stopped")
    verify.verify_log(tmp_path, KEYS)
    full, partial, old, above = "tile/0/000", "tile/0/002.p/188", "tile/0/000.p/5", "tile/1/000.p/2"
    for name in (full, partial, old, above):
        path = tmp_path / name
        kept = path.read_bytes()
        for changed in (kept[:-1], kept + b"x", kept[:-32], b"", kept[::-1]):
            path.write_bytes(changed)
            refused(verify.verify_log, tmp_path, KEYS, says="tile/")
            if len(changed) != len(kept):
                refused(verify.verify_log, tmp_path, KEYS, says=name)
        path.write_bytes(kept)
    path = tmp_path / full
    kept = path.read_bytes()
    path.write_bytes(kept[:64] + bytes(32) + kept[96:])
    refused(verify.verify_log, tmp_path, KEYS, says=full)
    path.write_bytes(kept)
    for name in ("tile/0/003", "tile/0/002.p/189", "tile/0/x001/000.p/1", "tile/2/000.p/1", "tile/0/000.bak", "x",
    "tile/0/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(kept[:32])
        refused(verify.verify_log, tmp_path, KEYS, says=name)
        (tmp_path / name).unlink()
    for name in (full, partial, above):
        (tmp_path / name).rename(tmp_path / "away")
        refused(verify.verify_log, tmp_path, KEYS, says=f"{name}: is missing")
        (tmp_path / "away").rename(tmp_path / name)
    (tmp_path / old).unlink()
    verify.verify_log(tmp_path, KEYS)


# seal/segment, table/seals

HOURS = [f"seg-2026-11-22T{hour}" for hour in (10, 11, 12, 13)]


def write_seals(folder, hashes, ends, names=HOURS, first=0, change=None, origin=ORIGIN):
    """The seals of a log up to each of these ends; `change` says of which seal to sign and to write something else."""
    at, signs, writes = change or (None, {}, {})
    prev, levels = None, subtrees(hashes)
    (folder / "seal").mkdir(parents=True, exist_ok=True)
    for number, (segment, end) in enumerate(zip(names, ends)):
        root = to_base64(tree(hashes[first:end]))
        seal = {
            "format": "trailhouse-segment-seal-1", "tenantId": "acme", "silo": "eu", "stream": folder.name,
            "origin": origin, "number": number, "segmentId": segment, "firstLeaf": first, "leafCount": end - first,
            "segmentRoot": root, "prevRoot": prev, "treeHead": {"size": end, "root": to_base64(tree_root(levels, end))},
            "algo": "rfc6962-sha256+ed25519", "signedAt": "2026-11-22T12:00:09.000005Z", "keyId": "kms://eu/00/s1",
        }  # fmt: skip
        seal |= signs if number == at else {}
        message = b"trailhouse segment seal 1\0"
        for name in list(seal)[1:-1]:
            value = seal[name]["root"] if name == "treeHead" else seal[name] or b""
            value = unbase64(value, name) if value and name in ("segmentRoot", "prevRoot", "treeHead") else value
            message += lp(struct.pack("<Q", seal[name]) if isinstance(seal[name], int) else value)
        seal["signature"] = base64.b64encode(KEY.sign(message)).decode()
        seal |= writes if number == at else {}
        (folder / f"seal/{number:020}").write_text(json.dumps(seal, separators=(",", ":")))
        prev, first = seal["segmentRoot"], end


def test_the_seals_of_a_log_follow_each_other(tmp_path):
    hashes = write_log(tmp_path, 700)
    for first, ends in ((0, []), (0, [300, 301, 700]), (250, [256, 700]), (0, [300, 700, 705, 800]), (700, [701])):
        write_seals(tmp_path, leaves(900), ends, first=first)
        *_, seals = verify.verify_log(tmp_path, KEYS)
        assert [seal.end for seal in seals] == ends and [seal.segment for seal in seals] == HOURS[: len(ends)]
        verify.verify_log(tmp_path, Keys(None, KEYS.public))
        for seal in seals:
            (tmp_path / seal.name).unlink()
    write_seals(tmp_path, hashes, [300, 301, 700])
    for name in ("seal/3", "seal/x", f"seal/{3:021}", f"seal/{3:020}/x", f"seals/{3:020}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        refused(verify.verify_log, tmp_path, KEYS, says=f"{name}: is no file of a log")
        (tmp_path / name).unlink()
    for number in (0, 1):
        path = tmp_path / f"seal/{number:020}"
        path.rename(tmp_path.parent / "away")
        refused(verify.verify_log, tmp_path, KEYS, says=f"seal/{number:020}: is missing")
        (tmp_path.parent / "away").rename(path)
    text = path.read_text()
    for other in (
        "", "{}", "[]", text + "\n", text.replace(":", ": ", 1), text.replace("{", '{"x":1,', 1), text + text,
        text.replace('"silo":"eu",', "").replace('"stream"', '"silo":"eu","stream"').replace('"acme"', '"\\u0061cme"'),
        text.replace('"number":1,', "").replace('"segmentId"', '"number":1,"segmentId"').replace(":300", ":300.0"),
        text.replace('"silo":"eu",', "").replace('"origin"', '"silo":"eu","origin"'), " " * 20_000 + text,
        text.replace('"size":301,', "").replace('"},"algo"', '","size":301},"algo"'), text.replace("T1", "\u0661"),
    ):  # fmt: skip
        path.write_text(other)
        refused(verify.verify_log, tmp_path, KEYS, says=f"{path.parent.name}/{path.name}")
    first = tmp_path / f"seal/{0:020}"
    first.write_text(first.read_text().replace('"prevRoot":null,', ""))
    refused(verify.verify_log, tmp_path, KEYS, says=f"seal/{0:020}: is not in the one text")
    path.unlink()
    write_seals(tmp_path.parent / "other", hashes, [300, 301, 700])
    for stored in (tmp_path.parent / "other" / "seal").iterdir():
        stored.rename(tmp_path / "seal" / stored.name)
    refused(verify.verify_log, tmp_path, KEYS, says="the seal of another log")


CHANGES = [
    {"format": "trailhouse-segment-seal-2"}, {"tenantId": "globex"}, {"silo": "us"}, {"stream": "other"},
    {"origin": ORIGIN[:-1] + "0"}, {"number": 2}, {"segmentId": "seg-2026-11-22"}, {"firstLeaf": 299},
    {"leafCount": 2}, {"leafCount": 0, "treeHead": {"size": 300, "root": to_base64(bytes(32))}},
    {"firstLeaf": 299, "leafCount": 2}, {"firstLeaf": 301, "treeHead": {"size": 302, "root": to_base64(bytes(32))}},
    {"segmentRoot": to_base64(bytes(32))}, {"segmentRoot": to_base64(bytes(31))}, {"prevRoot": to_base64(bytes(32))},
    {"prevRoot": None}, {"prevRoot": ""}, {"treeHead": {"size": 301, "root": to_base64(bytes(32))}}, {"algo": "none"},
    {"treeHead": {"size": 302, "root": to_base64(tree(leaves(301)))}}, {"signedAt": "2026-11-22"}, {"keyId": "other"},
    {"treeHead": {"size": 301, "root": to_base64(tree(leaves(301))), "x": 1}},
]  # fmt: skip
UNSIGNABLE = [
    {"number": 1.0}, {"number": True}, {"firstLeaf": -300}, {"leafCount": 2**64}, {"treeHead": []}, {"signature": "x"},
    {"treeHead": {"size": 301}},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES + UNSIGNABLE, ids=lambda change: str(change)[:40])
def test_no_seal_says_anything_else_even_if_that_is_signed(tmp_path, change):
    hashes = write_log(tmp_path, 700)
    if change not in UNSIGNABLE:
        write_seals(tmp_path, hashes, [300, 301, 700], change=(1, change, {}))
        refused(verify.verify_log, tmp_path, KEYS, says=f"seal/{1:020}")
    write_seals(tmp_path, hashes, [300, 301, 700], change=(1, {}, change))
    refused(verify.verify_log, tmp_path, KEYS, says=f"seal/{1:020}")


def test_a_seal_that_the_product_made_holds():
    folder = Path(__file__).parents[2] / "tests/data/seal"
    keys = verify.parse_jwks((folder / "acme.jwks").read_bytes())
    data = (folder / f"{1:020}").read_bytes()
    seal = verify.open_seal(data, f"seal/{1:020}", keys)
    assert (seal.first, seal.end, seal.segment, seal.tenant) == (300, 307, "seg-2026-11-22T11", "acme")
    refused(verify.open_seal, data.replace(b"12:00:00", b"12:00:01"), f"seal/{1:020}", keys, says="did not sign it")


@pytest.mark.parametrize(
    "change",
    [
        {"tenantId": "acmf"}, {"silo": "us"}, {"segmentId": HOURS[2]}, {"signedAt": "2026-11-22T12:00:09.000006Z"},
        {"keyId": "kms://eu/00/s2"}, {"signature": base64.b64encode(bytes(64)).decode()}, {"signature": "AAAA"},
        {"segmentRoot": to_base64(bytes(32))}, {"treeHead": {"size": 700, "root": to_base64(bytes(32))}},
    ],
)  # fmt: skip
def test_all_of_a_seal_is_signed_by_the_key_that_it_names(tmp_path, change):
    write_seals(tmp_path, write_log(tmp_path, 700), [700], change=(0, {}, change))
    keys = KEYS.public | {"kms://eu/00/s2": WITNESSES[0].public_key().public_bytes_raw()}
    refused(verify.verify_log, tmp_path, Keys(None, keys), says="its key did not sign it")


def test_seals_are_of_the_segments_that_the_commits_say(tmp_path):
    write_seals(tmp_path, write_log(tmp_path, 12), [5, 7, 9], names=[HOURS[0], HOURS[0], HOURS[1]], first=2)
    *_, seals = verify.verify_log(tmp_path, KEYS)
    begun = [(2, HOURS[0]), (7, HOURS[1])]

    def check(begun, seals=seals, signed=12, size=12):
        verify_table.verify_seals(seals, begun, signed, size)

    check(begun)
    check([*begun, (9, HOURS[2])])
    check([*begun, (10, HOURS[2])], signed=10)
    check(begun[:1], [])
    check([], [])
    check(begun[:1], seals[:2])
    refused(check, [*begun, (10, HOURS[2])], says=f"seal/{3:020}: is missing")
    refused(check, begun, [], says=f"seal/{0:020}: is missing")
    refused(check, begun, seals[:1], says=f"seal/{1:020}: is missing")
    refused(lambda: check(begun, size=8), says=f"seal/{2:020}: is of leaves")
    for other in ([], begun[1:], [(1, HOURS[0]), begun[1]], [(3, HOURS[0]), begun[1]], [(2, HOURS[2]), begun[1]]):
        refused(check, other, says=f"seal/{0:020}: the commits say another segment")
    for at in (6, 8):
        refused(check, [begun[0], (at, HOURS[1])], says="the commits say another segment")
    refused(check, [begun[0], (5, HOURS[1])], says=f"seal/{1:020}: the commits say another segment")
    found = {index: (leaf, "f") for index, leaf in enumerate(leaves(12))}
    verify_table.verify_stream("s", 12, found, [], [], seals)
    late = [seals[2]._replace(root=bytes(32))]
    refused(verify_table.verify_stream, "s", 12, found, [], [], late, says="its roots are not those of the leaves")


def test_a_row_is_in_the_segment_of_its_leaf(monkeypatch):
    rows = [BARE | {"leaf_index": 3, "segment_id": HOURS[1], "ingest_date": "2025-10-28"}]
    partition = [rows[0].pop(name) if name in rows[0] else "audit.default" for name in verify_table.PARTITIONS]
    monkeypatch.setattr(verify_table, "rows_of", lambda *_: [dict(row) for row in rows])
    file = verify_table.File("f", partition, 0, "", 1, 0, 9)

    def check(begun):
        return list(verify_table.file_leaves(b"", file, "acme", begun, None))

    for begun in ([], [(4, HOURS[0])], [(3, HOURS[1])], [(0, HOURS[0]), (2, HOURS[1]), (4, HOURS[2])]):
        assert check(begun) == [(3, verify_table.record_leaf(BARE))]
    for begun in ([(0, HOURS[0])], [(0, HOURS[1]), (3, HOURS[0])]):
        refused(check, begun, says="f: leaf 3: is in another segment")


# table/log, table/file_set, sequencer/tree


def add(path="stream=s/ingest_date=2026-11-22/retention_class=standard/" + "0" * 36 + ".parquet", rows=2, **others):
    values = {"stream": "s", "ingest_date": "2026-11-22", "retention_class": "standard"}
    body = {"path": path, "partitionValues": values, "size": 9, "dataChange": True, "tags": {"th.sha256": "ab"}}
    return {"add": body | {"stats": json.dumps({"numRecords": rows})} | others}


def entry_of(size, *actions):
    edge = to_base64(b"".join(verify.frontier(subtrees(leaves(size)), size)))
    note = {"size": size, "root": to_base64(tree(leaves(size))), "frontier": edge, "segment": None, "group": None}
    lines = [{"commitInfo": {"th.tree:s": note}}, *actions, {"txn": {"appId": "th.log:s", "version": size}}]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def note_of(at, segment="seg-2026-11-22T10", stream="s"):
    return {"commitInfo": {f"th.segment:{stream}:{at:0>20}": segment}}


def write_table(folder, *entries):
    folder.mkdir(parents=True, exist_ok=True)
    for version, entry in enumerate(entries):
        (folder / f"{version:020}.json").write_bytes(entry)


def test_the_delta_log_is_compared_with_the_checkpoint(tmp_path):
    begun = {"commitInfo": {f"th.segment:s:{at:020}": HOURS[at] for at in (1, 0)}}
    entries = [b'{"protocol":{}}\n', entry_of(2, add(), begun), b'{"txn":{"appId":"a","version":1}}\n']
    write_table(tmp_path, *entries)
    (tmp_path / f"{3:020}.json#17000000000002").write_bytes(b"left by a writer that was stopped")
    path = add()["add"]["path"]
    texts = (path, "ab", "s", "2026-11-22", "standard")
    digest = bytes(32)
    for entry in entries[:2]:
        digest = sha256(digest, sha256(entry))
    good = Checkpoint(ORIGIN, 2, tree(leaves(2)), 1, sha256(*map(lp, texts), struct.pack("<Q", 2)), digest)
    files, sizes, notes, segments = verify_table.read_table_log(tmp_path, "s", good)
    assert (list(files), sizes, len(notes["s"])) == ([path], {"s": 2}, 1)
    assert segments == {"s": [(0, HOURS[0]), (1, HOURS[1])]}
    assert (files[path].first, files[path].end) == (0, 2)
    for wrong in (good._replace(table_log_digest=bytes(32)), good._replace(file_set_root=bytes(32)),
    good._replace(size=1)):
        refused(verify_table.read_table_log, tmp_path, "s", wrong, says="00000000000000000001.json")
    refused(verify_table.read_table_log, tmp_path, "s", good._replace(table_version=3), says="ends before")
    for again in (note_of(0, HOURS[2]), note_of(1, HOURS[0])):
        write_table(tmp_path, entries[0], entry_of(2, add(), note_of(0, HOURS[0]), again))
        refused(verify_table.read_table_log, tmp_path, "s", good, says=f"{1:020}.json: th.segment:s says again")
    (tmp_path / f"{1:020}.json").unlink()
    refused(verify_table.read_table_log, tmp_path, "s", good, says="entry 1 is missing")


@pytest.mark.parametrize(
    "entry",
    [
        b"{}\n", b"[]\n", b'{"cdc":{}}\n', b'{"add":1}\n', b'{"commitInfo":{}}x\n', b'{"remove":{"path":"x"}}\n',
        entry_of(2, add(), add()), entry_of(2, add(path="../x.parquet")), entry_of(2, add(rows="2")),
        entry_of(2, add(partitionValues={"stream": "s"})), entry_of(2, add(tags={})), entry_of(2).replace(b"root",
        b"r00t"),
        entry_of(2).replace(b'"version": 2', b'"version": 3'), entry_of(2).replace(b"th.log:s", b"th.log:t"),
        b'{"txn":{"appId":"th.log:s","version":2}}\n', entry_of(2, note_of(2)), entry_of(2, note_of(0, "T10")),
        entry_of(2, note_of("x")), entry_of(2, note_of(0, None)), entry_of(2, note_of(0, stream="t")),
    ],
)  # fmt: skip
def test_an_entry_that_contradicts_itself_is_refused(entry):
    refused(verify_table.fold, entry, "00000000000000000001.json", {}, {}, says="00000000000000000001.json")


def test_a_log_never_shrinks_and_a_file_can_be_taken_away():
    files, sizes = {}, {}
    verify_table.fold(entry_of(2, add()), "1", files, sizes)
    refused(verify_table.fold, entry_of(1), "2", files, dict(sizes), says="th.tree")
    refused(verify_table.fold, entry_of(3, add()), "2", dict(files), dict(sizes), says="is there")
    verify_table.fold(json.dumps({"remove": {"path": next(iter(files))}}).encode(), "2", files, sizes)
    assert files == {} and sizes == {"s": 2}


def test_the_notes_of_commits_are_those_of_the_leaves():
    found = {index: (leaf, "f") for index, leaf in enumerate(leaves(5))}
    edge = to_base64(b"".join(verify.frontier(subtrees(leaves(3)), 3)))
    note = {"size": 3, "root": to_base64(tree(leaves(3))), "frontier": edge}
    verify_table.verify_stream("s", 5, found, [("e", note)], leaves(5))
    for change in ({"size": 4}, {"root": to_base64(bytes(32))}, {"frontier": ""}):
        refused(verify_table.verify_stream, "s", 5, found, [("e", note | change)], [], says="e: th.tree:s")
    refused(verify_table.verify_stream, "s", 5, found | {2: (bytes(32), "g")}, [], leaves(5), says="g: leaf 2")
    found.pop(3)
    refused(verify_table.verify_stream, "s", 5, found, [], [], says="leaf 3")


def test_a_table_has_the_seals_of_its_log(tmp_path, monkeypatch):
    """Also those that reach beyond its checkpoint."""
    folder, log = tmp_path / "tenants/acme/audit/records", tmp_path / "s"
    path = add()["add"]["path"]
    entries = [entry_of(4, add(rows=4), note_of(0), note_of(3, HOURS[1]))]
    entries += [entry_of(9, add(path.replace("0.parquet", "1.parquet"), rows=5), note_of(6, HOURS[2]))]
    write_table(folder / "_delta_log", *entries)
    hashes = write_log(log, 4)
    files = sha256(*map(lp, (path, "ab", "s", "2026-11-22", "standard")), struct.pack("<Q", 4))
    found = Checkpoint(ORIGIN, 4, tree(hashes), 0, files, sha256(bytes(32), sha256(entries[0])))
    (log / "checkpoint").write_text(signed(found))
    monkeypatch.setattr(verify_table, "decryption", lambda *_: dict)
    monkeypatch.setattr(verify_table, "read_data_file", lambda *_: b"")
    held = lambda _, file, *__: [(at, leaf) for at, leaf in enumerate(leaves(9)) if file.first <= at < file.end]
    monkeypatch.setattr(verify_table, "file_leaves", held)

    def check(ends, change=None, keys=KEYS, hashes=leaves(20)):
        write_seals(log, hashes, ends, change=change)
        assert verify_table.verify_table(folder, log, keys, tmp_path, "eu")[1] == {"s": 9}
        (log / f"seal/{len(ends) - 1:020}").unlink()

    check([3])
    check([3, 6])
    check([3, 6, 9], keys=Keys(None, KEYS.public))
    refused(check, [3, 6, 10], says=f"seal/{2:020}: is of leaves that the table does not have")
    (log / f"seal/{2:020}").unlink()
    refused(check, [3, 7], says=f"seal/{1:020}: the commits say another segment")
    refused(check, [3, 6], None, KEYS, leaves(4) + leaves(4), says=f"seal/{1:020}: its roots are not those")
    (log / f"seal/{1:020}").unlink()
    refused(check, [3], (0, {"silo": "us"}, {}), says="of another silo")
    refused(check, [3], (0, {"tenantId": "globex"}, {}), Keys(None, KEYS.public), says="the seal of another log")
    (log / f"seal/{0:020}").unlink()
    refused(check, [], says=f"seal/{0:020}: is missing")


# The command line


def test_the_exit_code_says_what_was_found(tmp_path, capsys):
    def run(*words):
        try:
            return verify.main([str(word) for word in words])
        except SystemExit as ended:
            return ended.code

    write_log(tmp_path / "log", 300)
    keys, proof, bad = (tmp_path / name for name in ("acme.jwks", "proof.json", "bad.json"))
    keys.write_text(json.dumps(jwks()))
    proof.write_text(json.dumps(proof_of(PARTS)))
    bad.write_text(json.dumps(proof_of(PARTS) | {"leafIndex": 4}))
    assert run("proof", proof, "--jwks", keys) == 0
    assert 'actor_id: "ann"' in capsys.readouterr().out
    assert run("proof", bad, "--jwks", keys) == 1
    assert "not verified: leaf 4, record" in capsys.readouterr().err
    hashes = leaves(300)
    old, new, path = (tmp_path / name for name in ("old", "new", "path.json"))
    old.write_text(signed(checkpoint(200, tree(hashes[:200]), 0)))
    new.write_text(signed(checkpoint(300, tree(hashes))))
    path.write_text(consistency(200, 300, consistency_path(200, hashes)))
    assert run("checkpoint", new, "--jwks", keys) == 0
    assert run("checkpoint", new, "--against", old, "--consistency", path, "--jwks", keys) == 0
    assert run("checkpoint", old, "--against", new, "--consistency", path, "--jwks", keys) == 1
    assert run("log", tmp_path / "log", "--jwks", keys) == 0
    (tmp_path / "log" / "strange").touch()
    assert run("log", tmp_path / "log", "--jwks", keys) == 1
    witnesses = [word for at in (0, 1) for word in ("--witness", verifier_key(f"w{at}", WITNESSES[at]))]
    (tmp_path / "log" / "strange").unlink()
    new.write_text(cosigned(new.read_text(), "w1", WITNESSES[1]))
    (tmp_path / "log" / "checkpoint").write_text(new.read_text())
    seen = cosigned(proof_of(PARTS)["checkpoint"], "w1", WITNESSES[1])
    proof.write_text(json.dumps(proof_of(PARTS) | {"checkpoint": seen}))
    later = ("checkpoint", new, "--against", old, "--consistency", path)
    for words in (("proof", proof), later, ("log", tmp_path / "log")):
        assert run(*words, "--jwks", keys, *witnesses, "--quorum", 1) == 0
        assert run(*words, "--jwks", keys, *witnesses[2:]) == 0
        assert run(*words, "--jwks", keys, *witnesses) == 1
        assert "1 of 2 witnesses signed it, not 2" in capsys.readouterr().err
        for wrong in (
            (*witnesses, "--quorum", 3), (*witnesses, "--quorum", 0), ("--quorum", 1), ("--quorum", 0),
            ("--witness", "w"), (*witnesses[:2] * 2, "--quorum", 2), (*witnesses, "--quorum", "x"),
        ):  # fmt: skip
            assert run(*words, "--jwks", keys, *wrong) == 2, wrong
    unchecked = [
        ("proof", tmp_path / "none", "--jwks", keys), ("proof", proof, "--jwks", tmp_path / "none"), ("proof", proof),
        ("log", tmp_path / "none", "--jwks", keys), ("checkpoint", new, "--against", old, "--jwks", keys), ("x",), (),
        ("proof", tmp_path, "--jwks", keys), ("table", tmp_path, "--jwks", keys, "--log", tmp_path / "log"),
        ("table", tmp_path, "--jwks", keys, "--log", tmp_path / "log", "--keys", tmp_path, "--silo", "eu"),
    ]  # fmt: skip
    for words in unchecked:
        assert run(*words) == 2, words
