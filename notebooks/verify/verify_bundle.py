"""The part of the verifier that is about export bundles, offline: a folder, and the tenant's key set.

    python verify_bundle.py FOLDER --jwks acme.jwks

Nothing is believed of a manifest before its signature holds, and no file is parsed that is not, byte for byte, the one
that the manifest names: whoever has not the tenant's key gets no further than a JSON header. Files are read in batches
of rows, or line by line; of each leaf its hash and its index are kept.
Exit code 0: all of it holds; 1: something does not, as the report says; 2: it could not be checked.
"""

import argparse
import hashlib
import io
import json
import os
import re
import stat
import struct
import sys
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from verify import (
    FIXED, HASH_BYTES, INSTANT, JSON, JSON_BYTES_MAX, KINDS, LABELS, NOTE_BYTES_MAX, NOTHING, PARTS_MAX, REST, TEXT,
    Checkpoint, Keys, NotVerified, commitment, decode_labels, encode_value, leaf_hash, lp_at, node, open_checkpoint,
    parse_json, parse_jwks, part_order, read, require, require_tenant, rest_values, signed_by, split_of, subtrees,
    taken, text_of, to_base64, unbase64,
)  # fmt: skip
from verify_table import DATA_BYTES_MAX, ROWS_AT_ONCE, plain_values

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
CHECKPOINT, OMITTED = "proofs/checkpoint", "proofs/omitted"
MANIFEST_BYTES_MAX, SIGNATURE_BYTES_MAX, LINE_BYTES_MAX, READ_BYTES = 64 << 20, 16 << 10, 64 << 20, 1 << 20
FINDINGS_MAX, FINDING_CHARS_MAX, SAFE_MAX, DIGITS_MAX, PERFECT_MAX = 20, 400, 2**53 - 1, 18, 256
NAMES = """tenant_id record_id created_at ingested_at stream action resource_type resource_id actor_type actor_id
    trace_id span_id purpose labels context extras schema_version policy_version idempotency_key""".split()
DOCUMENTS = ("labels", "context", "extras")
CELLS = frozenset(NAMES).difference(DOCUMENTS)
UNRULED_CELLS = CELLS.intersection(FIXED)
NAMED = ("tenant_id", "stream", "record_id")
ALWAYS_STORED = {"record_id", "created_at", "tenant_id", "stream"}  # what an upcast leaves as it is
# What a line of NDJSON has for each column but the times.
LINE_KINDS = dict.fromkeys(CELLS - {"created_at", "ingested_at"}, {str, type(None)}) | {"leaf_index": {int}}
LINE_KINDS |= {"labels": {dict, type(None)}, "context": {str, type(None)}, "extras": {str, type(None)}}
FILTERS = {"action": "action", "resource.type": "resource_type", "resource.id": "resource_id"}
FILTERS |= {"actor.type": "actor_type", "actor.id": "actor_id", "tenantId": "tenant_id"}
CODECS = {"zstd": "ZSTD", "none": "UNCOMPRESSED"}
DIGEST = r"[0-9a-f]{64}"
PACKED = struct.Struct("<q").pack
ABSENT = object()


