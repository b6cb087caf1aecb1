"""Exports: how fast they are made and verified, and what memory they take.

    python benches/compare/export.py --trailhouse target/release/trailhouse [--records 1000000] [--format parquet]

Makes a server of its own, fills it, exports all of it twice (the first one warms nothing but the page cache), fetches the
files and has them verified. Bytes are those of Arrow data, as the export itself counts them.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request

from flight import Server
from suite import load, made


def ask(url, token, method, path, body=None):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    return urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method), timeout=600)


class Peak(threading.Thread):
    """The most memory that a process has had."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.most, self.ended = server, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.1):
            self.most = max(self.most, self.server.rss())


def export(server, url, tenant, roles, form):
    words = ["token", "--tenant", tenant]
    for role in roles:
        words += ["--role", role]
    token = server.run(*words)
    before, peak = server.rss(), Peak(server)
    peak.start()
    started = time.perf_counter()
    asked = {"stream": "audit.default", "format": form, "purpose": "measured"}
    made = json.load(ask(url, token, "POST", "/v1/exports", asked))
    while True:
        job = json.load(ask(url, token, "GET", f"/v1/exports/{made['exportId']}"))
        if job["state"] not in ("queued", "running"):
            break
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    peak.ended.set()
    assert job["state"] == "finished", job
    done = job["progress"]
    size = sum(file["bytes"] for file in job["files"])
    print(
        f"{form} as {'+'.join(roles)}: {done['records']:,} records, {done['bytes'] / 1e6:,.0f} MB of Arrow, "
        f"{size / 1e6:,.0f} MB of files in {seconds:.1f} s: {done['bytes'] / 1e6 / seconds:.0f} MB/s, "
        f"{done['records'] / seconds:,.0f} records/s; RSS {before:.0f} to {peak.most:.0f} MB",
        flush=True,
    )
    return job, token


def fetch(url, token, job, folder):
    for file in job["files"]:
        path = folder / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with ask(url, token, "GET", f"/v1/exports/{job['exportId']}/files/{file['path']}") as answer, open(path, "wb") as to:
            shutil.copyfileobj(answer, to, 1 << 20)


def verify(binary, folder, keys):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    words = [binary, "verify", "bundle", folder, "--jwks", keys, "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report = json.loads(done.stdout)
    assert report["ok"], report
    print(
        f"verified {report['rows']:,} rows, {report['shown']:,} values, {report['withheld']:,} withheld, {report['omitted']} omitted: "
        f"{wall:.1f} s wall, {cpu:.1f} s CPU, {report['rows'] / cpu:,.0f} rows/s a core, {after.ru_maxrss / 1024:.0f} MB",
        flush=True,
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trailhouse", required=True, type=pathlib.Path)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--format", default="parquet")
    arguments.add_argument("--role", action="append", help="beside Export.Operator; default: Audit.Admin, and again Audit.Investigator")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(given.trailhouse.resolve(), folder)
        try:
            load(server, made(given.records))
            measure(server, f"http://127.0.0.1:{server.http}", "bench", given, folder)
        finally:
            server.process.terminate()
            server.process.wait(60)


def measure(server, url, tenant, given, folder):
    keys = folder / "keys.jwks"
    keys.write_text(server.run("key", "export", "--tenant", tenant))
    for role in given.role or ["Audit.Admin", "Audit.Investigator"]:
        job, token = export(server, url, tenant, ["Export.Operator", role], given.format)
        bundle = folder / "bundle"
        fetch(url, token, job, bundle)
        verify(server.binary, bundle, keys)
        shutil.rmtree(bundle)


if __name__ == "__main__":
    main()
