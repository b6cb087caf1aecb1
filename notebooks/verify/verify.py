"""A second verifier for what Trailhouse signs and stores, written from the format pages alone.

    python verify.py proof RECORD_PROOF.json --jwks acme.jwks
    python verify.py promise RECEIPT.json --process-key STATEMENT.json --jwks acme.jwks
    python verify.py checkpoint NEW [--against OLD --consistency PROOF.json] --jwks acme.jwks
    python verify.py log FOLDER --jwks acme.jwks
    python verify.py table TABLE_FOLDER --log FOLDER --jwks acme.jwks --keys KEY_FOLDER --silo NAME

With --witness VKEY, once for each witness, --quorum K of them (or all) must have signed the checkpoint as well.
Exit code 0: all of it holds; 1: something does not, as stderr says; 2: it could not be checked.
"""

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

NOTE_BYTES_MAX, SIGNATURES_MAX, PATH_MAX, PARTS_MAX, NUMBER_MAX = 64 << 10, 64, 64, 100_000, 2**63 - 1
JSON_BYTES_MAX, TILE_WIDTH, LEVELS_MAX, HASH_BYTES, SEAL_BYTES_MAX = 256 << 20, 256, 8, 32, 16 << 10
NOTHING, TEXT, JSON, INSTANT, LABELS, REST = range(6)
PROMOTED = 255  # seal/leaf: stands before a promoted column in the rest; the other columns have these numbers, from 1
COLUMNS = """tenant_id stream record_id created_at ingested_at retention_class action resource_type resource_id
    actor_type actor_id trace_id span_id purpose labels context extras schema_version policy_version
    idempotency_key""".split()
KINDS = dict.fromkeys(COLUMNS, TEXT) | {"created_at": INSTANT, "ingested_at": INSTANT, "labels": LABELS}
KINDS |= {"context": JSON, "extras": JSON}
IN_REST = {number: (name, KINDS[name]) for number, name in enumerate(COLUMNS, 1)}
# record/schema: no rule can name these, so they are always in the rest; a layout has the others in this order.
FIXED = "tenant_id stream record_id ingested_at retention_class schema_version policy_version".split()
RULED = [name for name in COLUMNS if name not in FIXED]
NOT_IN_LEAF = set("""ingest_date leaf_index segment_id salt field_salts commitments sealed_fields subject_ref
    payload_hash key_digest leaf_layout""".split())
EMPTY_ROOT = hashlib.sha256().digest()
SEGMENT = r"seg-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}"
NOTE_KEY, COSIGNATURE_KEY = 1, 4  # C2SP signed-note: what keys sign
# seal/segment: the members of a seal in their order, but that the prevRoot of the first one is null.
SEAL = dict.fromkeys("format tenantId silo stream origin".split(), str) | {"number": int, "segmentId": str}
SEAL |= {"firstLeaf": int, "leafCount": int, "segmentRoot": str, "prevRoot": str, "treeHead": dict}
SEAL |= dict.fromkeys("algo signedAt keyId signature".split(), str)

Keys = namedtuple("Keys", "tenant public witnesses quorum", defaults=((), 0))
Seal = namedtuple("Seal", "name tenant silo stream origin segment first end root prev tree")
Statement = namedtuple("Statement", "tenant silo key begin end")
Proven = namedtuple("Proven", "tenant stream record_id leaf_index shown withheld checkpoint")


class NotVerified(Exception):
    """Something does not hold."""

    reason = property(str)


def require(holds: object, reason: str) -> None:
    if not holds:
        raise NotVerified(reason)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def lp(value: bytes | str) -> bytes:
    """seal/leaf: the length in bytes as 4 bytes, little endian, then the bytes."""
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(4, "little") + data


