"""What lies on disk: ciphertext that pyarrow opens with the right key, and with no other."""

import base64
import pathlib
import re

import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def lengths(*parts):
    return b"".join(len(part).to_bytes(4, "little") + part for part in (part.encode() for part in parts))


class Kms(pe.KmsClient):
    """Ten lines: the local key provider's files, opened with its master key."""

    def __init__(self, keys, tenant, silo):
        super().__init__()
        self.keys, self.aad = pathlib.Path(keys), lengths(tenant, silo, "data")

    def unwrap_key(self, wrapped, name):
        silo, opaque, version = re.fullmatch(r"kms://([^/]+)/([^/]+)/(v\d+)", name).groups()
        stored = (self.keys / silo / f"{opaque}.{version}.kek").read_bytes()
        kek = AESGCM((self.keys / "master.key").read_bytes()).decrypt(stored[:12], stored[12:], name.encode())
        blob = base64.b64decode(wrapped)
        return AESGCM(kek).decrypt(blob[:12], blob[12:], self.aad)

    def wrap_key(self, key, name):
        raise NotImplementedError


def data_file(world, tenant, silo, table="records"):
    files = sorted((world.folder / silo / "tenants" / tenant / "audit" / table).rglob("*.parquet"))
    assert files, f"no data files of {tenant}"
    return files[0]


def read(path, kms):
    factory = pe.CryptoFactory(lambda config: kms)
    properties = factory.file_decryption_properties(pe.KmsConnectionConfig(), pe.DecryptionConfiguration())
    return pq.ParquetFile(path, decryption_properties=properties).read()


def test_pyarrow_opens_a_data_file_with_the_tenants_key(world):
    path = data_file(world, "acme", "eu")
    assert path.read_bytes()[:4] == b"PARE"
    table = read(path, Kms(world.folder / "keys", "acme", "eu"))
    assert table.num_rows > 0
    assert set(table["tenant_id"].to_pylist()) == {"acme"}
    assert all(len(salt) == 16 for salt in table["salt"].to_pylist())


def test_another_tenants_key_does_not_open_it(world):
    path = data_file(world, "acme", "eu")
    with pytest.raises((OSError, InvalidTag)):
        read(path, Kms(world.folder / "keys", "globex", "eu"))
    with pytest.raises(OSError):
        pq.read_table(path)


def test_no_record_value_is_in_clear_anywhere_on_disk(world):
    canaries = [b"ec2.DescribeInstances", b"arn:aws:iam::", b"stratus-red-team"]
    scanned = 0
    for silo in ("eu", "us", "control"):
        for path in (world.folder / silo).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                scanned += 1
                assert not [canary for canary in canaries if canary in content], path
    assert scanned > 10
