"""Tokens of real issuers, found by discovery: oidc-provider gives them to workloads, OpenBao to people."""

import base64
import concurrent.futures
import hashlib
import hmac
import json
import os
import re
import subprocess
import time
import types

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow.flight
import pytest
from conftest import World
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuers import ALGORITHMS, AUDIENCE, OpenBao, Provider, ask
from test_ingest import record, slug

TENANTS = "SELECT DISTINCT tenant_id FROM audit.records"
# Keys are not read again before that, however many tokens name unknown ones.
READ_SECONDS_MIN = 30
TOKEN_BYTES_MAX = 16 * 1024
SYSTEM = "_system"


class Server(World):
    """A server that believes these issuers."""

    def __init__(self, folder, issuers, **settings):
        super().__init__(folder)
        # Operators act by the development issuer.
        lines = ["[auth]\ndeveloper = true\nleeway_s = 0\n"]
        lines += [f"{name} = {value}\n" for name, value in settings.items()]
        for issuer, profile in issuers.items():
            lines.append(f'[[auth.issuers]]\nissuer = "{issuer}"\naudience = "{AUDIENCE}"\nprofile = "{profile}"\n')
        with open(self.config, "a") as config:
            config.writelines(lines)

    def begin(self, *tenants):
        self.start()
        for tenant in tenants:
            self.run("tenant", "create", tenant, "--silo", "eu")

    def flight(self, token, sql=TENANTS, **options):
        """The first column of the answer, or the slug of the refusal."""
        address = f"grpc://127.0.0.1:{self.ports['eu_flight']}"
        options = options or {"adbc.flight.sql.authorization_header": f"Bearer {token}"}
        try:
            with adbc.connect(address, options, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetch_arrow_table()[0].to_pylist()
        except adbc_driver_manager.Error as error:
            found = re.search(r"\[FlightSQL\] ([a-z-]+): ", str(error))
            assert found, error
            return found[1]

    def http(self, token, path="/v1/keys", body=None, **headers):
        """The status, and the slug if that is no 200."""
        content = json.dumps(body).encode() if body else None
        headers = {"authorization": f"Bearer {token}", "content_type": "application/json", **headers}
        status, answer = ask(self.url("eu") + path, content, **headers)
        return (status, answer) if status == 200 else (status, slug(answer))

    def post(self, token, tenant, key):
        return self.http(token, "/v1/audit/records", record(key, tenantId=tenant))

    def both(self, token):
        return self.flight(token), self.http(token)[0]


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    """The issuers; a server that they were there for, and one that came before one of them."""
    realm = types.SimpleNamespace(late=Provider("generic"), bao=OpenBao(), server=None, early=None)
    realm.provider = Provider("generic", "azuread", "okta", "auth0/", "stranger")
    late, at = f"{realm.late.at}/generic", realm.provider.at
    try:
        realm.provider.run()
        realm.bao.run()
        # It is the same issuer under another name, which its own document does not have.
        realm.other_name = f"{at.replace('127.0.0.1', 'localhost')}/generic"
        names = [realm.bao.issuer, late, realm.other_name]
        generic = dict.fromkeys(names, "generic")
        realm.early = Server(tmp_path_factory.mktemp("early"), generic, jwks_refresh_s=READ_SECONDS_MIN)
        realm.early.begin("acme")
        realm.early_bao = realm.early.http(realm.bao.token())
        # Nobody who is not there makes tokens, and the keys are wanted before the signature is looked at.
        realm.unsigned = jws({"alg": "EdDSA"}, {"iss": late, "aud": AUDIENCE}, lambda _: b"x" * 64)
        realm.while_down = realm.early.flight(realm.unsigned), realm.early.http(realm.unsigned)
        realm.late.run()
        profiles = {f"{at}/{name}": name.strip("/") for name in realm.provider.names[:4]}
        realm.server = Server(tmp_path_factory.mktemp("server"), {**profiles, realm.bao.issuer: "generic"})
        realm.server.begin("acme", "globex")
        for tenant in ("acme", "globex"):
            token = realm.provider.token(scope="audit.write", tenant_id=tenant)
            assert realm.server.post(token, tenant, tenant)[0] == 200
        realm.read_at = time.monotonic()
        yield realm
    finally:
        for one in (realm.server, realm.early):
            if one and one.process and one.process.poll() is None:
                one.stop()
        for one in (realm.provider, realm.bao, realm.late):
            if hasattr(one, "guard"):
                one.stop()


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text):
    return base64.urlsafe_b64decode(text + "==")


def jws(header, claims, sign):
    message = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{message}.{encoded(sign(message.encode()))}"