def text_of(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotVerified(f"{what}: is not UTF-8") from None


def read(path: Path | str, limit: int) -> bytes:
    """A whole file that may not be larger than `limit`."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    require(len(data) <= limit, f"{path}: has more than {limit} bytes")
    return data


def is_staged(name: str) -> bool:
    """Whether a writer that was stopped left this file: it writes beside the name, with `#` and digits, and then links."""
    return re.search(r"#[0-9]+$", name) is not None


def to_base64(data: bytes, url: bool = True) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=") if url else base64.b64encode(data).decode()


def unbase64(text: object, what: str, length: int | None = None, url: bool = True) -> bytes:
    """Base64 in its one spelling: base64url without padding, or the standard alphabet with it."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4 * url), b"-_" if url else b"+/", validate=True)
    except (ValueError, TypeError):
        raise NotVerified(f"{what}: is no base64") from None
    require(to_base64(data, url) == text, f"{what}: is not in the one spelling of base64")
    require(length in (None, len(data)), f"{what}: has {len(data)} bytes, not {length}")
    return data


def parse_json(data: bytes | str, what: str) -> object:
    """JSON whose texts are texts, in which no member stands twice, and after which nothing comes."""

    def members(pairs: list) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member stands twice")
        return dict(pairs)

    try:
        value = json.loads(data.decode() if isinstance(data, bytes) else data, object_pairs_hook=members)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise NotVerified(f"{what}: is not the JSON that it should be: {error}") from None


def taken(value: object, what: str, /, only: bool = True, **members: type) -> list:
    """The members of an object, which has them all, of these types, and (`only`) no others."""
    require(isinstance(value, dict), f"{what}: is no object")
    require(not only or value.keys() <= members.keys(), f"{what}: has a member that it should not have")
    for name, kind in members.items():
        require(type(value.get(name)) is kind, f"{what}: {name} is missing, or of another type")
    return [value.get(name) for name in members]


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def subtrees(leaves: list[bytes]) -> list[list[bytes]]:
    """The roots of the perfect subtrees of a log, those of 2^k leaves at k."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append([node(left, right) for left, right in zip(levels[-1][::2], levels[-1][1::2])])
    return levels


def frontier(levels: list[list[bytes]], size: int) -> list[bytes]:
    """seal/merkle: a perfect tree for each bit that is set in the size, the largest first."""
    heights = [height for height in reversed(range(size.bit_length())) if size >> height & 1]
    return [levels[height][(size >> height) - 1] for height in heights]


def tree_root(levels: list[list[bytes]], size: int) -> bytes:
    """seal/merkle, RFC 6962 section 2: the root of the log when it had this many leaves."""
    roots = frontier(levels, size) or [EMPTY_ROOT]
    whole = roots.pop()
    while roots:
        whole = node(roots.pop(), whole)
    return whole


def split_of(size: int) -> int:
    """RFC 6962: the largest power of two below a size of more than one."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that an audit path leads to: RFC 6962, section 2.1.1, backwards."""
    require(bool(path) == (size > 1), "the path has another length than the place in the log")
    if size == 1:
        return leaf
    half, *below, other = split_of(size), *path
    if index < half:
        return node(inclusion_root(leaf, index, half, below), other)
    return node(other, inclusion_root(leaf, index - half, size - half, below))


def consistency_roots(old: int, new: int, path: list[bytes], whole: bytes | None) -> tuple[bytes, bytes]:
    """The roots of both logs: RFC 6962, section 2.1.2, backwards; `whole` is the older root while it is a subtree."""
    if old == new:
        require(len(path) == (0 if whole else 1), "the path has another length than the logs")
        return (whole, whole) if whole else (path[0], path[0])
    require(path, "the path has another length than the logs")
    half, *below, other = split_of(new), *path
    if old <= half:
        before, after = consistency_roots(old, half, below, whole)
        return before, node(after, other)
    before, after = consistency_roots(old - half, new - half, below, None)
    return node(other, before), node(other, after)


def parse_jwks(data: bytes) -> Keys:
    """keys/attested: a JSON Web Key Set. Keys of other kinds are passed over (RFC 7517, section 5)."""
    document, public = parse_json(data, "the key set"), {}
    (keys,) = taken(document, "the key set", only=False, keys=list)
    require(isinstance(document.get("tenant", ""), str), "the key set: its tenant is no text")
    for key in keys:
        if isinstance(key, dict) and (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519"):
            kid, x = taken(key, "a key of the key set", only=False, kid=str, x=str)
            require(kid not in public, f"the key set: {kid!a} stands twice")
            public[kid] = unbase64(x, f"the key {kid!a}", 32)
    require(public, "the key set: has no Ed25519 key")
    return Keys(document.get("tenant"), public)


def require_tenant(keys: Keys, tenant: str) -> None:
    require(keys.tenant in (None, tenant), f"the keys are another tenant's, not those of {tenant!a}")


def key_id(name: str, public: bytes, kind: int = NOTE_KEY) -> bytes:
    """seal/note: the beginning of SHA-256(name, line feed, type, public key)."""
    return sha256(name.encode(), b"\n", bytes([kind]), public)[:4]


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def parse_note(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """seal/note, C2SP signed-note: the text, and of each signature the name and the bytes."""
    require(len(data) <= NOTE_BYTES_MAX, "the note is too large")
    whole = text_of(data, "the note")
    text, blank, lines = whole.rpartition("\n\n")
    require(blank and text and lines.endswith("\n"), "it is no signed note")
    require(not re.search(r"[\x00-\x09\x0b-\x1f]", whole), "the note has control characters")
    found = [re.fullmatch(r"\u2014 ([^\s+]+) (\S+)", line) for line in lines[:-1].split("\n")]
    require(all(found) and len(found) <= SIGNATURES_MAX, "a line after the text is no signature, or there are too many")
    signatures = [(line[1], unbase64(line[2], "a signature of the note", url=False)) for line in found]
    require(all(len(signature) > 4 for _, signature in signatures), "a signature of the note is too short")
    return text + "\n", signatures


def open_note(data: bytes, name: str, public: list[bytes]) -> str:
    """The text, which one of the keys signed under this name. Strangers' signatures are passed over, false ones not."""
    text, signatures = parse_note(data)
    own = [(key, signature) for named, signature in signatures for key in public if named == name]
    known = [(key, signature) for key, signature in own if key_id(name, key) == signature[:4]]
    require(known, "none of the tenant's keys signed it")
    for key, signature in known:
        require(signed_by(key, signature[4:], text.encode()), "a signature is not that of the key that it names")
    return text


def parse_witness(text: str) -> tuple[str, bytes]:
    """C2SP tlog-cosignature: the name and the public key of a witness, from its verifier key."""
    found = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})", text)
    key = base64.b64decode(found[3]) if found else b""
    if key[:1] != bytes([COSIGNATURE_KEY]) or key_id(found[1], key[1:], COSIGNATURE_KEY).hex() != found[2]:
        raise ValueError(f"{text!a} is no verifier key of a witness")
    return found[1], key[1:]


def require_witnesses(data: bytes, keys: Keys) -> None:
    """C2SP tlog-cosignature: as many of the witnesses as are asked for signed it, each with the time that it says."""
    (text, signatures), seen = parse_note(data), set()
    for name, public in keys.witnesses:
        begin = key_id(name, public, COSIGNATURE_KEY)
        for cosigned in (signature[4:] for named, signature in signatures if (named, signature[:4]) == (name, begin)):
            message = f"cosignature/v1\ntime {int.from_bytes(cosigned[:8], 'big')}\n{text}"
            seen |= {public} if signed_by(public, cosigned[8:], message.encode()) else set()
    witnesses = len({public for _, public in keys.witnesses})
    require(len(seen) >= keys.quorum, f"{len(seen)} of {witnesses} witnesses signed it, not {keys.quorum}")


class Checkpoint(namedtuple("Checkpoint", "origin size root table_version file_set_root table_log_digest")):
    """seal/checkpoint: what a log is at one version of its table."""

    def text(self) -> str:
        root, files, log = (to_base64(value, url=False) for value in (self.root, *self[4:]))
        version = f"tableVersion {self.table_version}\nfileSetRoot {files}\ntableLogDigest {log}\n"
        return f"{self.origin}\n{self.size}\n{root}\n{version}"


def parse_checkpoint(text: str) -> Checkpoint:
    """seal/checkpoint: the text in its one spelling."""
    form = r"(trailhouse\.dev/log/[0-9a-f]{32})\n([0-9]{1,19})\n(.{44})\ntableVersion ([0-9]{1,19})\n"
    found = re.fullmatch(form + r"fileSetRoot (.{44})\ntableLogDigest (.{44})\n", text)
    require(found, "it is no checkpoint of a log")
    root, files, log = (unbase64(found[at], "a hash of the checkpoint", HASH_BYTES, url=False) for at in (3, 5, 6))
    checkpoint = Checkpoint(found[1], int(found[2]), root, int(found[4]), files, log)
    require(checkpoint.text() == text, "the checkpoint is not in its one spelling")
    require(max(checkpoint.size, checkpoint.table_version) <= NUMBER_MAX, "the checkpoint has a number beyond any")
    return checkpoint


def open_checkpoint(note: bytes, keys: Keys, what: object) -> Checkpoint:
    """seal/checkpoint: signed by one of the tenant's keys, under the name of the origin, and by enough witnesses."""
    try:
        checkpoint = parse_checkpoint(parse_note(note)[0])
        open_note(note, checkpoint.origin, list(keys.public.values()))
        require_witnesses(note, keys)
        return checkpoint
    except NotVerified as error:
        raise NotVerified(f"{what}: {error}") from None


def parse_hashes(texts: list) -> list[bytes]:
    require(len(texts) <= PATH_MAX, "the path is longer than any")
    return [unbase64(text, "a hash of the path", HASH_BYTES) for text in texts]


def verify_consistency(new: Checkpoint, old: Checkpoint, proof: bytes) -> None:
    """proof/prove: that the log of the newer checkpoint begins with that of the older one."""
    what, kinds = "the consistency proof", {"format": str, "origin": str, "from": int, "to": int, "path": list}
    form, origin, begin, end, path = taken(parse_json(proof, what), what, **kinds)
    require(form == "trailhouse-consistency-1", f"{what}: is of another format")
    require(old.origin == new.origin == origin, "checkpoints and proof are of different logs")
    require((begin, end) == (old.size, new.size), f"{what}: is about other sizes than those of the checkpoints")
    require(old.table_version != new.table_version or old == new, "two checkpoints of one table version differ")
    in_order = old.size == new.size or old.size < new.size and old.table_version < new.table_version
    require(in_order, "the newer checkpoint is the older one")
    hashes, roots = parse_hashes(path), (old.root, new.root)
    found = consistency_roots(old.size, new.size, hashes, old.root) if old.size else (EMPTY_ROOT, new.root)
    require(found == roots and (old.size or not hashes), "the newer log does not begin with the older one")


def commitment(salt: bytes, path: str, kind: int, value: bytes) -> bytes:
    return sha256(b"th-c1", salt, lp(path), bytes([kind]), lp(value))


def leaf_hash(tenant: str, stream: str, record_id: str, commitments: list[bytes]) -> bytes:
    return sha256(b"\0", lp(tenant), lp(stream), lp(record_id), struct.pack("<I", len(commitments)), *commitments)


def encode_value(kind: int, value: object) -> bytes:
    """seal/leaf: the bytes of a value of types 0 to 4."""
    if kind in (NOTHING, INSTANT):
        return b"" if kind == NOTHING else struct.pack("<q", value)
    if kind != LABELS:
        return value.encode()
    pairs = sorted((key.encode(), text) for key, text in value.items())
    labels = (lp(key) + (b"\0" if text is None else b"\1" + lp(text)) for key, text in pairs)
    return struct.pack("<I", len(pairs)) + b"".join(labels)


def place_order(path: str) -> tuple[int, int, bytes]:
    """record/layout: columns in the order of the schema, then places in byte order of their JSON pointers."""
    return (1, 0, path.encode()) if path.startswith("/") else (0, RULED.index(path), b"")


def lp_at(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """What `lp` made at this place of some bytes, and where it ends."""
    begin = at + 4
    end = begin + int.from_bytes(data[at:begin], "little")
    if end > len(data):
        raise NotVerified(f"{what}: ends too early")
    return data[begin:end], end


def decode_labels(data: bytes, what: str) -> dict[str, str | None]:
    """seal/leaf: labels in their one spelling."""
    labels, at = {}, 4
    for _ in range(int.from_bytes(data[:4], "little")):
        key, at = lp_at(data, at, what)
        is_text, at = data[at : at + 1] == b"\1", at + 1
        value, at = lp_at(data, at, what) if is_text else (None, at)
        labels[text_of(key, what)] = None if value is None else text_of(value, what)
    require(encode_value(LABELS, labels) == data, f"{what}: is not in the one spelling of labels")
    return labels


def decode_value(kind: int, data: bytes, what: str) -> str:
    """A value as it is printed: text in quotes, JSON as it is, instants in microseconds, labels as JSON."""
    require(len(data) == {NOTHING: 0, INSTANT: 8}.get(kind, len(data)), f"{what}: is not of its type")
    if kind in (NOTHING, INSTANT):
        return str(struct.unpack("<q", data)[0]) if data else "null"
    if kind != LABELS:
        text = text_of(data, what)
        return json.dumps(text, ensure_ascii=not text.isprintable()) if kind == TEXT or not text.isprintable() else text
    return json.dumps(decode_labels(data, what))


def rest_values(data: bytes) -> Iterator[tuple[str, bytes]]:
    """seal/leaf, "The rest": columns by rising number, promoted ones in byte order, each of its type."""
    at, size, last, last_name = 0, len(data), 0, b""
    while at < size:
        number, raw = data[at], b""
        if number in IN_REST:
            name, kind = IN_REST[number]
            at += 1
        else:
            require(number == PROMOTED, f"the rest: no column has the number {number}")
            raw, at = lp_at(data, at + 1, "the rest")
            name, kind = text_of(raw, "the rest"), TEXT
            require(name not in KINDS.keys() | NOT_IN_LEAF, f"the rest: {name!a} is not promoted")
        begin = at + 5
        end = begin + int.from_bytes(data[at + 1 : begin], "little")
        if end > size:
            raise NotVerified("the rest: ends too early")
        if number < last or number == last and raw <= last_name:
            raise NotVerified(f"the rest: {name!a} is out of order")
        if data[at] != kind:
            raise NotVerified(f"the rest: {name!a} is of another type")
        yield name, data[begin:end]
        at, last, last_name = end, number, raw


def decode_rest(data: bytes, names: dict[str, str]) -> dict[str, str]:
    """seal/leaf, "The rest": its values as they are printed, of the record that is named."""
    what, shown = "the rest", {}
    for name, value in rest_values(data):
        require(name not in names or names[name].encode() == value, f"{what}: its {name} is not that of the leaf")
        shown[name] = decode_value(KINDS.get(name, TEXT), value, ascii(name))
    require(shown.keys() >= names.keys(), f"{what}: does not say whose record it is")
    return shown


def part_order(number: int, path: str, kind: int) -> tuple:
    """seal/leaf: a leaf can have a part of this path and type there; the parts of a leaf rise by what is given."""
    if not (number == 1) == (path == "") == (kind == REST):
        raise NotVerified(f"part {number} of the leaf: the rest, and it alone, is first, of type 5")
    kinds = (NOTHING, TEXT, JSON) if path.startswith("/") else (NOTHING, KINDS[path]) if path in RULED else (REST,)
    if kind not in kinds or kind == REST and path:
        raise NotVerified(f"part {number} of the leaf: {path!a} has no value of type {kind}")
    return place_order(path) if path else (-1,)


def open_parts(parts: list, names: dict[str, str]) -> tuple[list[bytes], dict[str, str]]:
    """proof/record: the commitments of a leaf, and the values that are shown of it, as they are printed."""
    commitments, shown, last = [], {}, ()
    for number, part in enumerate(parts, 1):
        what = f"part {number} of the leaf"
        if isinstance(part, dict) and "commitment" in part:
            commitments.append(unbase64(taken(part, what, commitment=str)[0], what, HASH_BYTES))
            continue
        path, kind, salt, value = taken(part, what, path=str, type=int, salt=str, value=str)
        value, order = unbase64(value, f"{what}, its value"), part_order(number, path, kind)
        require(path not in shown and last < order, f"{what}: {path!a} is out of order")
        shown |= decode_rest(value, names) if kind == REST else {path: decode_value(kind, value, ascii(path))}
        commitments.append(commitment(unbase64(salt, f"{what}, its salt", HASH_BYTES), path, kind, value))
        last = order
    return commitments, shown


def verify_proof(data: bytes, keys: Keys) -> Proven:
    """proof/record: the leaf, the audit path to the root of the checkpoint, and the checkpoint's signature."""
    members = {"format": str, "leaf": dict, "leafIndex": int, "path": list, "checkpoint": str}
    form, leaf, index, path, note = taken(parse_json(data, "the proof"), "the proof", **members)
    require(form == "trailhouse-record-proof-1", "the proof: is of another format")
    tenant, stream, record_id, parts = taken(leaf, "the leaf", tenant=str, stream=str, recordId=str, parts=list)
    require(1 <= len(parts) <= PARTS_MAX, "the leaf: has no parts, or too many")
    require_tenant(keys, tenant)
    commitments, shown = open_parts(parts, {"tenant_id": tenant, "stream": stream, "record_id": record_id})
    checkpoint = open_checkpoint(note.encode(), keys, "the checkpoint of the proof")
    hashed = leaf_hash(tenant, stream, record_id, commitments)
    place = f"leaf {index}, record {record_id!a}: is not in the log that the checkpoint signs"
    require(0 <= index < checkpoint.size, place)
    require(inclusion_root(hashed, index, checkpoint.size, parse_hashes(path)) == checkpoint.root, place)
    return Proven(tenant, stream, record_id, index, shown, sum("commitment" in part for part in parts), checkpoint)


def open_statement(data: bytes, keys: Keys) -> Statement:
    """keys/attested: what a tenant's signing key says of a process key."""
    names = "format tenant silo key notBefore notAfter signingKey signature".split()
    values = taken(parse_json(data, "the statement"), "the statement", **dict.fromkeys(names, str))
    form, tenant, silo, key, begin, end, kid, signature = values
    require(form == "trailhouse-process-key-1", "the statement: is of another format")
    require_tenant(keys, tenant)
    public = unbase64(key, "the process key", 32, url=False)
    message = b"trailhouse process key 1\0" + b"".join(map(lp, (tenant, silo, public, begin, end, kid)))
    signed = unbase64(signature, "the signature of the statement", url=False)
    require(kid in keys.public and signed_by(keys.public[kid], signed, message), "the statement: is not the tenant's")
    return Statement(tenant, silo, public, begin, end)


def verify_promise(receipt: bytes, statement: bytes, keys: Keys) -> tuple[bytes, int, str]:
    """seal/promise: the leaf is at its place in the group, and the process signed the group for the tenant."""
    what, by = "the receipt", open_statement(statement, keys)
    members = {"recordId": str, "tenantId": str, "stream": str, "leafIndex": int, "integrity": dict}
    _, tenant, stream, place, told = taken(parse_json(receipt, what), what, only=False, **members)
    members = {"firstLeaf": int, "size": int, "root": str, "signedAt": str, "key": str, "sig": str, "leaf": str}
    values = taken(told, what, only=False, index=int, path=list, **members)
    first, size, root, at, key, signature, leaf, index, path = (values[n] for n in (2, 3, 4, 5, 6, 7, 8, 0, 1))
    require(key == sha256(by.key).hex(), f"{what}: was signed with another process key")
    require(tenant == by.tenant and by.begin <= at < by.end, f"{what}: the process key did not speak for it then")
    root, leaf = parse_hashes([root, leaf])
    prev = parse_hashes([told["prev"]])[0] if told.get("prev") is not None else b""
    held = 0 <= first <= NUMBER_MAX - size and 0 <= index < size <= NUMBER_MAX and first + index == place
    held = held and inclusion_root(leaf, index, size, parse_hashes(path)) == root
    require(held, f"leaf {place}: is not in the group that was signed")
    numbers = (struct.pack("<Q", first), struct.pack("<Q", size))
    message = b"trailhouse promise 1\0" + b"".join(map(lp, (tenant, by.silo, stream, *numbers, root, prev, at)))
    require(signed_by(by.key, unbase64(signature, what), message), f"{what}: the process key did not sign it")
    return leaf, place, stream


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """seal/tile: where a tile of this many hashes lies."""
    digits = str(index).zfill(-(-len(str(index)) // 3) * 3)
    *high, low = re.findall("...", digits)
    partial = f".p/{width}" if width < TILE_WIDTH else ""
    return f"tile/{level}/" + "".join(f"x{group}/" for group in high) + low + partial


def parse_tile_path(path: str) -> tuple[int, int, int] | None:
    """seal/tile: level, number and width of a tile, if the path is the one spelling of it."""
    found = re.fullmatch(r"tile/([0-7])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", path)
    tile = found and (int(found[1]), int(re.sub("[x/]", "", found[2])), int(found[3] or TILE_WIDTH))
    return tile if tile and tile_path(*tile) == path else None


def read_tile(folder: Path, name: str, width: int) -> list[bytes]:
    data = read(folder / name, TILE_WIDTH * HASH_BYTES)
    require(len(data) == width * HASH_BYTES, f"{name}: has {len(data)} bytes, not {width * HASH_BYTES}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def expected_tiles(size: int, names: set[str]) -> dict[tuple[int, int], int]:
    """seal/tile: level, number and width of every tile of a log, all of which are among these names."""
    widths = {}
    for level in range(LEVELS_MAX):
        held = size >> 8 * level
        for index in range(-(-held // TILE_WIDTH)):
            width = min(TILE_WIDTH, held - index * TILE_WIDTH)
            require(tile_path(level, index, width) in names, f"{tile_path(level, index, width)}: is missing")
            widths[level, index] = width
    return widths


def open_seal(data: bytes, name: str, keys: Keys) -> Seal:
    """seal/segment: a seal in its one text, signed by the key that it names."""
    document, number = parse_json(data, name), int(name[-20:])
    values = taken(document, name, **SEAL | {"prevRoot": str if number else type(None)})
    form, tenant, silo, stream, origin, at, segment, first, count, root, prev, head, algo, time, kid, signature = values
    size, tree = taken(head, f"{name}: treeHead", size=int, root=str)
    one = dict(zip(SEAL, values)) | {"treeHead": {"size": size, "root": tree}}
    is_one = json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() == data
    is_timed = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z", time)
    require(is_one and is_timed and re.fullmatch(SEGMENT, segment), f"{name}: is not in the one text of a seal")
    known = (form, algo) == ("trailhouse-segment-seal-1", "rfc6962-sha256+ed25519")
    require(known, f"{name}: is of another format, or signed in another way")
    counts = at == number and 0 <= first < first + count == size <= NUMBER_MAX
    require(counts, f"{name}: its numbers are not those of a seal of this name")
    roots = [b"" if text is None else unbase64(text, f"{name}: a root", HASH_BYTES) for text in (root, prev, tree)]
    parts = [tenant, silo, stream, origin, at, segment, first, count, *roots, algo, time]
    encoded = (lp(struct.pack("<Q", part) if isinstance(part, int) else part) for part in parts)
    message = b"trailhouse segment seal 1\0" + b"".join(encoded)
    signed = unbase64(signature, f"{name}: signature", url=False)
    require(kid in keys.public and signed_by(keys.public[kid], signed, message), f"{name}: its key did not sign it")
    return Seal(name, tenant, silo, stream, origin, segment, first, size, *roots)


def open_seals(folder: Path, names: list[str], origin: str, keys: Keys) -> list[Seal]:
    """table/seals, seal/segment: the seals of a log, each of which begins where the one before it ends."""
    seals = []
    for number, name in enumerate(names):
        require(name == f"seal/{number:020}", f"seal/{number:020}: is missing")
        seal = open_seal(read(folder / name, SEAL_BYTES_MAX), name, keys)
        before = seals[-1] if seals else seal._replace(end=seal.first, root=b"")
        tenant = before.tenant if keys.tenant is None else keys.tenant
        owner = (tenant, before.silo, folder.resolve().name, origin)
        require((seal.tenant, seal.silo, seal.stream, seal.origin) == owner, f"{name}: is the seal of another log")
        require((seal.first, seal.prev) == (before.end, before.root), f"{name}: does not follow the seal before it")
        seals.append(seal)
    return seals


def verify_roots(seals: list[Seal], levels: list[list[bytes]]) -> None:
    """seal/segment: the roots that seals say, of those seals that end within these leaves."""
    for seal in (seal for seal in seals if seal.end <= len(levels[0])):
        own = tree_root(subtrees(levels[0][seal.first : seal.end]), seal.end - seal.first)
        roots = (own, tree_root(levels, seal.end))
        require(roots == (seal.root, seal.tree), f"{seal.name}: its roots are not those of the leaves")


def verify_log(folder: Path, keys: Keys) -> tuple[Checkpoint, list[list[bytes]], list[Seal]]:
    """table/published, seal/tile: the checkpoint, beside it tiles, seals and nothing else; gives the subtrees too."""
    listed = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in listed if not is_staged(path.name)}
    note = read(folder / "checkpoint", NOTE_BYTES_MAX)
    checkpoint = open_checkpoint(note, keys, folder / "checkpoint")
    widths = expected_tiles(checkpoint.size, names)
    lowest = [read_tile(folder, tile_path(*tile, width), width) for tile, width in widths.items() if tile[0] == 0]
    levels = subtrees([leaf for tile in lowest for leaf in tile])
    sealed = sorted(name for name in names if re.fullmatch(r"seal/[0-9]{20}", name))
    for name in sorted(names - {"checkpoint", *sealed}):
        level, index, width = parse_tile_path(name) or (0, 0, 0)
        require(width, f"{name}: is no file of a log")
        held = widths.get((level, index), 0)
        require(width <= held, f"{name}: is beyond the {checkpoint.size} leaves that are signed")
        for at, found in enumerate(read_tile(folder, name, width), index * TILE_WIDTH):
            other = tile_path(level - 1, at) if level else tile_path(0, index, held)
            require(found == levels[8 * level][at], f"{name}: hash {at} does not fit {other}")
    require(tree_root(levels, checkpoint.size) == checkpoint.root, "tile/0: its hashes do not make the signed root")
    seals = open_seals(folder, sealed, checkpoint.origin, keys)
    verify_roots(seals, levels)
    return checkpoint, levels, seals


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="verify.py", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    options = {"proof": [], "promise": ["--process-key"], "log": [], "table": ["--log", "--keys"]}
    options["checkpoint"] = ["--against", "--consistency"]
    for name, others in options.items():
        command = commands.add_parser(name)
        command.add_argument("path", type=Path)
        for option in ["--jwks", *others]:
            command.add_argument(option, type=Path, required=name in ("table", "promise") or option == "--jwks")
        command.add_argument("--witness", type=parse_witness, action="append", default=[], metavar="VKEY")
        command.add_argument("--quorum", type=int, metavar="K")
    commands.choices["table"].add_argument("--silo", required=True)
    arguments = parser.parse_args(words)
    if arguments.command == "checkpoint" and (arguments.against is None) != (arguments.consistency is None):
        parser.error("--against and --consistency belong together")
    witnesses = len({public for _, public in arguments.witness})
    if arguments.quorum is None:
        arguments.quorum = witnesses
    elif not 1 <= arguments.quorum <= witnesses:
        parser.error(f"--quorum is not between 1 and the number of witnesses, {witnesses}")
    return arguments


def run(arguments: argparse.Namespace) -> str:
    """Does what the command line asks for, and says what holds."""
    path, keys = arguments.path, parse_jwks(read(arguments.jwks, JSON_BYTES_MAX))
    keys = keys._replace(witnesses=arguments.witness, quorum=arguments.quorum)
    if arguments.command == "proof":
        proven = verify_proof(read(path, JSON_BYTES_MAX), keys)
        record = f"record {proven.record_id!a} of tenant {proven.tenant!a}, stream {proven.stream!a}"
        place = f"leaf {proven.leaf_index} of the {proven.checkpoint.size} of {proven.checkpoint.origin}"
        shown = [f"  {name if name.isprintable() else ascii(name)}: {value}" for name, value in proven.shown.items()]
        return "\n".join([f"verified: {record} is {place}; {proven.withheld} part(s) are withheld", *shown])
    if arguments.command == "promise":
        statement = read(arguments.process_key, JSON_BYTES_MAX)
        leaf, place, stream = verify_promise(read(path, JSON_BYTES_MAX), statement, keys)
        return f"verified: leaf {place} of {stream!a} was promised to be {to_base64(leaf)}"
    if arguments.command == "table":
        from verify_table import verify_table

        checkpoint, sizes, files = verify_table(path, arguments.log, keys, arguments.keys, arguments.silo)
        leaves = ", ".join(f"{size} leaves of {stream!a}" for stream, size in sizes.items())
        signed = f"{checkpoint.size} leaves at version {checkpoint.table_version}"
        return f"verified: {files} file(s) with {leaves}; {checkpoint.origin} signs {signed}"
    if arguments.command == "log":
        checkpoint, *_ = verify_log(path, keys)
    else:
        checkpoint = open_checkpoint(read(path, NOTE_BYTES_MAX), keys, path)
    if getattr(arguments, "against", None):
        old = open_checkpoint(read(arguments.against, NOTE_BYTES_MAX), keys._replace(quorum=0), arguments.against)
        verify_consistency(checkpoint, old, read(arguments.consistency, JSON_BYTES_MAX))
    version = f"version {checkpoint.table_version} of its table"
    return f"verified: {checkpoint.origin} has {checkpoint.size} leaves at {version}"


def main(words: list[str] | None = None) -> int:
    arguments = parse_arguments(words)
    try:
        print(run(arguments))
        return 0
    except NotVerified as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # whatever it is, nothing was found to be wrong
        print(f"it could not be checked: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    import verify  # under this name the module of tables finds it

    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(verify.main())