@dataclass
class Report:
    """What was found. Counts are of what was read, whether or not it holds."""

    manifest: dict = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    chunks: int = 0
    rows: int = 0
    leaves: int = 0  # whose hashes were rebuilt
    shown: int = 0
    withheld: int = 0
    omitted: int | None = None
    complete: bool = False  # the root was rebuilt from the rows and is the signed one
    findings: list[str] = field(default_factory=list)
    found: int = 0  # of these only the first are kept

    @property
    def ok(self) -> bool:
        return self.found == 0

    def add(self, finding: str) -> None:
        """Takes a finding in. What a file says comes out as one short line that moves no cursor."""
        self.found += 1
        if len(self.findings) < FINDINGS_MAX:
            text = finding if finding.isprintable() else ascii(finding)[1:-1]
            self.findings.append(text if len(text) <= FINDING_CHARS_MAX else text[:FINDING_CHARS_MAX] + "…")

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What does not hold in the block becomes a finding, and so does all that makes it stop."""
        try:
            yield
        except PermissionError:
            raise  # who may not read a file has found nothing wrong with it
        except Exception as error:  # whatever a file contains, it is the file that is wrong
            self.add(says(error))

    def __str__(self) -> str:
        lines = []
        if self.manifest:
            names = (self.manifest[name] for name in ("exportId", "tenantId", "stream"))
            lines += ["export {!a} of tenant {!a}, stream {!a}".format(*names)]
            lines += [f"  {self.rows} row(s) in {self.chunks} chunk(s)"]
            parts = f"{self.shown} part(s) shown, {self.withheld} withheld"
            lines += [f"  {self.leaves} leaf(s) checked, {parts}"] if self.is_proven else []
            lines += [f"  completeness: {self.completeness()}"]
        lines += [f"  finding: {finding}" for finding in self.findings]
        lines += [f"  … and {self.found - FINDINGS_MAX} more"] if self.found > FINDINGS_MAX else []
        return "\n".join([*lines, "verified" if self.ok else f"not verified: {self.found} finding(s)"])

    @property
    def is_proven(self) -> bool:
        return self.manifest["integrity"]["completeness"] == "proven"

    def completeness(self) -> str:
        if not self.is_proven:
            return "attested by the signature, and not proven"
        if not self.complete:
            return "not proven"
        if not self.omitted:
            return f"proven, the rows are all {self.checkpoint.size} leaves of {self.checkpoint.origin}"
        return f"proven but for {self.omitted} leaf(s) of {self.checkpoint.origin} of which only hashes are here"


# Texts


def instant(text: object, what: str) -> int:
    """RFC 3339, in microseconds since 1970; what is finer than these would be lost, and is refused."""
    try:
        minute, second, fraction = text[:16], text[17:19], ""
        found = re.fullmatch(r":[0-9]{2}(?:\.([0-9]{1,6}))?(Z|[+-][0-9]{2}:[0-9]{2})", text[16:])
        fraction, zone = (found[1] or "").ljust(6, "0"), found[2]
        if int(second) > 59:
            raise ValueError
        return begin_of_minute(minute, zone) + int(second) * 1_000_000 + int(fraction)
    except (TypeError, ValueError):
        raise NotVerified(f"{what}: is no time in RFC 3339 with at most six digits after the second") from None


@lru_cache(4096)
def begin_of_minute(minute: str, zone: str) -> int:
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2})", minute)
    if not found:
        raise ValueError(minute)
    year, month, day, hour, of_hour = map(int, found.groups())
    behind = 0 if zone == "Z" else int(zone[0] + "1") * (int(zone[1:3]) * 60 + int(zone[4:6]))
    if hour > 23 or of_hour > 59 or zone != "Z" and not (int(zone[1:3]) < 24 and int(zone[4:6]) < 60):
        raise ValueError(minute)
    days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    return ((days * 24 + hour) * 60 + of_hour - behind) * 60_000_000


def members(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= DIGITS_MAX else Decimal(digits)


# Numbers are compared by what is written, and not by the double next to it.
DECODER = json.JSONDecoder(
    object_pairs_hook=members, parse_float=Decimal, parse_int=whole, parse_constant=no_constant
)  # fmt: skip


def document_of(text: str, what: str) -> object:
    """The JSON in a row or in a leaf: no member twice, nothing that is no number, and texts that are texts."""
    try:
        value = DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        return value
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise NotVerified(f"{what}: is not the JSON that it should be: {error}") from None


def canonical(value: object) -> str:
    """RFC 8785 of what a manifest holds: its numbers are whole, and exact in a double."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    is_exact = not isinstance(value, int | float) or isinstance(value, int) and abs(value) <= SAFE_MAX
    require(is_exact, "has a number that is not whole, or too large")
    return json.dumps(value, ensure_ascii=False)


# The manifest


def open_plain(folder: Path, name: str) -> BinaryIO:
    """A file of the bundle, which is no link and nothing that would wait for someone to write."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        require(stat.S_ISREG(os.lstat(folder / name).st_mode), f"{name}: is no regular file")
        return open(folder / name, "rb", opener=lambda path, _: os.open(path, flags))
    except (FileNotFoundError, NotADirectoryError):
        raise NotVerified(f"{name}: is missing") from None


def read_plain(folder: Path, name: str, limit: int) -> bytes:
    with open_plain(folder, name) as file:
        data = file.read(limit + 1)
    require(len(data) <= limit, f"{name}: has more than {limit} bytes")
    return data


def open_signature(data: bytes, manifest: bytes, keys: Keys) -> str:
    """The detached JWS over the manifest's bytes; gives the key that made it."""
    head, dot, rest = text_of(data.rstrip(b" \t\r\n"), SIGNATURE).partition(".")
    require(dot and rest.startswith(".") and "." not in rest[1:], f"{SIGNATURE}: is no detached JWS")
    signature = unbase64(rest[1:], f"{SIGNATURE}: signature", 64)
    header = parse_json(unbase64(head, f"{SIGNATURE}: header"), f"{SIGNATURE}: header")
    alg, kid, typ = taken(header, f"{SIGNATURE}: header", only=False, alg=str, kid=str, typ=str)
    require(alg == "EdDSA", f"{SIGNATURE}: alg is not EdDSA")
    require(typ == "trailhouse-export-manifest", f"{SIGNATURE}: typ is that of something else")
    require("crit" not in header, f"{SIGNATURE}: has crit, and nothing that it could name is known")
    require(kid in keys.public, f"{SIGNATURE}: kid {kid!a} is none of the tenant's keys")
    holds = signed_by(keys.public[kid], signature, f"{head}.{to_base64(manifest)}".encode())
    require(holds, f"{SIGNATURE}: the key {kid!a} did not sign {MANIFEST}")
    return kid


