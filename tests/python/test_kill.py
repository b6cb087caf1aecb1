"""kill -9 under load: what was acknowledged is there once, in its order, and never in clear."""

import json

from conftest import World
from kill import Loop, seed_of_the_run

KILLS = 25


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path, capsys):
    seed = seed_of_the_run()
    loop = Loop(World(tmp_path, ack="wal"), seed, load_seconds=0.5)
    summary = loop.run(KILLS, check_every=8)
    with capsys.disabled():
        print("\nkill -9:", json.dumps(summary))
    assert not loop.wrong, f"seed {seed}: {loop.wrong[:20]}"
    assert summary["acknowledged"] > KILLS and summary["unanswered"] > 0, summary
