"""What queries cost as a table grows: the questions of the suite, asked of one table at several sizes.

    python benches/compare/growth.py --trailhouse target/release/trailhouse --stages 1000000 10000000 100000000

The records are those of `suite.py`, sent in the order of time; files are joined meanwhile, as servers do. At each size the
server is started anew. `cold` is what a question takes that is the first of the process, but for one `SELECT 1`: keys,
entries of the log, footers and filters are read. The rest are medians of rounds. Files that were joined wait
for their time beside those that took their place: mind the disk.
"""

import argparse
import itertools
import os
import pathlib
import shutil
import statistics
import tempfile
import time

from flight import Server
from suite import Trailhouse, about, allow, load, made, questions, worded

LOOKUPS = ("one record", "one trace", "one resource")


def sampled(caller):
    """Values that are in the middle of the table, and a resource that is rare."""
    rare = (
        "SELECT resource_id, count(*) AS n FROM audit.records GROUP BY resource_id "
        "ORDER BY abs(count(*) - 3), resource_id LIMIT 1"
    )
    found = caller.ask(rare).to_pylist()[0]
    ends = caller.ask("SELECT min(created_at) AS low, max(created_at) AS high FROM audit.records").to_pylist()[0]
    middle = ends["low"] + (ends["high"] - ends["low"]) / 3
    one = caller.ask(
        "SELECT record_id, trace_id, context ->> 'sourceIPAddress' AS address FROM audit.records "
        f"WHERE created_at >= TIMESTAMP '{middle.isoformat()}' ORDER BY created_at LIMIT 1"
    )
    one = one.to_pylist()[0]
    # A thirtieth of the rows, at every size.
    until = middle + (ends["high"] - ends["low"]) / 30
    return one | {
        "resource_id": found["resource_id"],
        "rows": found["n"],
        "from": middle.isoformat(),
        "until": until.isoformat(),
    }


def asked(server, sample, rounds):
    """Milliseconds of every question, and of the lookups in a process that has read nothing."""
    times = {}
    words = {name: worded(sql, "Trailhouse", False) for name, sql in questions(sample).items()}
    for name in (*LOOKUPS, "latest page"):
        restart(server)
        caller = Trailhouse(server, "Audit.Investigator")
        caller.ask("SELECT 1")
        times[f"{name}, cold"] = took(caller, words[name])
    caller = Trailhouse(server, "Audit.Investigator")
    for name, sql in words.items():
        caller.ask(sql)
        times[name] = statistics.median(took(caller, sql) for _ in range(rounds))
        print(name, round(times[name], 1), flush=True)
    return times


def took(caller, sql):
    started = time.perf_counter()
    caller.ask(sql)
    return (time.perf_counter() - started) * 1e3


def restart(server):
    server.process.terminate()
    assert server.process.wait(600) == 0
    server.start()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--trailhouse", type=pathlib.Path, required=True)
    arguments.add_argument("--stages", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "results")
    given = arguments.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    server = Server(given.trailhouse.resolve(), folder)
    records, sent, columns, lines = made(given.stages[-1]), 0, [], []
    try:
        allow(server)
        for stage in given.stages:
            started = time.monotonic()
            load(server, itertools.islice(records, stage - sent))
            seconds, count = time.monotonic() - started, stage - sent
            sent = stage
            # As a table is a while later: everything is in it, and what was due was joined.
            restart(server)
            shown = server.run("table", "maintain", "--tenant", "bench")
            stats = server.run("table", "stats", "--tenant", "bench").splitlines()[0]
            print(f"{count} records sent in {seconds:.0f} s\n{shown}\n{stats}", flush=True)
            restart(server)
            sample = sampled(Trailhouse(server, "Audit.Investigator"))
            columns.append(asked(server, sample, given.rounds))
            lines.append(
                f"- {stage:,}: {stats.split(';')[0].split(' ', 1)[1].strip()}; the rare resource is of {sample['rows']} "
                f"record(s); {server.rss():.0f} MB in memory at the end"
            )
            text = [f"| ms | {' | '.join(f'{stage:,}' for stage in given.stages[: len(columns)])} |"]
            text.append("|---" + "|--:" * len(columns) + "|")
            text += [f"| {name} | {' | '.join(f'{one[name]:.1f}' for one in columns)} |" for name in columns[0]]
            report = ["# Growth", "", about(server, f"Up to {stage:,} records"), "", *text, "", *lines]
            given.results.mkdir(exist_ok=True)
            (given.results / "growth.md").write_text("\n".join(report) + "\n")
            print("\n".join(report), flush=True)
    finally:
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