def text_or_null(value: dict, name: str, what: str) -> str | None:
    is_one = name in value and isinstance(value[name], str | None)
    require(is_one, f"{what}: {name} is missing, or of another type")
    return value[name]


def open_files(listed: list, rows: bool) -> list[str]:
    """chunks and files: what each entry says of a file. Gives the paths."""
    what, paths = f"{MANIFEST}: {'chunks' if rows else 'files'}", {}
    kinds = {"path": str, "bytes": int, "sha256": str} | ({"rows": int} if rows else {})
    for entry in listed:
        path, size, digest, *count = taken(entry, what, only=False, **kinds)
        is_path = re.fullmatch(r"[A-Za-z0-9._/-]+", path) and ".." not in path and not path.startswith("/")
        require(is_path, f"{what}: {path!a} is no path in a bundle")
        is_said = 0 <= size and re.fullmatch(DIGEST, digest) and all(0 <= number for number in count)
        require(is_said, f"{what}: {path}: its length, digest or rows are none")
        require(path not in paths, f"{what}: {path} stands twice")
        paths[path] = None
    return list(paths)


def open_manifest(data: bytes, kid: str, keys: Keys) -> dict:
    """The manifest, of this version, in its one text."""
    what = MANIFEST
    manifest = parse_json(data, what)
    texts = "manifestVersion exportId tenantId stream format compression schemaVersion dictionaryRef readmeRef".split()
    objects = "timeRange filters provenance integrity residency".split()
    kinds = dict.fromkeys(texts, str) | dict.fromkeys(objects, dict)
    kinds |= {"recordCount": int, "chunks": list, "files": list}
    found = dict(zip(kinds, taken(manifest, what, **kinds)))
    try:
        require(canonical(manifest).encode() == data, "is not in the one text of RFC 8785")
    except (NotVerified, RecursionError) as error:
        raise NotVerified(f"{what}: {error}") from None
    require(found["manifestVersion"] == "1.2", f"{what}: manifestVersion is not 1.2")
    require(found["schemaVersion"] == "trailhouse-records-1", f"{what}: schemaVersion is of other rows")
    require(re.fullmatch(r"exp-[0-7][0-9A-HJKMNP-TV-Z]{25}", found["exportId"]), f"{what}: exportId is none")
    require(found["format"] in ("parquet", "ndjson"), f"{what}: format is none that is known")
    require(found["compression"] in CODECS, f"{what}: compression is none that is known")
    refs = (found["dictionaryRef"], found["readmeRef"])
    require(refs == ("dictionary.json", "README-verify.md"), f"{what}: dictionaryRef or readmeRef is another")
    require_tenant(keys, found["tenantId"])

    for name in ("from", "to"):
        bound = text_or_null(found["timeRange"], name, f"{what}: timeRange")
        instant(bound, f"{what}: timeRange.{name}") if bound is not None else None
    for name, values in found["filters"].items():
        require(name in FILTERS or name.startswith("labels."), f"{what}: filters: {name!a} is none that is known")
        is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
        require(is_list and values == sorted(values), f"{what}: filters: {name!a} is no sorted list of texts")

    made = f"{what}: provenance"
    texts = "policyVersion maskingProfile requestedBy generatorHost generatedAt correlationId"
    tool, *_ = taken(found["provenance"], made, only=False, tool=dict, **dict.fromkeys(texts.split(), str))
    name, *_ = taken(tool, f"{made}.tool", only=False, name=str, version=str, build=str)
    require(name == "trailhouse", f"{made}.tool: name is not trailhouse")
    text_or_null(found["provenance"], "purpose", made)
    instant(found["provenance"]["generatedAt"], f"{made}.generatedAt")
    taken(found["residency"], f"{what}: residency", only=False, dataSilo=str, objectStore=str)

    sealed, integrity = f"{what}: integrity", found["integrity"]
    kinds = {"completeness": str, "values": str, "segmentRoots": list, "signingKeyId": str}
    completeness, values, roots, signer = taken(integrity, sealed, only=False, **kinds)
    require(signer == kid, f"{SIGNATURE}: kid is not the signingKeyId of {MANIFEST}")
    require(completeness in ("proven", "attested"), f"{sealed}: completeness is none that is known")
    require(values in ("stored", "upcast"), f"{sealed}: values is none that is known")
    prev, size = text_or_null(integrity, "prevRoot", sealed), integrity.get("treeSize", ABSENT)
    roots = [*roots, prev] if prev is not None else roots
    are_roots = all(isinstance(root, str) and re.fullmatch(f"sha256:{DIGEST}", root) for root in roots)
    require(are_roots, f"{sealed}: a root is no digest")
    is_proven = completeness == "proven"
    is_size = type(size) is int and size >= is_proven or size is None and not is_proven
    require(is_size, f"{sealed}: treeSize is not that of a {completeness} export")

    chunks, files = open_files(found["chunks"], True), open_files(found["files"], False)
    expected = [f"part-{number:05}.{found['format']}" for number in range(len(chunks))]
    for path, name in zip(chunks, expected):
        require(path == name, f"{what}: chunks: {path} stands where {name} belongs")
    proofs = [CHECKPOINT, OMITTED, *map(leaves_of, chunks)] if is_proven else []
    expected = sorted([*refs, *proofs])
    require(files == sorted(files), f"{what}: files: are not sorted by path")
    for name in sorted(set(files) ^ set(expected)):
        raise NotVerified(f"{what}: files: {name} {'is missing' if name in expected else 'is no file of a bundle'}")
    counted = sum(chunk["rows"] for chunk in found["chunks"])
    require(counted == found["recordCount"], f"{what}: recordCount is not the sum of the rows of its chunks, {counted}")
    return manifest