def parts(token):
    header, claims, _ = token.split(".")
    return json.loads(decoded(header)), json.loads(decoded(claims))


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_tokens_of_every_algorithm_are_believed(realm, alg):
    workload = realm.provider.token(alg=alg, scope="audit.read", tenant_id="acme")
    assert (parts(workload)[0]["typ"], parts(workload)[0]["alg"]) == ("at+jwt", alg)
    for token, tenant in (
        (workload, "acme"),
        (realm.provider.token(alg=alg, aud=["urn:other", AUDIENCE], roles=["Audit.Reader"], tenant="globex"), "globex"),
        (realm.bao.token("ann", alg), "acme"),
        (realm.bao.token("gil", alg), "globex"),
    ):
        assert realm.server.both(token) == ([tenant], 200)


def test_a_token_is_for_its_own_tenant_alone(realm):
    server = realm.server
    ann, gil = realm.bao.token("ann"), realm.bao.token("gil")
    writer = realm.provider.token(scope="audit.write", tenant_id="acme")
    status, receipt = server.post(writer, "acme", "own")
    assert status == 200
    proof = f"/v1/audit/records/{receipt['recordId']}/proof"
    assert server.http(ann, proof)[0] == 200
    assert server.http(gil, proof) == (404, "not-found")
    assert server.http(gil, "/v1/query/plan", {"sql": TENANTS})[1]["detectedTenants"] == ["globex"]
    assert server.flight(gil, f"{TENANTS} WHERE tenant_id = 'acme'") == "cross-tenant-query"
    assert server.http(gil, x_tenant_id="acme") == (403, "tenant-mismatch")
    # Only a claim names the tenant.
    nobodys = realm.provider.token(scope="audit.read")
    assert server.http(nobodys, x_tenant_id="acme") == (400, "missing-tenant")
    unknown = realm.provider.token(scope="audit.read", tenant_id="initech")
    assert (server.flight(unknown), server.flight(nobodys)) == ("unknown-tenant", "missing-tenant")


@pytest.mark.parametrize(
    ("scope", "roles", "writes", "reads"),
    [
        ("audit.write", [], 200, "forbidden"),
        ("audit.ingest", [], 200, "forbidden"),
        ("audit.read", [], 403, ["acme"]),
        ("audit.read audit.write", [], 200, ["acme"]),
        ("", ["Audit.Reader"], 403, ["acme"]),
        ("", ["Audit.Admin"], 200, ["acme"]),
        ("", ["Export.Operator", "Domain.Users"], 403, "forbidden"),
        ("", [], 403, "forbidden"),
    ],
)
def test_scopes_and_roles_allow_what_they_say(realm, scope, roles, writes, reads):
    token = realm.provider.token(scope=scope, roles=roles, tenant_id="acme")
    key = f"{scope}-{'-'.join(roles)}"
    assert (realm.server.post(token, "acme", key)[0], realm.server.flight(token)) == (writes, reads)


def forgeries(realm):
    """Tokens that nobody may believe, each with its reason."""
    provider, rights = realm.provider, {"scope": "audit.read", "tenant_id": "acme"}
    keys, good = provider.keys("generic"), {alg: provider.token(alg=alg, **rights) for alg in ALGORITHMS}
    yield "another audience", provider.token(aud="urn:other", **rights)
    yield "no audience of ours", provider.token(aud=["urn:other"], **rights)
    yield "an issuer nobody trusts", provider.token("stranger", **rights)
    yield "the key of another issuer", provider.token("stranger", iss=f"{provider.at}/generic", **rights)
    yield "the key of another trusted issuer", provider.token("okta", iss=f"{provider.at}/generic", **rights)
    yield "the issuer's name but for a slash", provider.token(iss=f"{provider.at}/generic/", **rights)
    yield "too early", provider.token(nbf=int(time.time()) + 60, **rights)
    yield "for another application", realm.bao.token(role="other")
    yield "without an end", provider.token(exp=None, **rights)
    for typ in ("logout+jwt", "secevent+jwt", "dpop+jwt"):
        yield typ, provider.token(typ=typ, **rights)
    for alg, token in good.items():
        header, claims = parts(token)
        message, signature = token.rsplit(".", 1)
        yield f"{alg} for another tenant", jws(header, {**claims, "tenant_id": "globex"}, lambda _: decoded(signature))
        for none in ("none", "None", ""):
            yield f"{alg} become {none!r}", jws({**header, "alg": none}, claims, lambda _: b"")
        yield f"{alg} without its signature", message + "."
        other = next(one for one in ALGORITHMS if one != alg)
        yield f"{alg} said to be {other}", jws({**header, "alg": other}, claims, lambda _: decoded(signature))
        own = Ed25519PrivateKey.generate()
        point = encoded(own.public_key().public_bytes_raw())
        yield f"{alg} by another key", jws({**header, "alg": "EdDSA"}, claims, own.sign)
        brought = {"kty": "OKP", "crv": "Ed25519", "x": point, "kid": header["kid"]}
        yield f"{alg} by a key it brings", jws({**header, "alg": "EdDSA", "jwk": brought}, claims, own.sign)
        # What everybody can read as a secret, in the forms in which servers have taken it for one.
        for secret in secrets(keys[alg]):
            for hs in ("HS256", "hs256"):
                forged = jws({**header, "alg": hs}, claims, lambda m: hmac.digest(secret, m, hashlib.sha256))
                yield f"{alg} as a shared secret", forged


