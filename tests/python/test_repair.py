"""What a node keeps in its own folder may be lost or damaged: receipts stay, and operators can put it right."""

import shutil
import signal

import pytest

from conftest import World
from test_ingest import post, record


@pytest.fixture
def own(tmp_path):
    """A server of one's own, started."""
    world = World(tmp_path)
    world.start()
    world.run("tenant", "create", "initech", "--silo", "eu")
    yield world
    if world.process.poll() is None:
        world.stop()


def test_receipts_outlive_the_index(own):
    index = own.folder / "wal" / "dedup.redb"
    writer = own.token("initech", scope="audit.write")
    sent = [record(f"k-{n}") for n in range(5)]
    receipts = [post(own, body, writer)[1]["recordId"] for body in sent]

    def rebuild():
        answer = own.run("repair", "dedup").splitlines()
        assert answer[0].split() == ["initech", "5", "row(s)"] and answer[1].startswith("1 tenant(s), 5 row(s)"), answer
        assert index.stat().st_size > 0

    def damage():
        content = bytearray(index.read_bytes())
        for at in range(0, len(content), 1000):
            content[at] ^= 0xFF
        index.write_bytes(content)

    for between in [rebuild, damage, rebuild, index.unlink]:
        own.stop()
        between()
        own.start()
        for body, wanted in zip(sent, receipts):
            status, answer = post(own, body, writer)
            assert (status, answer["duplicate"], answer["recordId"]) == (200, True, wanted)
    assert index.with_name("dedup.redb.damaged").exists()


def test_a_node_that_nobody_knows_is_not_abandoned(own):
    answer = own.run("repair", "node", "--abandon", "node-9", "--reason", "its disk burnt", ok=False)
    assert "no such node" in answer, answer


def test_the_newest_folder_is_readmitted_after_a_copy_of_it_was_started(tmp_path):
    world = World(tmp_path, ack="wal")
    settings = world.config.read_text()
    world.config.write_text(settings.replace('ack = "wal"\n', 'ack = "wal"\nflush_age_ms = 60000\n'))
    world.run("tenant", "create", "initech", "--silo", "eu")
    wal, copy, newest = (world.folder / name for name in ("wal", "copy", "newest"))
    world.start()
    assert post(world, record("before"))[0] == 200
    shutil.copytree(wal, copy)
    sent = [record(f"after-{n}") for n in range(5)]
    receipts = [post(world, body)[1]["recordId"] for body in sent]
    world.stop(signal.SIGKILL)
    wal.rename(newest)
    copy.rename(wal)
    world.start()
    world.stop(signal.SIGKILL)
    shutil.rmtree(wal)
    newest.rename(wal)
    said = "the copy is gone"
    assert "readmit it if it is the newest" in world.run("serve", ok=False)
    world.run("repair", "node", "--readmit", "--reason", said)
    world.start()
    try:
        for body, wanted in zip(sent, receipts):
            status, answer = post(world, body)
            assert (status, answer["duplicate"], answer["recordId"]) == (200, True, wanted), answer
        assert world.stop() == 0
        world.start()
        answer = world.query("SELECT count(*) AS n FROM audit.records", tenant="initech")
        assert answer.to_pydict() == {"n": [6]}
    finally:
        world.stop()
