"""The part of the verifier that is about tables: the Delta log, the sealed files, and the leaves of their rows."""

import base64
import hmac
import json
import re
import struct
from bisect import bisect_right
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote, unquote

from verify import (
    COLUMNS, HASH_BYTES, JSON, JSON_BYTES_MAX, KINDS, NOT_IN_LEAF, NOTHING, PROMOTED, REST, RULED, SEGMENT, TEXT,
    Checkpoint, Keys, NotVerified, Seal, commitment, encode_value, frontier, is_staged, leaf_hash, lp, parse_json,
    place_order, read, require, require_tenant, sha256, subtrees, taken, to_base64, tree_root, unbase64, verify_log,
    verify_roots,
)  # fmt: skip

KEY_BYTES_MAX, DATA_BYTES_MAX, ROWS_AT_ONCE = 4096, 4 << 30, 4096
SALT_BYTES, AES_NONCE_BYTES = 16, 12
PURPOSES = {"records": "data", "evidence": "evidence"}  # table/layout: which of the tenant's keys seals a table
PARTITIONS = ("stream", "ingest_date", "retention_class")
ACTIONS = {"commitInfo", "protocol", "metaData", "txn", "remove", "add"}

File = namedtuple("File", "path partition size sha256 rows first end")


def layout_parts(row: dict) -> list[tuple[str, str, int, object]]:
    """record/layout: of each entry of leaf_layout the column that has it, if one has, its path, type and value."""
    entries, sealed, parts = parse_json(row["leaf_layout"], "leaf_layout"), dict(row.get("sealed_fields") or {}), []
    require(isinstance(entries, list) and all(isinstance(entry, str) for entry in entries), "leaf_layout: is no layout")
    canonical = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    require(canonical == row["leaf_layout"], "leaf_layout: is not canonical")
    for entry in entries:
        column, colon, pointer = ("", "", entry) if entry.startswith("/") else entry.partition(":")
        is_free = column in row and column not in KINDS.keys() | NOT_IN_LEAF and pointer.startswith("/")
        is_held = is_free if colon else column in RULED or sealed.get(pointer) is not None
        require(is_held, f"leaf_layout: {entry!a} is no value of the record")
        value = row.get(column) if column else sealed.pop(pointer)
        kind = NOTHING if value is None else TEXT if colon else KINDS.get(column, JSON)
        parts.append((column, pointer or column, kind, value))
    order, columns = [place_order(path) for _, path, _, _ in parts], [part[0] for part in parts if part[0]]
    require(order == sorted(set(order)) and len(columns) == len(set(columns)), "leaf_layout: is out of order")
    require(not sealed, "sealed_fields: has values that leaf_layout does not name")
    return parts


def record_commitments(row: dict) -> list[bytes]:
    """seal/leaf: the commitments of a row: columns by name, instants as microseconds, maps as dicts."""
    parts = layout_parts(row)
    free = {name for name, value in row.items() if value is not None} - NOT_IN_LEAF - {part[0] for part in parts}
    known = [(bytes([at, KINDS[name]]), name) for at, name in enumerate(COLUMNS, 1) if name in free]
    promoted = sorted(free - KINDS.keys(), key=str.encode)
    others = [(bytes([PROMOTED]) + lp(name) + bytes([TEXT]), name) for name in promoted]
    rest = b"".join(head + lp(encode_value(KINDS.get(name, TEXT), row[name])) for head, name in known + others)
    values = [("", REST, rest)] + [(path, kind, encode_value(kind, value)) for _, path, kind, value in parts]
    require(type(row["salt"]) is bytes and len(row["salt"]) == SALT_BYTES, "salt: is not 16 bytes")
    salts = (hmac.digest(row["salt"], b"th-salt" + struct.pack("<I", at), "sha256") for at in range(1, len(values) + 1))
    return [commitment(salt, *value) for salt, value in zip(salts, values)]


def record_leaf(row: dict) -> bytes:
    """seal/leaf: the leaf of a row."""
    return leaf_hash(row["tenant_id"], row["stream"], row["record_id"], record_commitments(row))