def secrets(key):
    number = {name: int.from_bytes(decoded(key[name]), "big") for name in "xyen" if name in key}
    public = {
        "OKP": lambda: Ed25519PublicKey.from_public_bytes(decoded(key["x"])),
        "EC": lambda: EllipticCurvePublicNumbers(number["x"], number["y"], SECP256R1()).public_key(),
        "RSA": lambda: RSAPublicNumbers(number["e"], number["n"]).public_key(),
    }[key["kty"]]()
    yield json.dumps(key, separators=(",", ":")).encode()
    yield decoded(key.get("x") or key["n"])
    yield public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_tokens_that_nobody_may_believe_are_refused(realm):
    for reason, token in forgeries(realm):
        assert realm.server.http(token) == (401, "invalid-token"), reason
        assert realm.server.flight(token) == "invalid-token", reason
    for alg in ALGORITHMS:
        assert realm.server.http(realm.provider.token(alg=alg, scope="audit.read", tenant_id="acme"))[0] == 200


def test_a_token_is_believed_until_it_ends(realm):
    token = realm.provider.token(ttl=3, scope="audit.read", tenant_id="acme")
    assert realm.server.both(token) == (["acme"], 200)
    time.sleep(max(0, parts(token)[1]["exp"] - time.time()) + 0.01)
    assert realm.server.both(token) == ("invalid-token", 401)


DIRECTORY = {"tid": "globex", "roles": ["Audit.Reader"]}
AUTH0 = {"https://trailhouse.dev/tenant": "acme", "https://trailhouse.dev/roles": ["Audit.Reader"]}


@pytest.mark.parametrize(
    ("name", "claims", "seen"),
    [
        # A directory of Entra is no tenant of ours; elsewhere the claim is an alias like the others.
        ("azuread", {**DIRECTORY, "app_tid": "acme"}, ["acme"]),
        ("azuread", {**DIRECTORY, "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47", "tenant_id": "acme"}, ["acme"]),
        ("azuread", DIRECTORY, "missing-tenant"),
        ("azuread", {"tenant": "acme", "scp": "audit.read", "appid": "one"}, ["acme"]),
        ("azuread", {"tenant": "acme", "groups": ["Audit.Reader"]}, "forbidden"),
        # An application by itself has what it may do as roles.
        ("azuread", {"tenant": "acme", "roles": ["audit.read"], "idtyp": "app"}, ["acme"]),
        ("generic", DIRECTORY, ["globex"]),
        ("generic", {**DIRECTORY, "tenant_id": "acme"}, "tenant-mismatch"),
        ("okta", {"tenant": "acme", "scp": ["audit.read", "openid"], "cid": "one", "uid": "two"}, ["acme"]),
        ("okta", {"tenant": "acme", "groups": ["Everyone", "Audit.Reader"]}, ["acme"]),
        ("okta", DIRECTORY, "missing-tenant"),
        ("auth0", AUTH0, ["acme"]),
        ("auth0", {"app_metadata": {"tenant": "acme"}, "permissions": ["audit.read"]}, ["acme"]),
        ("auth0", {**AUTH0, "app_metadata": {"tenant": "globex"}}, "tenant-mismatch"),
        ("auth0", DIRECTORY, "missing-tenant"),
    ],
)
def test_claims_are_read_as_their_issuer_names_them(realm, name, claims, seen):
    assert realm.server.flight(realm.provider.token(name, **claims)) == seen


def test_operators_act_by_a_token_of_an_issuer(realm, tmp_path):
    roles = ["SRE.Admin", "Security.Admin"]
    for claims, done in (({"tenant_id": SYSTEM, "roles": roles}, 0), ({"tenant_id": "acme", "roles": roles}, 1)):
        (tmp_path / "token").write_text(realm.provider.token(**claims))
        environment = {
            **os.environ, "TRAILHOUSE_AUTH__DEVELOPER": "false", "TRAILHOUSE_AUTH__OPERATOR_TOKEN": str(tmp_path / "token")
        }  # fmt: skip
        words = [World.binary, "tenant", "create", "umbrella", "--silo", "eu", "--config", realm.server.config]
        made = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert made.returncode == done, made.stderr
    assert "umbrella" in realm.server.run("tenant", "list")


