"""TLS as clients see it: who is let in, by which certificate, and what happens when that is renewed."""

import datetime
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import adbc_driver_flightsql.dbapi as adbc
import pytest
from adbc_driver_flightsql import DatabaseOptions
from conftest import BINARY, World
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

RELOAD_SECONDS_MAX = 30


class Authority:
    """Somebody who signs certificates."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(pem(self.sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None))))

    def sign(self, name, key, constraints, days=2):
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=days))
        return builder.add_extension(constraints, True).add_extension(names, False).sign(self.key, hashes.SHA256())

    def issue(self, name):
        """A certificate with its key, as two files."""
        key = ec.generate_private_key(ec.SECP256R1())
        of = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self.folder / f"{name}.crt"
        certificate.write_bytes(pem(self.sign(of, key, x509.BasicConstraints(ca=False, path_length=None))))
        private = self.folder / f"{name}.key"
        kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
        return certificate, private


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


class Tls:
    """A server with TLS, and the files that it and its clients know each other by."""

    def __init__(self, folder, mutual):
        self.folder = folder
        self.world = World(folder)
        self.servers, self.clients = Authority(folder, "servers"), Authority(folder, "clients")
        self.certificate, self.key = self.servers.issue("server")
        self.own = self.clients.issue("client")
        client_ca = f'client_ca = "{self.clients.path}"\n' if mutual else ""
        with open(self.world.config, "a") as config:
            config.write(f'[tls]\ncertificate = "{self.certificate}"\nkey = "{self.key}"\n{client_ca}')
        self.world.start()
        self.world.run("tenant", "create", "acme", "--silo", "eu")

    def url(self):
        return f"https://127.0.0.1:{self.world.ports['eu_http']}"

    def context(self, own=False):
        context = ssl.create_default_context(cafile=self.servers.path)
        if own:
            context.load_cert_chain(*self.own)
        return context

    def ask(self, own=False):
        headers = {"authorization": f"Bearer {self.world.token('acme', role='Admin')}"}
        request = urllib.request.Request(self.url() + "/v1/keys", headers=headers)
        with urllib.request.urlopen(request, context=self.context(own), timeout=10) as answer:
            return answer.status

    def query(self, sql, own=False):
        options = {
            DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {self.world.token('acme', role='Investigator')}",
            DatabaseOptions.TLS_ROOT_CERTS.value: self.servers.path.read_text(),
        }
        if own:
            options[DatabaseOptions.MTLS_CERT_CHAIN.value] = self.own[0].read_text()
            options[DatabaseOptions.MTLS_PRIVATE_KEY.value] = self.own[1].read_text()
        uri = f"grpc+tls://127.0.0.1:{self.world.ports['eu_flight']}"
        with adbc.connect(uri, options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def serial(self):
        """That of the certificate which the server shows, and which protocol was agreed on."""
        context = self.context(own=True)
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", self.world.ports["eu_flight"])) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as stream:
                assert stream.selected_alpn_protocol() == "h2"
                return x509.load_der_x509_certificate(stream.getpeercert(True)).serial_number


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def tls(request, tmp_path):
    tls = Tls(tmp_path, mutual=request.param)
    tls.mutual = request.param
    yield tls
    if tls.world.process.poll() is None:
        tls.world.stop()


def test_clients_of_every_kind_are_served_and_strangers_are_not(tls):
    own = tls.mutual
    assert tls.ask(own) == 200
    assert tls.query("SELECT 1 + 1", own) == [(2,)]
    # The command line by the same settings.
    words = ["--tenant", "acme", "--ca", tls.servers.path]
    words += ["--certificate", tls.own[0], "--certificate-key", tls.own[1]] if own else []
    records = tls.folder / "records.ndjson"
    records.write_text('{"tenantId": "acme", "idempotencyKey": "k", "createdAt": "2026-01-02T03:04:05Z", "action": "A.B", '
                       '"resource": {"type": "T", "id": "1"}, "actor": {"type": "User", "id": "ann"}, '
                       '"correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"}}\n')  # fmt: skip
    assert "1 accepted" in tls.world.run("ingest", *map(str, words), str(records))
    assert "| 1 " in tls.world.run("sql", *map(str, words), "SELECT count(*) FROM audit.records")
    # Whoever does not know the server's root does not talk to it, and the server has no word in clear.
    assert "cannot reach" in tls.world.run("sql", "--tenant", "acme", "--ca", str(tls.clients.path), "SELECT 1", ok=False)
    for port in ("eu_http", "eu_flight"):
        with socket.create_connection(("127.0.0.1", tls.world.ports[port])) as plain:
            plain.sendall(b"GET /v1/keys HTTP/1.1\r\nhost: x\r\n\r\n")
            plain.settimeout(10)
            assert b"HTTP/" not in plain.recv(100)
    with pytest.raises(ssl.SSLError), pytest.warns(DeprecationWarning):
        old = tls.context(own)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        urllib_error(tls, old)
    if own:
        # A certificate is wanted, and one of somebody else's is none.
        stranger = Authority(tls.folder, "strangers").issue("stranger")
        for files in (None, stranger):
            context = tls.context()
            if files:
                context.load_cert_chain(*files)
            with pytest.raises((ssl.SSLError, ConnectionError, urllib.error.URLError)):
                urllib_error(tls, context)
        with pytest.raises(Exception):
            tls.query("SELECT 1")
    assert tls.query("SELECT 1 + 1", own) == [(2,)]


def urllib_error(tls, context):
    """What lies behind an error of urllib."""
    try:
        urllib.request.urlopen(tls.url() + "/v1/keys", context=context, timeout=10).read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"answered {error.code}") from error
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, Exception) else error


def test_new_certificates_are_taken_up_and_broken_ones_are_not(tls):
    own = tls.mutual
    old = tls.serial()
    # A certificate without its key, and then half of a file: what was in use stays so.
    certificate, key = tls.servers.issue("next")
    shutil.copy(certificate, tls.certificate)
    log = tls.world.folder / "server.log"
    until(lambda: "cannot be used" in log.read_text())
    assert tls.serial() == old and tls.ask(own) == 200
    tls.certificate.write_text(certificate.read_text()[:100])
    time.sleep(6)
    assert tls.serial() == old and tls.query("SELECT 1", own) == [(1,)]
    shutil.copy(certificate, tls.certificate)
    shutil.copy(key, tls.key)
    until(lambda: tls.serial() != old)
    assert tls.ask(own) == 200 and tls.query("SELECT 1", own) == [(1,)]
    assert "PRIVATE" not in log.read_text()


def until(holds):
    deadline = time.monotonic() + RELOAD_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_connection_that_does_not_agree_on_tls_holds_up_nobody(tls):
    silent = [socket.create_connection(("127.0.0.1", tls.world.ports["eu_http"])) for _ in range(200)]
    assert tls.ask(tls.mutual) == 200
    for one in silent:
        one.close()


@pytest.mark.parametrize("wrong", ["missing", "no pem", "other key"])
def test_a_server_says_which_file_it_cannot_speak_tls_with(tmp_path, wrong):
    world, authority = World(tmp_path), Authority(tmp_path, "servers")
    (certificate, key), (_, other) = authority.issue("server"), authority.issue("other")
    key = {"missing": tmp_path / "none.key", "no pem": certificate, "other key": other}[wrong]
    with open(world.config, "a") as config:
        config.write(f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    done = subprocess.run([BINARY, "serve", "--config", world.config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "tls.key" in done.stderr, done.stderr