def leaves_of(chunk: str) -> str:
    return f"proofs/{chunk.partition('.')[0]}.leaves.parquet"


# The folder


def verify_files(folder: Path, manifest: dict, report: Report) -> set[str]:
    """Every file is the one that the manifest names, and nothing else lies there. Gives those that can be read."""
    listed = {entry["path"]: entry for entry in [*manifest["chunks"], *manifest["files"]]}
    folders, known, seen = {path.rpartition("/")[0] for path in listed} | {""}, set(), set()
    for inside in sorted(folders):
        home = folder / inside
        if inside and (home.is_symlink() or not home.is_dir()):
            continue  # its files are missing, and what lies there instead was found above
        with os.scandir(home) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_symlink():
                    report.add(f"{name}: is a symbolic link")
                elif entry.is_dir(follow_symlinks=False):
                    None if name in folders else report.add(f"{name}: is an extra folder")
                elif not entry.is_file(follow_symlinks=False):
                    report.add(f"{name}: is no regular file")
                elif name in listed:
                    seen.add(name)
                elif name not in (MANIFEST, SIGNATURE):
                    report.add(f"{name}: is an extra file, which the manifest does not name")
    for name, entry in listed.items():
        if name not in seen:
            report.add(f"{name}: is missing")
            continue
        with report.noting():
            verify_file(folder, name, entry["bytes"], entry["sha256"])
            known.add(name)
    return known


def verify_file(folder: Path, name: str, size: int, digest: str) -> None:
    with open_plain(folder, name) as file:
        found = os.fstat(file.fileno()).st_size
        require(found == size, f"{name}: has {found} bytes, not {size} as the manifest says")
        hashed, left = hashlib.sha256(), size
        while left and (data := file.read(min(READ_BYTES, left))):
            hashed.update(data)
            left -= len(data)
    require(not left and hashed.hexdigest() == digest, f"{name}: its digest is not the one in the manifest")


# Rows


def is_of_type(name: str, kind: object) -> bool:
    """Whether a column of a Parquet file is of its type."""
    import pyarrow.types as pt

    if name in ("created_at", "ingested_at"):
        return pt.is_timestamp(kind) and kind.unit == "us" and kind.tz in ("UTC", "+00:00")
    if name == "labels":
        return pt.is_map(kind) and all(map(is_text, (kind.key_type, kind.item_type)))
    if name in ("leaf_index", "parts"):
        return pt.is_int64(kind) if name == "leaf_index" else pt.is_binary(kind) or pt.is_large_binary(kind)
    return is_text(kind)


def is_text(kind: object) -> bool:
    import pyarrow.types as pt

    return pt.is_string(kind) or pt.is_large_string(kind)


def parquet_rows(file: BinaryIO, columns: list[str], codec: str | None = None) -> Iterator[tuple]:
    """The rows of a Parquet file with just these columns, batch by batch."""
    import pyarrow.parquet as pq

    # Rows come from buffers of a fixed size: read ahead, a column of a row group would be in memory as a whole.
    opened = pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False)
    schema, footer = opened.schema_arrow, opened.metadata
    require(schema.names == columns, "its columns are not those of the format, in their order")
    for kind in schema:
        require(is_of_type(kind.name, kind.type), f"{kind.name} is of another type")
    groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
    require(all(group.total_byte_size <= DATA_BYTES_MAX for group in groups), "a row group is too large")
    for batch in opened.iter_batches(ROWS_AT_ONCE):
        yield from zip(*map(plain_values, batch.columns), strict=True)
    # Asked for a column whose footer is malformed, pyarrow ends the process. These were read, so theirs are not.
    for group in groups if codec else ():
        codecs = {group.column(at).compression for at in range(group.num_columns if group.num_rows else 0)}
        require(codecs <= {codec}, "is not compressed as the manifest says")