def sized(realm, size):
    """A token of so many bytes."""

    def filled(count):
        return realm.provider.token(scope="audit.read", tenant_id="acme", filler="x" * count)

    # A byte of a claim is four thirds in a token.
    token = filled((size - len(filled(0))) * 3 // 4)
    assert size - 4 <= len(token) <= size + 4
    return token


def test_tokens_are_as_large_as_they_may_be(realm):
    token = sized(realm, TOKEN_BYTES_MAX - 8)
    assert realm.server.both(token) == (["acme"], 200)
    larger = sized(realm, TOKEN_BYTES_MAX + 8)
    assert realm.server.both(larger) == ("invalid-token", 401)


def test_a_login_with_the_token_as_password_gives_it_back(realm, tmp_path):
    token = realm.bao.token()
    # Names of these lengths make padding of every length, which some clients leave out.
    for name in ("ann", "anna", "annie"):
        for password in (token, sized(realm, TOKEN_BYTES_MAX - 8)):
            assert realm.server.flight(None, username=name, password=password) == ["acme"], name
    with pyarrow.flight.FlightClient(f"grpc://127.0.0.1:{realm.server.ports['eu_flight']}") as client:
        assert client.authenticate_basic_token("", token) == (b"authorization", f"Bearer {token}".encode())
        with pytest.raises(pyarrow.flight.FlightUnauthenticatedError, match="invalid-token"):
            client.authenticate_basic_token(token, "")
    (tmp_path / "token").write_text(token)
    words = ["--tenant", "acme", "--token-file", str(tmp_path / "token")]
    assert "| acme " in realm.server.run("sql", *words, TENANTS)


def test_a_key_that_was_announced_is_used_without_a_read(realm):
    old = realm.bao.token()
    realm.bao.call("identity/oidc/key/EdDSA/rotate", verification_ttl="1h")
    new = realm.bao.token()
    assert parts(new)[0]["kid"] != parts(old)[0]["kid"]
    assert realm.server.both(new) == realm.server.both(old) == (["acme"], 200)


def flood(server, token, count=200):
    """Tokens of as many made-up keys, several at a time."""
    header, claims = parts(token)
    made_up = (jws({**header, "kid": f"made-up-{n}"}, claims, lambda _: b"x" * 64) for n in range(count))
    with concurrent.futures.ThreadPoolExecutor(8) as several:
        assert set(several.map(server.http, made_up)) == {(401, "invalid-token")}


def wait(realm):
    time.sleep(max(0, realm.read_at + READ_SECONDS_MIN - time.monotonic()))


def test_rotated_keys_are_read_once_whoever_asks(realm):
    rights = {"scope": "audit.read", "tenant_id": "acme"}
    old = realm.provider.token(**rights)
    realm.provider.rotate("generic")
    new, before = realm.provider.token(**rights), realm.provider.reads("generic")
    if time.monotonic() > realm.read_at + READ_SECONDS_MIN:
        realm.read_at = time.monotonic()  # Tokens of the tests before may have made the keys be read again.
    assert realm.server.both(old) == (["acme"], 200)
    wait(realm)
    flood(realm.server, old)
    assert realm.server.both(new) == (["acme"], 200)
    assert realm.server.both(old) == ("invalid-token", 401)
    flood(realm.server, old)
    keys, documents = (after - before for after, before in zip(realm.provider.reads("generic"), before))
    assert keys == 1 and documents <= 1


def test_an_issuer_that_is_down_is_waited_for(realm):
    # 503 and not 401: nothing is wrong with the token.
    assert realm.early_bao[0] == 200
    assert realm.while_down == ("unavailable", (503, "unavailable"))
    person = realm.bao.token()
    realm.bao.stop()
    wait(realm)
    assert realm.early.both(realm.unsigned) == ("invalid-token", 401)
    assert realm.early.both(realm.late.token(scope="audit.read", tenant_id="acme")) == ([], 200)
    # The keys of the other were due too, could not be read, and stay in use.
    assert realm.early.both(person) == ([], 200)
    assert '"kept":true' in (realm.early.folder / "server.log").read_text()


def test_keys_are_those_of_the_issuer_that_is_named(realm):
    token = realm.provider.token(iss=realm.other_name, scope="audit.read", tenant_id="acme")
    assert realm.early.both(token) == ("unavailable", 503)
