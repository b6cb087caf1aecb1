"""Witnesses: what they cosign, what they do not, and what a log is worth that was rewritten with the tenant's own key."""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, ROOT, World
from test_integrity import fetch, line

VERIFIER = ROOT / "notebooks" / "verify" / "verify.py"
LOG = "/v1/audit/integrity/audit.default"
TRIES, PAUSE = 200, 0.1


class Witness:
    def __init__(self, folder, name):
        self.folder, self.logs, self.name = folder / name, folder / f"{name}.txt", f"{name}.example/w"
        self.logs.touch()
        own = ["--name", self.name, "--folder", self.folder]
        self.key = subprocess.run([BINARY, "witness", "key", *own], capture_output=True, text=True, check=True).stdout.strip()
        command = [BINARY, "witness", "serve", *own, "--logs", self.logs, "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = [self.process.stdout.readline().split() for _ in range(2)]
        assert said[0] == ["witness", self.key]
        self.url = said[1][1]

    def ask(self, body):
        request = urllib.request.Request(f"{self.url}/add-checkpoint", data=body.encode())
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    world, folder = World(tmp_path_factory.mktemp("witnessed")), tmp_path_factory.mktemp("witnesses")
    witnesses = [Witness(folder, name) for name in ("one", "two")]
    try:
        # Nobody knows the name of a log before it has records.
        world.start()
        world.run("tenant", "create", "acme", "--silo", "eu")
        send(world, range(3))
        keys = fetch(world, f"{LOG}/keys", world.token("acme", role="Admin")).decode()
        (folder / "acme.jwks").write_text(world.run("key", "export", "--tenant", "acme"))
        assert world.stop() == 0
        witnesses[0].logs.write_text(f"# the log of acme\n{keys}\n")
        config = world.config.read_text()
        named = "".join(f'[witnesses.w{n}]\nkey = "{w.key}"\nurl = "{w.url}"\n' for n, w in enumerate(witnesses))
        world.config.write_text(config + named)
        yield world, witnesses, folder
    finally:
        for witness in witnesses:
            witness.stop()
        if world.process.poll() is None:
            world.stop()


def send(world, numbers):
    path = world.folder / "more.ndjson"
    path.write_text("".join(line(n) for n in numbers))
    world.run("ingest", "--tenant", "acme", "--format", "audit", "--url", world.url("eu"), str(path))


def checkpoint(world, is_wanted):
    token = world.token("acme", role="Admin")
    for _ in range(TRIES):
        note = fetch(world, f"{LOG}/checkpoint", token).decode()
        if is_wanted(note):
            return note
        time.sleep(PAUSE)
    raise AssertionError(note)


def both(verb, path, folder, *words):
    words = [verb, path, "--jwks", folder / "acme.jwks", *words]
    first = subprocess.run([BINARY, "verify", *words], capture_output=True, text=True, timeout=60)
    second = subprocess.run([sys.executable, VERIFIER, *words], capture_output=True, text=True, timeout=60)
    assert first.returncode == second.returncode, (words, first, second)
    return first.returncode, first.stderr + second.stderr


def test_checkpoints_are_cosigned_by_those_who_know_the_log(setting):
    world, (one, two), folder = setting
    world.start()
    send(world, range(3, 600))
    note = checkpoint(world, lambda note: f" {one.name} " in note and "\n600\n" in note)
    assert two.name not in note
    (folder / "new.txt").write_text(note)
    record = world.query("SELECT record_id FROM audit.records ORDER BY leaf_index DESC LIMIT 1")["record_id"][0].as_py()
    proof = fetch(world, f"/v1/audit/records/{record}/proof", world.token("acme", role="Admin"))
    (folder / "proof.json").write_bytes(proof)
    of = {"one": ["--witness", one.key], "two": ["--witness", two.key]}
    for verb, path in (("checkpoint", folder / "new.txt"), ("proof", folder / "proof.json")):
        for words, code in [
            ([], 0),
            (of["one"], 0),
            (of["two"], 1),
            (of["one"] + of["two"], 1),
            (of["one"] + of["two"] + ["--quorum", "1"], 0),
            (of["one"] + of["one"] + ["--quorum", "2"], 2),
            (of["one"] + ["--quorum", "2"], 2),
            (of["one"] + ["--quorum", "0"], 2),
            (["--witness", "nobody"], 2),
        ]:
            assert both(verb, path, folder, *words)[0] == code, words
    words = ["--jwks", folder / "acme.jwks", "--config", world.config]
    table = [BINARY, "verify", "table", "--tenant", "acme", *words]
    # The evidence has a log too, of which no witness was told.
    assert subprocess.run(table + of["one"], capture_output=True).returncode == 1
    assert world.stop() == 0
    assert subprocess.run(table, capture_output=True).returncode == 0


def test_a_witness_cosigns_nothing_that_does_not_follow(setting):
    world, (one, two), folder = setting
    note = (folder / "new.txt").read_text()
    signed = note[: note.index(one.name) - 2]
    assert one.ask(f"old 600\n\n{signed}")[0] == 200
    code, body = one.ask(f"old 0\n\n{signed}")
    assert (code, body) == (409, "600\n")
    assert one.ask(f"old 601\n\n{signed}")[0] == 400
    assert one.ask("hello")[0] == 400
    assert two.ask(f"old 0\n\n{signed}")[0] == 404
    forged = signed.replace("\n600\n", "\n601\n")
    assert one.ask(f"old 600\n\n{forged}")[0] == 403


def test_a_log_that_was_rewritten_with_the_stolen_key_has_no_cosignature(setting):
    """Whoever has everything of the tenant, its key too, makes another history of it: the product itself signs it."""
    world, (one, _), folder = setting
    world.start()
    send(world, range(600, 610))
    checkpoint(world, lambda note: f" {one.name} " in note and "\n610\n" in note)
    assert world.stop() == 0
    kept = folder / "kept"
    shutil.copytree(world.folder, kept)
    world.start()
    send(world, range(610, 620))
    true = checkpoint(world, lambda note: f" {one.name} " in note and "\n620\n" in note)
    assert world.stop() == 0
    for part in ("eu", "us", "control", "wal", "keys"):
        shutil.rmtree(world.folder / part, ignore_errors=True)
        if (kept / part).exists():
            shutil.copytree(kept / part, world.folder / part)
    world.start()
    send(world, range(900, 910))
    false = checkpoint(world, lambda note: "\n620\n" in note)
    time.sleep(2.5)
    false = checkpoint(world, lambda note: "\n620\n" in note)
    assert world.stop() == 0
    assert true.split("\n")[2] != false.split("\n")[2]
    (folder / "true.txt").write_text(true)
    (folder / "false.txt").write_text(false)
    assert both("checkpoint", folder / "false.txt", folder)[0] == 0
    assert both("checkpoint", folder / "false.txt", folder, "--witness", one.key)[0] == 1
    assert both("checkpoint", folder / "true.txt", folder, "--witness", one.key)[0] == 0
    assert "a witness has seen another log" in (world.folder / "server.log").read_text()