def ndjson_rows(file: BinaryIO, columns: list[str], compression: str) -> Iterator[tuple]:
    """The rows of an NDJSON file: a line each, with all the columns in their order."""
    if compression == "zstd":
        import pyarrow as pa

        file = io.BufferedReader(pa.CompressedInputStream(file, "zstd"), READ_BYTES)
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number, what = number + 1, f"line {number + 1}"
        require(len(line) <= LINE_BYTES_MAX, f"{what}: is too long")
        require(line.endswith(b"\n"), f"{what}: does not end with a line feed")
        row = document_of(text_of(line, what), what)
        require(isinstance(row, dict) and list(row) == columns, f"{what}: has not the columns of the format, in order")
        for name in ("created_at", "ingested_at"):
            row[name] = None if row[name] is None else instant(row[name], f"{what}: {name}")
        for name, kinds in LINE_KINDS.items():
            if name in row and type(row[name]) not in kinds:
                raise NotVerified(f"{what}: {name} is of another type")
        labels = (row["labels"] or {}).values()
        require(all(isinstance(text, str | None) for text in labels), f"{what}: a label is no text")
        yield tuple(row.values())


class Row(dict):
    """A row by column; its JSON is read when it is asked for, and then once."""

    def document(self, name: str) -> object:
        """labels, context or extras as they are; a column that is null has none."""
        if name == "labels" or self[name] is None:
            return self[name]
        if (found := self.__dict__.get(name)) is None:
            found = self.__dict__[name] = document_of(self[name], name)
        return found

    def check_documents(self) -> None:
        """context and extras are JSON, also where no leaf says so."""
        for name in DOCUMENTS:
            if name not in self.__dict__:
                self.document(name)


class Place:
    """What the manifest says of every row, and the row before."""

    def __init__(self, manifest: dict) -> None:
        begin, end = (manifest["timeRange"][name] for name in ("from", "to"))
        self.begin = None if begin is None else instant(begin, "from")
        self.end = None if end is None else instant(end, "to")
        self.tenant, self.stream, self.last = manifest["tenantId"], manifest["stream"], None
        self.filters = [(name, frozenset(values)) for name, values in manifest["filters"].items()]

    def check(self, row: Row) -> None:
        at, record = row["created_at"], row["record_id"]
        if at is None or record is None:
            raise NotVerified("has no created_at or no record_id")
        order, last, self.last = (at, record), self.last, (at, record)
        if row["tenant_id"] != self.tenant or row["stream"] != self.stream:
            raise NotVerified("is of another tenant or stream than the manifest says")
        if last is not None and not last < order:
            raise NotVerified("does not come after the row before, by created_at and record_id")
        if self.begin is not None and at < self.begin or self.end is not None and at >= self.end:
            raise NotVerified("created_at is not in the timeRange of the manifest")
        for name, values in self.filters:
            value = row[FILTERS[name]] if name in FILTERS else (row["labels"] or {}).get(name.removeprefix("labels."))
            if value not in values:
                raise NotVerified(f"does not match the filter {name!a}")


# Leaves


def open_leaf(data: bytes) -> tuple[list[bytes], list[tuple[str, int, bytes]]]:
    """seal/leaf: the commitments of a leaf, and path, type and value of the parts that are shown."""
    count, at, last, commitments, shown = int.from_bytes(data[:4], "little"), 4, (), [], []
    require(1 <= count <= PARTS_MAX, "its leaf has no parts, or too many")
    for number in range(1, count + 1):
        begin, tag, at = at + 1, data[at : at + 1], at + 1 + HASH_BYTES
        if tag == b"\0" and at <= len(data):
            commitments.append(data[begin:at])
            continue
        if tag != b"\1":
            raise NotVerified(f"part {number} of its leaf: is none, or ends too early")
        salt = data[begin:at]
        raw, at = lp_at(data, at, "a part of its leaf")
        value, end = lp_at(data, at + 1, "a part of its leaf")
        kind = data[at]
        path, order = known_part(number, raw, kind)
        if not last < order:
            raise NotVerified(f"part {number} of its leaf: {path!a} is out of order")
        commitments.append(commitment(salt, path, kind, value))
        shown.append((path, kind, value))
        last, at = order, end
    require(at == len(data), "something follows its leaf")
    return commitments, shown


@lru_cache(1024)
def known_part(number: int, raw: bytes, kind: int) -> tuple[str, tuple]:
    """The path and the order of a part: most leaves have the same ones."""
    path = text_of(raw, "a path of its leaf")
    return path, part_order(number, path, kind)