def add_file(body: dict, name: str, first: dict[str, int], end: dict[str, int]) -> File:
    """table/layout: a data file as the log has it, with the leaves that it can have."""
    members = {"path": str, "size": int, "partitionValues": dict, "tags": dict, "stats": str, "dataChange": bool}
    path, size, values, tags, stats, is_new = taken(body, name, only=False, **members)
    partition, path = taken(values, name, **dict.fromkeys(PARTITIONS, str)), unquote(path)
    quoted = [quote(value, safe="").replace("~", "%7E") for value in partition]
    home = "".join(f"{column}={value}/" for column, value in zip(PARTITIONS, quoted))
    is_home = re.fullmatch(re.escape(home) + r"[0-9a-f-]{36}\.parquet", path)
    require(is_home, f"{name}: {path!a} is no path of its partition")
    (rows,), stream = taken(parse_json(stats, name), name, only=False, numRecords=int), partition[0]
    (digest,) = taken(tags, name, only=False, **{"th.sha256": str})
    return File(path, partition, size, digest, rows, first.get(stream, 0) if is_new else 0, end.get(stream, 0))


def fold(entry: bytes, name: str, files: dict[str, File], sizes: dict[str, int]) -> tuple[dict[str, dict], list]:
    """table/log, sequencer/tree: what an entry does to files and sizes; what it notes of trees, and of segments."""
    actions, counted = defaultdict(list), {}
    for line in filter(None, entry.split(b"\n")):
        action = parse_json(line, name)
        known = isinstance(action, dict) and action.keys() <= ACTIONS and len(action) == 1
        require(known, f"{name}: has a line that is no action")
        for kind, body in action.items():
            actions[kind].append(body)
            taken(body, name, only=False)
    info = [item for body in actions["commitInfo"] for item in body.items()]
    notes = {key.removeprefix("th.tree:"): note for key, note in info if key.startswith("th.tree:")}
    for app, version in (taken(body, name, only=False, appId=str, version=int) for body in actions["txn"]):
        if app.startswith("th.log:"):
            counted[app.removeprefix("th.log:")] = version
    noted = {key: taken(note, name, only=False, size=int, root=str, frontier=str)[0] for key, note in notes.items()}
    grows = all(sizes.get(stream, 0) <= size for stream, size in counted.items())
    require(noted == counted and grows, f"{name}: th.tree and th.log do not belong together, or to the entries before")
    begun = []
    for key, segment in (item for item in info if item[0].startswith("th.segment:")):
        stream, _, at = key.removeprefix("th.segment:").rpartition(":")
        is_new = re.fullmatch("[0-9]{20}", at) and sizes.get(stream, 0) <= int(at) < counted.get(stream, 0)
        require(is_new and re.fullmatch(SEGMENT, str(segment)), f"{name}: {key!a} is no segment of leaves that it adds")
        begun.append((stream, (int(at), segment)))
    for (path,) in (taken(body, name, only=False, path=str) for body in actions["remove"]):
        require(files.pop(unquote(path), None), f"{name}: takes away {path!a}, which is not there")
    for file in [add_file(body, name, sizes, sizes | counted) for body in actions["add"]]:
        require(files.setdefault(file.path, file) is file, f"{name}: adds {file.path}, which is there")
    sizes |= counted
    return notes, begun


def file_set_root(files: dict[str, File]) -> bytes:
    """table/file_set: the digest of the data files, in byte order of their paths."""
    ordered = sorted(files.values(), key=lambda file: file.path.encode())
    texts = (b"".join(map(lp, (file.path, file.sha256, *file.partition))) for file in ordered)
    return sha256(*(text + struct.pack("<Q", file.rows) for text, file in zip(texts, ordered)))


def read_table_log(folder: Path, stream: str, checkpoint: Checkpoint) -> tuple[dict, dict, dict, dict]:
    """table/log: the files, and the sizes, notes and segments of the logs, after comparing with the checkpoint."""
    files, sizes, notes, segments, digest = {}, {}, defaultdict(list), defaultdict(list), bytes(HASH_BYTES)
    names = sorted(path.name for path in folder.iterdir() if not is_staged(path.name))
    for version, name in enumerate(names):
        require(name == f"{version:020}.json", f"_delta_log: entry {version} is missing, or {name} is none")
        entry = read(folder / name, JSON_BYTES_MAX)
        digest = sha256(digest, sha256(entry))
        trees, begun = fold(entry, name, files, sizes)
        for of, note in trees.items():
            notes[of].append((name, note))
        for of, segment in sorted(begun):
            is_other = all(one not in segment for before in segments[of][-1:] for one in before)
            require(is_other, f"{name}: th.segment:{of} says again which segment begins")
            segments[of].append(segment)
        if version == checkpoint.table_version:
            require(digest == checkpoint.table_log_digest, f"_delta_log: 0 to {name} are not the signed ones")
            require(file_set_root(files) == checkpoint.file_set_root, f"{name}: has not the files that are signed")
            require(sizes.get(stream, 0) == checkpoint.size, f"{name}: has not as many leaves as are signed")
    require(len(names) > checkpoint.table_version, "_delta_log: ends before the version that is signed")
    return files, sizes, notes, segments


