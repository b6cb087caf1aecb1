"""Standard output and standard error that cannot be written: a server goes on without them, a command says so."""

import os
import subprocess
import urllib.request

import pytest

from conftest import BINARY, World
from test_ingest import post, record


def full():
    return open("/dev/full", "wb", buffering=0)


def closed():
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb", buffering=0)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("out,err", [(full, full), (closed, closed), (full, None), (None, full)])
def test_a_server_acknowledges_and_answers_without_its_log(tmp_path, out, err, form):
    world = World(tmp_path)
    # Every refused token is a line.
    lines = f'[log]\nformat = "{form}"\nfilter = "debug"\n'
    world.config.write_text(world.config.read_text() + lines)
    world.run("tenant", "create", "initech", "--silo", "eu")
    world.start(stdout=out and out(), stderr=err and err())
    try:
        for number in range(5):
            status, answer = post(world, record(f"quiet-{number}"), token="no token")
            assert status == 401, answer
            status, answer = post(world, record(f"quiet-{number}"))
            assert status == 200, answer
        answer = world.query("SELECT count(*) AS n FROM audit.records", tenant="initech")
        assert answer.to_pydict() == {"n": [5]}
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{world.ports['admin']}/metrics").read().decode()
        lost = [line for line in metrics.splitlines() if line.startswith("trailhouse_log_lines_lost_total ")]
        assert bool(lost) == bool(err), metrics
    finally:
        assert world.stop() == 0
    if out and not err:
        assert "cannot be written to standard output" in (tmp_path / "server.log").read_text()


def test_a_server_waits_for_nobody_who_has_stopped_to_read(tmp_path):
    world = World(tmp_path)
    world.config.write_text(world.config.read_text() + '[log]\nfilter = "debug"\n')
    world.run("tenant", "create", "initech", "--silo", "eu")
    reader, writer = os.pipe()
    world.start(stdout=subprocess.DEVNULL, stderr=writer)
    try:
        for number in range(300):
            assert post(world, record(f"stuck-{number % 50}"), token="no token")[0] == 401
            assert post(world, record(f"stuck-{number % 50}"))[0] == 200
        # The pipe is full indeed.
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            os.write(writer, b"x" * 65536)
            os.write(writer, b"x")
    finally:
        os.set_blocking(writer, True)
        assert world.stop() == 0
        os.close(reader)
        os.close(writer)


def command(world, *words, stdout, stderr=subprocess.PIPE):
    words = [BINARY, *words, "--config", world.config]
    return subprocess.run(words, input="SELECT 1;", stdout=stdout, stderr=stderr, text=True, timeout=120)


COMMANDS = [
    ("token", "--tenant", "initech"),
    ("tenant", "list"),
    ("policy", "show", "--tenant", "initech"),
    ("sql", "--tenant", "initech", "SELECT action FROM audit.records"),
    ("sql", "--tenant", "initech"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_says_that_its_answer_was_lost(world, words):
    done = command(world, *words, stdout=full())
    assert done.returncode == 1 and done.stderr.startswith("error: "), done
    assert "panic" not in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    # Its last words do not matter more than its status.
    assert command(world, *words, stdout=full(), stderr=full()).returncode == 1


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_went_away_is_no_fault(world, words):
    done = command(world, *words, stdout=closed())
    assert done.returncode == 0 and not done.stderr, done


def test_what_a_command_does_is_done_though_nobody_can_be_told(world):
    assert command(world, "tenant", "create", "unheard", "--silo", "eu", stdout=full()).returncode == 1
    assert "unheard" in world.run("tenant", "list")