@lru_cache(1024)
def steps_of(pointer: str) -> tuple[str, ...]:
    """RFC 6901."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def value_at(document: object, steps: tuple[str, ...]) -> object:
    for step in steps:
        if isinstance(document, list):
            is_index = re.fullmatch(r"0|[1-9][0-9]{0,8}", step) and int(step) < len(document)
            document = document[int(step)] if is_index else ABSENT
        else:
            document = document.get(step, ABSENT) if isinstance(document, dict) else ABSENT
    return document


def same(one: object, other: object, covering: bool = False) -> bool:
    """Whether two JSON values are equal; or, if `covering`, whether the first has at least what the second has."""
    if covering and other is None:
        return True
    if type(other) is dict:
        if type(one) is not dict or not covering and len(one) != len(other):
            return False
        for name, value in other.items():
            if name not in one or not same(one[name], value, covering):
                return False
        return True
    if type(other) is list:
        is_list = type(one) is list and len(one) == len(other)
        return is_list and all(same(first, second, covering) for first, second in zip(one, other))
    return (type(one) is bool) == (type(other) is bool) and one == other  # to Python true is 1


def is_made_of(found: object, stored: object, apart: Sequence[tuple[str, ...]]) -> bool:
    """Whether a value that covers the stored one has nothing else but what stands apart, at these places."""
    if () in apart:
        return True  # the part that stands there says what it is
    kind = type(found)
    if kind not in (dict, list) or not (apart or type(stored) is kind):
        return stored is not None or found is None
    known = stored if type(stored) is kind else kind()
    if kind is list:
        found, known = ({str(at): value for at, value in enumerate(values)} for values in (found, known))
    below = defaultdict(list)
    for step, *steps in apart:
        below[step].append(tuple(steps))
    for name, value in found.items():
        places = below.get(name, ())
        if name not in known and not places or not is_made_of(value, known.get(name), places):
            return False
    return True


def compare_cell(row: Row, name: str, kind: int, value: bytes) -> None:
    """A column that is a text or an instant is what the leaf has."""
    cell = row[name]
    if kind == TEXT:
        is_same = cell is not None and cell.encode() == value
    elif kind == INSTANT:
        is_same = cell is not None and PACKED(cell) == value
    else:
        is_same = cell is None and not value
    if not is_same:
        raise NotVerified(f"{name} is not the value in its leaf")


def compare_pointer(row: Row, path: str, kind: int, value: bytes) -> None:
    """A value that stands apart is in the row where it stood."""
    name, *steps = steps_of(path)
    require(name in DOCUMENTS, f"{path!a} in its leaf is in no document of a record")
    found = value_at(row.document(name), tuple(steps))
    if kind == NOTHING:
        is_same = not value and (found is ABSENT or found is None)
    else:
        text = text_of(value, ascii(path))
        other = text if kind == TEXT else document_of(text, f"the leaf's {path!a}")
        is_same = found is not ABSENT and same(found, other)
    require(is_same, f"{path!a} is not the value in its leaf")


def compare_document(row: Row, name: str, value: bytes | None, apart: list | None) -> None:
    """labels, context or extras cover what the leaf has; if `apart`, they have nothing beyond that and these places."""
    cell = row[name]
    if value is None:
        stored = None
    elif cell is not None and value == (encode_value(LABELS, cell) if name == "labels" else cell.encode()):
        row.__dict__.setdefault(name)  # it is what was stored, and need not be read unless a part is in it
        return
    else:
        what = f"the leaf's {name}"
        stored = decode_labels(value, what) if name == "labels" else document_of(text_of(value, what), what)
    found = row.document(name)
    require(same(found, stored, covering=True), f"{name} does not have the values in its leaf")
    require(apart is None or is_made_of(found, stored, apart), f"{name} has a value that is not in its leaf")


def compare(row: Row, shown: list[tuple[str, int, bytes]], withheld: int, upcast: bool) -> None:
    """The values that the leaf shows are those of the row."""
    known, documents, apart, has_promoted = set(), {}, defaultdict(list), False
    compared = ALWAYS_STORED if upcast else CELLS
    for path, kind, value in shown:
        if kind == REST:
            for name, held in rest_values(value):
                known.add(name)
                if name in compared:  # nearly all of what a bundle has
                    if (cell := row[name]) is None or held != (cell.encode() if type(cell) is str else PACKED(cell)):
                        raise NotVerified(f"{name} is not the value in its leaf")
                elif name in DOCUMENTS:
                    documents[name] = held
                elif name not in row:  # the class of retention and promoted columns, which rows do not have
                    has_promoted |= name not in KINDS
                    text_of(held, f"the leaf's {name!a}")
            if not known.issuperset(NAMED):
                raise NotVerified("the rest of its leaf does not say whose record it is")
        elif path.startswith("/"):
            if not upcast:
                compare_pointer(row, path, kind, value)
                name, *steps = steps_of(path)
                apart[name].append(tuple(steps))
        else:
            require(path not in known, f"{path} stands twice in its leaf")
            known.add(path)
            if path in DOCUMENTS and kind != NOTHING:
                documents[path] = value
            elif path in compared or not upcast:
                compare_cell(row, path, kind, value)
    if upcast:
        return
    # Only of a leaf of which nothing is withheld is it known what it does not have. Where promoted columns came from
    # it does not say.
    is_whole = not withheld and not has_promoted
    for name, value in documents.items():
        compare_document(row, name, value, apart[name] if is_whole else None)
    for name in DOCUMENTS if is_whole else ():
        if name not in documents and name not in known and row[name] is not None:
            compare_document(row, name, None, apart[name])
    # What no rule can name is in the rest if it is there at all; another column may be the part that is withheld.
    has_rest = "tenant_id" in known
    for name in () if not has_rest else (UNRULED_CELLS if withheld else CELLS) - known:
        if row[name] is not None:
            raise NotVerified(f"{name} has a value, and its leaf has none")


# Completeness


class Leaves:
    """The hash and the index of every row's leaf, in the order of rows."""

    def __init__(self) -> None:
        self.hashes, self.indexes, self.begins = bytearray(), array("q"), []

    def add(self, index: int, hashed: bytes) -> None:
        self.indexes.append(index)
        self.hashes += hashed

    def row(self, number: int) -> str:
        """Where the leaf with this number comes from, while every row has one."""
        begin, chunk = next(found for found in reversed(self.begins) if found[0] <= number)
        return f"{chunk}: row {number - begin + 1}"

    def ordered(self) -> tuple[array, memoryview]:
        """Indexes and hashes by index, of which none is there twice."""
        import pyarrow as pa
        import pyarrow.compute as pc

        count = len(self.indexes)
        if not count:
            return array("q"), memoryview(b"")
        indexes = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(self.indexes)])
        hashes = pa.Array.from_buffers(pa.binary(HASH_BYTES), count, [None, pa.py_buffer(self.hashes)])
        order = pc.sort_indices(indexes)
        rising, last = array("q"), None
        rising.frombytes(memoryview(indexes.take(order).buffers()[1])[: 8 * count])
        for at, index in enumerate(rising):
            if index == last:
                both = sorted((order[at - 1].as_py(), order[at].as_py()))
                raise NotVerified(f"{self.row(both[1])}: its leaf_index is also that of {self.row(both[0])}")
            last = index
        return rising, memoryview(hashes.take(order).buffers()[1])