def segment_at(begun: list[tuple[int, str]], index: int) -> tuple[int, str] | None:
    """sequencer/tree: where the segment of a leaf begins, and its name, if the commits say so."""
    at = bisect_right(begun, index, key=lambda segment: segment[0])
    return begun[at - 1] if at else None


def decryption(folder: Path, tenant: str, silo: str, purpose: str) -> Callable[[], object]:
    """The files of the local key service, opened with its master key, as a key service of pyarrow."""
    import pyarrow.parquet.encryption as pe
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    master, aad = read(folder / "master.key", KEY_BYTES_MAX), lp(tenant) + lp(silo) + lp(purpose)

    def opened(key: bytes, sealed: bytes, bound: bytes) -> bytes:
        return AESGCM(key).decrypt(sealed[:AES_NONCE_BYTES], sealed[AES_NONCE_BYTES:], bound)

    class Kms(pe.KmsClient):
        def unwrap_key(self, wrapped: str, name: str) -> bytes:
            of_silo, key, version = re.fullmatch(r"kms://([a-z0-9_-]+)/([0-9a-f]+)/(v[0-9]+)", name).groups()
            kek = opened(master, read(folder / of_silo / f"{key}.{version}.kek", KEY_BYTES_MAX), name.encode())
            return opened(kek, base64.b64decode(wrapped), aad)

    factory = pe.CryptoFactory(lambda _: Kms())
    return lambda: factory.file_decryption_properties(pe.KmsConnectionConfig(), pe.DecryptionConfiguration())


def plain_values(column: object) -> list:
    """The values of a column, instants in microseconds and maps as dicts."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    if not pa.types.is_map(column.type):
        return column.to_pylist()
    maps = column.to_pylist()
    if any(len(dict(pairs)) != len(pairs) for pairs in maps if pairs):
        raise ValueError("a key stands twice in a map")
    return [None if pairs is None else dict(pairs) for pairs in maps]


def rows_of(data: bytes, properties: object, what: str) -> Iterator[dict]:
    """The rows of a data file by column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), decryption_properties=properties)
        for batch in file.iter_batches(ROWS_AT_ONCE):
            require(len(set(batch.schema.names)) == batch.num_columns, "a column stands twice")
            columns = [plain_values(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, values))
    except FileNotFoundError:  # a key that is not in the folder is nothing against the file
        raise
    except Exception as error:
        raise NotVerified(f"{what}: cannot be opened or read: {type(error).__name__}: {error}") from None


def read_data_file(folder: Path, file: File, names: tuple[str, ...]) -> bytes:
    """table/layout: a data file that is the one in the log, and sealed for the place where it lies."""
    require((folder / file.path).is_file(), f"{file.path}: is missing")
    data, aad = read(folder / file.path, DATA_BYTES_MAX), b"".join(map(lp, ("th1", *names, file.path)))
    require(len(data) == file.size and sha256(data).hex() == file.sha256, f"{file.path}: is not the file of the log")
    crypto = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    length = bytes([len(aad)] if len(aad) < 128 else [len(aad) & 127 | 128, len(aad) >> 7])
    begin = b"\x1c\x1c\x18" + length + aad  # Parquet's FileCryptoMetaData, as Thrift's compact protocol has it
    require(data[-4:] == b"PARE" and crypto.startswith(begin), f"{file.path}: is not sealed for this place")
    return data