def rebuilt_root(size: int, indexes: array, hashes: memoryview, omitted: Callable[[], bytes]) -> bytes:
    """The root over the leaves that are there, and over the hashes of the subtrees in which there are none."""

    def root(low: int, high: int, first: int, end: int) -> bytes:
        width = high - low
        is_perfect = width & (width - 1) == 0
        if first == end and is_perfect:
            return omitted()
        if end - first == width and is_perfect and width <= PERFECT_MAX:
            at = range(first * HASH_BYTES, end * HASH_BYTES, HASH_BYTES)
            return subtrees([bytes(hashes[begin : begin + HASH_BYTES]) for begin in at])[-1][0]
        middle = low + split_of(width)
        between = bisect_left(indexes, middle, first, end)
        left = root(low, middle, first, between)
        return node(left, root(middle, high, between, end))

    return root(0, size, 0, len(indexes))


def verify_completeness(folder: Path, checkpoint: Checkpoint, leaves: Leaves) -> None:
    """The rows' leaves, and the hashes of what was left out, make the root that the checkpoint signs."""
    indexes, hashes = leaves.ordered()
    with open_plain(folder, OMITTED) as file:

        def omitted() -> bytes:
            found = file.read(HASH_BYTES)
            require(len(found) == HASH_BYTES, f"{OMITTED}: ends too early: rows are missing, or hashes")
            return found

        root = rebuilt_root(checkpoint.size, indexes, hashes, omitted)
        require(not file.read(1), f"{OMITTED}: has more hashes than there are gaps between the rows")
    why = f"rows are missing or changed, or {OMITTED} is"
    require(root == checkpoint.root, f"{CHECKPOINT}: its root is not that of the rows: {why}")


# The bundle


def verify_leaf(row: Row, entry: tuple, size: int, upcast: bool, leaves: Leaves, report: Report) -> None:
    """A row is what its leaf says; the leaf's hash is kept."""
    index, data = entry
    require(index is not None and data is not None, "its leaf is null")
    commitments, shown = open_leaf(data)
    hashed = leaf_hash(row["tenant_id"], row["stream"], row["record_id"], commitments)
    if not 0 <= index < size:
        raise NotVerified(f"leaf {index} is not among the {size} of the log")
    if index != row["leaf_index"]:
        raise NotVerified(f"its leaf_index is not {index}, that of its leaf")
    leaves.add(index, hashed)
    withheld = len(commitments) - len(shown)
    report.leaves += 1
    report.shown += len(shown)
    report.withheld += withheld
    compare(row, shown, withheld, upcast)


def named(rows: Iterator[tuple], name: str) -> Iterator[tuple]:
    """These rows; what is wrong with their file is said of this name."""
    try:
        yield from rows
    except NotVerified as error:
        raise NotVerified(f"{name}: {error}") from None
    except Exception as error:  # the libraries below know many ways to say that a file is none
        raise NotVerified(f"{name}: cannot be read: {type(error).__name__}: {error}") from None


def verify_rows(rows: Iterator[tuple], chunk: dict, columns: list[str], entries: Iterator | None, place: Place,
                leaves: Leaves, report: Report) -> None:  # fmt: skip
    """The rows of a chunk, beside their leaves if these can be read."""
    path, number, integrity = chunk["path"], 0, report.manifest["integrity"]
    size, upcast = integrity["treeSize"], integrity["values"] == "upcast"
    for number, values in enumerate(rows, 1):
        require(number <= chunk["rows"], f"{path}: has more rows than the {chunk['rows']} that the manifest says")
        report.rows += 1
        row, entry = Row(zip(columns, values)), None
        try:
            if entries is not None:
                entry = next(entries, None)
                require(entry, f"{leaves_of(path)}: has no leaf of row {number}")
        except NotVerified as error:
            report.add(str(error))
            entries = None
        try:
            place.check(row)
        except Exception as error:
            report.add(f"{path}: row {number}: {says(error)}")
        try:
            if entry is not None:
                verify_leaf(row, entry, size, upcast, leaves, report)
            row.check_documents()
        except Exception as error:
            report.add(f"{path}: row {number}: {says(error)}")
    require(number == chunk["rows"], f"{path}: has {number} rows, not {chunk['rows']} as the manifest says")
    if entries is not None:
        require(next(entries, None) is None, f"{leaves_of(path)}: has more leaves than the chunk has rows")


def says(error: Exception) -> str:
    return str(error) if isinstance(error, NotVerified) else f"cannot be read: {type(error).__name__}: {error}"


def verify_chunk(folder: Path, chunk: dict, known: set[str], place: Place, leaves: Leaves, report: Report) -> None:
    manifest, path = report.manifest, chunk["path"]
    columns, beside = NAMES + ["leaf_index"] * report.is_proven, leaves_of(path)
    leaves.begins.append((len(leaves.indexes), path))
    with open_plain(folder, path) as file, ExitStack() as opened:
        if manifest["format"] == "parquet":
            rows = parquet_rows(file, columns, CODECS[manifest["compression"]])
        else:
            rows = ndjson_rows(file, columns, manifest["compression"])
        entries = None
        if beside in known:
            leaf_file = opened.enter_context(open_plain(folder, beside))
            entries = named(parquet_rows(leaf_file, ["leaf_index", "parts"]), beside)
        verify_rows(named(rows, path), chunk, columns, entries, place, leaves, report)
    report.chunks += 1


def verify_bundle(folder: Path | str, jwks: Keys | bytes | Path | str) -> Report:
    """All of a bundle against a key set: the keys, the text of the set, or its file."""
    folder, report, leaves, keys = Path(folder), Report(), Leaves(), jwks
    if not isinstance(jwks, Keys):
        keys = parse_jwks(jwks if isinstance(jwks, bytes) else read(jwks, JSON_BYTES_MAX))
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    with report.noting():
        signature = read_plain(folder, SIGNATURE, SIGNATURE_BYTES_MAX)
        data = read_plain(folder, MANIFEST, MANIFEST_BYTES_MAX)
        report.manifest = open_manifest(data, open_signature(signature, data, keys), keys)
    if not report.ok:
        return report
    manifest, known = report.manifest, verify_files(folder, report.manifest, report)
    size, count = manifest["integrity"]["treeSize"], manifest["recordCount"]
    with report.noting():
        if CHECKPOINT in known:
            signed = open_checkpoint(read_plain(folder, CHECKPOINT, NOTE_BYTES_MAX), keys, CHECKPOINT)
            require(signed.size == size, f"{CHECKPOINT}: is of {signed.size} leaves, not of treeSize, {size}")
            report.checkpoint = signed
    place = Place(manifest)
    for chunk in manifest["chunks"]:
        with report.noting():
            if chunk["path"] in known:
                verify_chunk(folder, chunk, known, place, leaves, report)
    if not report.is_proven:
        return report
    with report.noting():
        report.omitted = size - count
        is_all = not manifest["filters"] and set(manifest["timeRange"].values()) == {None}
        left_out = f"{MANIFEST}: nothing was to be left out, and {report.omitted} of treeSize are not in recordCount"
        require(not is_all or report.omitted == 0, left_out)
        if report.checkpoint and OMITTED in known and len(leaves.indexes) == report.rows == count:
            verify_completeness(folder, report.checkpoint, leaves)
            report.complete = True
        require(report.complete or report.found, f"{CHECKPOINT}: could not be compared with the rows")
    return report


def main(words: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="verify_bundle.py", description=__doc__, formatter_class=form)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jwks", type=Path, required=True)
    arguments = parser.parse_args(words)
    try:
        report = verify_bundle(arguments.folder, arguments.jwks)
    except Exception as error:  # whatever it is, nothing was found to be wrong
        print(f"it could not be checked: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