def row_leaf(row: dict, tenant: str) -> bytes:
    """The leaf of a row, which lies where it belongs."""
    day = datetime.fromtimestamp(row["ingested_at"] // 1_000_000, timezone.utc).strftime("%Y-%m-%d")
    require(row["tenant_id"] == tenant, "is of another tenant")
    require(row["ingest_date"] == day, "is in the folder of another day")
    rewritten = row.get("field_salts") or row.get("commitments")
    require(not rewritten, "has fields that were rewritten away, and no page says how to check them")
    return record_leaf(row)


def file_leaves(data: bytes, file: File, tenant: str, begun: list, properties: object) -> Iterator[tuple[int, bytes]]:
    """The leaves of a data file, each among those that its entry of the log added, and in the segment that it says."""
    rows = 0
    for row in rows_of(data, properties, file.path):
        rows, index = rows + 1, row.get("leaf_index")
        try:
            require(index is not None and file.first <= index < file.end, "is none that its entry of the log added")
            require(row.keys().isdisjoint(PARTITIONS), "has columns that only paths have")
            segment = segment_at(begun, index)
            require(not segment or segment[1] == row["segment_id"], "is in another segment by what the commits say")
            yield index, row_leaf(row | dict(zip(PARTITIONS, file.partition)), tenant)
        except NotVerified as error:
            raise NotVerified(f"{file.path}: leaf {index}: {error}") from None
        except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError, struct.error) as error:
            raise NotVerified(f"{file.path}: leaf {index}: has not the columns of a record: {error}") from None
    require(rows == file.rows, f"{file.path}: has {rows} rows, not {file.rows} as the log says")


def verify_seals(seals: list[Seal], begun: list[tuple[int, str]], signed: int, size: int) -> None:
    """seal/segment: each seal is of one segment, and all that ended among the signed leaves are sealed."""
    end = seals[-1].end if seals else 0
    require(end <= size, f"seal/{len(seals) - 1:020}: is of leaves that the table does not have")
    for seal in seals:
        segment, last = segment_at(begun, seal.first), segment_at(begun, seal.end - 1)
        is_one = segment and segment == last and segment[1] == seal.segment
        is_placed = seal is not seals[0] or begun[:1] == [segment] and segment[0] == seal.first
        require(is_one and is_placed, f"{seal.name}: the commits say another segment of its leaves")
    ended = [begin for begin, _ in begun[1:] if begin < signed]
    require(not ended or ended[-1] <= end, f"seal/{len(seals):020}: is missing")


def verify_stream(stream: str, size: int, found: dict, notes: list, published: list[bytes], seals: list = ()) -> None:
    """sequencer/tree: the leaves of a stream are without hole, those published, and what commits and seals say."""
    for index in range(size):
        require(index in found, f"leaf {index} of {stream!a}: is in no file")
    for index, leaf in enumerate(published):
        require(found[index][0] == leaf, f"{found[index][1]}: leaf {index} is not the one in the published log")
    levels = subtrees([found[index][0] for index in range(size)])
    for name, note in notes:
        what = f"{name}: th.tree:{stream}"
        root = unbase64(note["root"], what, HASH_BYTES)
        require(root == tree_root(levels, note["size"]), f"{what}: root is not that of the {note['size']} leaves")
        edge = to_base64(b"".join(frontier(levels, note["size"])))
        require(note["frontier"] == edge, f"{what}: frontier is not that of the {note['size']} leaves")
    verify_roots(seals, levels)


def verify_table(folder: Path, log: Path, keys: Keys, key_folder: Path, silo: str) -> tuple[Checkpoint, dict, int]:
    """The whole table of a log; gives the checkpoint, the sizes of all its logs, and how many files it has."""
    *_, home, tenant, audit, kind = folder.resolve().parts
    if (home, audit) != ("tenants", "audit") or kind not in PURPOSES:
        raise ValueError(f"{folder} is no tenants/<tenant>/audit/records or evidence")
    stream = log.resolve().name
    require_tenant(keys, tenant)
    checkpoint, published, seals = verify_log(log, keys._replace(tenant=tenant))
    files, sizes, notes, segments = read_table_log(folder / "_delta_log", stream, checkpoint)
    require(not seals or seals[0].silo == silo, "the seals are of another silo")
    verify_seals(seals, segments[stream], checkpoint.size, sizes.get(stream, 0))
    own = {stream: (published[0], [seal for seal in seals if seal.end > checkpoint.size])}
    properties, leaves = decryption(key_folder, tenant, silo, PURPOSES[kind]), defaultdict(dict)
    for file in files.values():
        data, known = read_data_file(folder, file, (tenant, silo, kind)), leaves[file.partition[0]]
        for index, leaf in file_leaves(data, file, tenant, segments[file.partition[0]], properties()):
            require(index not in known, f"{file.path}: leaf {index} is also in {known.get(index, leaf)[1]}")
            known[index] = (leaf, file.path)
    for name, size in sizes.items():
        verify_stream(name, size, leaves[name], notes[name], *own.get(name, ([],)))
    return checkpoint, sizes, len(files)
