"""An audit query suite over Trailhouse, and over the same rows as plaintext Parquet in DataFusion, DuckDB, chDB and Polars.

    python benches/compare/suite.py --trailhouse target/release/trailhouse --records 1000000

Records are made from a seed, in the order of time, and sent to a server of its own: checked, redacted, sealed, encrypted,
as they always are. What an Investigator, who sees everything that is stored, then reads of them is written as plaintext
Parquet, in as many files, the same rows in each, sorted alike. Every query is asked of everyone in turn, and medians of
the rounds are compared. Answers are compared too, but for masks: whoever answers something else is named, and not timed.

Trailhouse is asked over Arrow Flight with all that belongs to it: token, policy, decision, evidence, masks, receipt. It
answers three callers: an Investigator (no masks here), a Reader (actors and contexts masked), and an Auditor under a row
policy, whose predicate the others get as a WHERE. `bare` is DataFusion behind Arrow's own Flight server, with nothing of
that; the others run in this process and send nothing anywhere.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.flight as flight
import pyarrow.parquet as parquet

from flight import Server, command, free_port, ready

SEED = 20251028
DAYS = 30
LINES = 5_000
ROWS = "resource_type <> 'Secret'"
ROW_POLICY = f"""
rowPolicies:
  no-secrets: {{ roles: [ComplianceReviewer], where: "{ROWS}" }}
"""
# Caller, role, and which of the columns that are asked for the caller sees masked.
CALLERS = {
    "Investigator": ("Audit.Investigator", set()),
    "Reader": ("Audit.Reader", {"actor_id", "resource_id", "context"}),
    "row policy": ("Compliance.Reviewer", {"actor_id", "context"}),
}
ENGINES = ("bare", "DuckDB", "chDB", "Polars")
ACTIONS = [
    (f"{service}.{verb}{thing}", thing)
    for service, things in {
        "ec2": ["Instance", "Volume", "Snapshot", "Image"],
        "s3": ["Bucket", "Object"],
        "iam": ["User", "Role", "Policy"],
        "secretsmanager": ["Secret"],
        "kms": ["Key"],
        "rds": ["Cluster"],
    }.items()
    for thing in things
    for verb in ("Describe", "Get", "List", "Create", "Delete", "Update")
]
REGIONS = ["eu-central-1", "eu-west-1", "us-east-1", "us-west-2"]


def skewed(chance, bound):
    """Below the bound; small numbers far more often."""
    return min(int(bound ** chance.random()) - 1, bound - 1)


def made(count):
    """Records in the order of time: bursts of one actor, few actors doing most, personal data in the context."""
    chance = random.Random(SEED)
    end = datetime.datetime(2025, 10, 28, tzinfo=datetime.timezone.utc)
    step = datetime.timedelta(days=DAYS) / count
    actor = action = left = 0
    trace = ""
    for number in range(count):
        if not left:
            actor, action = skewed(chance, 20_000), skewed(chance, len(ACTIONS))
            left, trace = 1 + int(chance.random() * 6), f"{chance.getrandbits(128):032x}"
        left -= 1
        name, thing = ACTIONS[action]
        yield {
            "tenantId": "bench",
            "idempotencyKey": f"{chance.getrandbits(96):024x}",
            "createdAt": (end - step * (count - number)).isoformat(timespec="microseconds"),
            "action": name,
            "resource": {"type": thing, "id": f"{thing.lower()}-{skewed(chance, 50_000):06}"},
            "actor": {"type": "User", "id": f"arn:aws:iam::{4_100 + actor % 97:012}:user/u{actor:05}"},
            "correlation": {"traceId": trace},
            "labels": {"region": REGIONS[skewed(chance, 4)], "readOnly": str(name[4:5] in "DGL").lower()},
            "context": {
                "eventSource": f"{name.split('.')[0]}.amazonaws.com",
                "sourceIPAddress": f"198.51.{actor % 100}.{1 + int(chance.random() * 254)}",
                "userAgent": f"aws-cli/2.{actor % 31}",
                "requestId": f"{chance.getrandbits(64):016x}",
                "user": {"name": f"User {actor}", "email": f"u{actor}@bench.example", "phone": f"+49 30 {actor:07}"},
                "bytes": int(chance.random() * 1_048_576),
            },
        }


def allow(server):
    """Lets Investigators see everything, and adds the row policy."""
    policy = server.folder / "bench.yaml"
    shown = server.run("policy", "show", "--tenant", "bench")
    before, after = shown.index("  Investigator:"), shown.index("  Admin: {}")
    shown = shown[:before] + "  Investigator: {}\n" + shown[after:]
    policy.write_text(shown.replace("version: 1", "version: 2") + ROW_POLICY)
    server.run("policy", "apply", policy, "--tenant", "bench")


def load(server, records):
    """Sends records, two requests at a time: what one of them holds is made while the other waits."""
    token = server.run("token", "--tenant", "bench", "--scope", "audit.write")
    url = f"http://127.0.0.1:{server.http}/v1/audit/records:batch"
    headers = {"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"}
    lock = threading.Lock()

    def send():
        while True:
            with lock:
                lines = [json.dumps(one) for _, one in zip(range(LINES), records)]
            if not lines:
                return
            request = urllib.request.Request(url, "\n".join(lines).encode(), headers)
            with urllib.request.urlopen(request) as answer:
                answer.read()

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


class Trailhouse:
    """One caller."""

    def __init__(self, server, role):
        self.client = flight.FlightClient(f"grpc://127.0.0.1:{server.port}")
        token = server.run("token", "--tenant", "bench", "--role", role)
        self.options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])

    def ask(self, sql):
        info = self.client.get_flight_info(flight.FlightDescriptor.for_command(command(sql)), self.options)
        return self.client.do_get(info.endpoints[0].ticket, self.options).read_all()


class Bare:
    """DataFusion behind Arrow's Flight server, in a process of its own."""

    def __init__(self, plain):
        port = free_port()
        self.process = subprocess.Popen([sys.executable, __file__, "--bare", str(plain), "--port", str(port)])
        self.client = flight.FlightClient(f"grpc://127.0.0.1:{port}")
        ready(self.client)

    def ask(self, sql):
        return self.client.do_get(flight.Ticket(sql.encode())).read_all()


class DuckDb:
    def __init__(self, plain):
        import duckdb

        self.session = duckdb.connect()
        self.session.execute("SET TimeZone = 'UTC'")
        self.session.execute(f"CREATE VIEW records AS SELECT * FROM read_parquet('{plain}/*.parquet')")

    def ask(self, sql):
        return self.session.sql(sql.replace("audit.records", "records")).to_arrow_table()


class ChDb:
    def __init__(self, plain):
        import chdb.session

        self.session = chdb.session.Session()
        self.session.query("SET session_timezone = 'UTC'")
        self.files = f"file('{plain}/*.parquet', Parquet)"

    def ask(self, sql):
        sql = sql.replace("audit.records", self.files)
        return pa.ipc.open_stream(self.session.query(sql, "ArrowStream").bytes()).read_all()


class Polars:
    def __init__(self, plain):
        import polars

        self.polars, self.plain = polars, f"{plain}/*.parquet"

    def ask(self, sql):
        context = self.polars.SQLContext(records=self.polars.scan_parquet(self.plain))
        return context.execute(sql.replace("audit.records", "records"), eager=True).to_arrow()


def bare(plain, port):
    """Serves DataFusion's answers, in this process."""
    import datafusion

    config = datafusion.SessionConfig(
        {
            "datafusion.execution.parquet.pushdown_filters": "true",
            "datafusion.execution.parquet.schema_force_view_types": "false",
            "datafusion.execution.target_partitions": str(os.cpu_count()),
        }
    )
    session = datafusion.SessionContext(config)
    session.register_parquet("records", plain, file_extension=".parquet")

    class Server(flight.FlightServerBase):
        def do_get(self, _, ticket):
            frame = session.sql(ticket.ticket.decode().replace("audit.records", "records"))
            return flight.RecordBatchStream(pa.RecordBatchReader.from_stream(frame))

    Server(f"grpc://127.0.0.1:{port}").serve()


def questions(sample):
    """What is asked: a name, and the SQL. The rows that a policy would select go where `{where}` and `{and}` stand."""
    at, until = sample["from"], sample["until"]
    records = "FROM audit.records"
    return {
        "count": f"SELECT count(*) AS n {records} {{where}}",
        "by action": f"SELECT action, count(*) AS n {records} {{where}} GROUP BY action ORDER BY n DESC, action",
        "top actors": f"SELECT actor_id, count(*) AS n {records} {{where}} GROUP BY actor_id ORDER BY n DESC LIMIT 1",
        "by hour and type": f"SELECT date_trunc('hour', created_at) AS h, resource_type, count(*) AS n {records} {{where}} "
        "GROUP BY date_trunc('hour', created_at), resource_type ORDER BY h, resource_type",
        "one record": f"SELECT record_id, action, created_at {records} WHERE record_id = '{sample['record_id']}' {{and}}",
        "one trace": f"SELECT record_id, action {records} WHERE trace_id = '{sample['trace_id']}' {{and}} ORDER BY record_id",
        "one resource": f"SELECT record_id, action {records} WHERE resource_id = '{sample['resource_id']}' {{and}} "
        "ORDER BY record_id",
        "latest page": f"SELECT record_id, action, actor_id, resource_id, context {records} {{where}} "
        "ORDER BY created_at DESC, record_id DESC LIMIT 100",
        "in the context": f"SELECT count(*) AS n {records} WHERE context LIKE '%{sample['address']}%' {{and}}",
        "actors a day": f"SELECT date_trunc('day', created_at) AS d, count(DISTINCT actor_id) AS n {records} {{where}} "
        "GROUP BY date_trunc('day', created_at) ORDER BY d",
        "changes of a type": f"SELECT action, count(*) AS n, min(record_id) AS low, max(record_id) AS high {records} "
        "WHERE resource_type = 'Key' AND action LIKE '%Delete%' {and} GROUP BY action ORDER BY action",
        "a day, whole": f"SELECT record_id, action, resource_type, resource_id, actor_id, trace_id, context {records} "
        f"WHERE created_at >= TIMESTAMP '{at}' AND created_at < TIMESTAMP '{until}' {{and}} ORDER BY record_id",
    }


def further(sample):
    """What else is measured, beside the suite: the next page of a listing, masks of whole columns, and JSON."""
    at, record = sample["at"], sample["record_id"]
    records = "FROM audit.records"
    return {
        "next page": f"SELECT record_id, action, actor_id, resource_id, context {records} "
        f"WHERE (created_at < TIMESTAMP '{at}' OR (created_at = TIMESTAMP '{at}' AND record_id < '{record}')) {{and}} "
        "ORDER BY created_at DESC, record_id DESC LIMIT 100",
        "masks": f"SELECT count(DISTINCT resource_id) AS r, min(actor_id) AS a, max(actor_id) AS b {records} {{where}}",
        "JSON": f"SELECT context ->> 'eventSource' AS source, count(*) AS n {records} {{where}} "
        "GROUP BY context ->> 'eventSource' ORDER BY n DESC, source",
    }


def worded(sql, engine, restricted):
    """The question in an engine's words."""
    sql = sql.replace("{where}", f"WHERE {ROWS}" if restricted else "").replace("{and}", f"AND {ROWS}" if restricted else "")
    if engine == "chDB":
        sql = sql.replace("TIMESTAMP '", "toDateTime64('").replace("Z'", "', 6, 'UTC')")
        sql = sql.replace("context ->> 'eventSource'", "JSONExtractString(context, 'eventSource')")
    return sql


def told(table):
    """The rows of an answer, whatever types its columns came in."""

    def plain(value):
        if isinstance(value, datetime.datetime):
            return value.replace(tzinfo=None).isoformat()
        return value.decode() if isinstance(value, bytes) else value

    return [tuple(plain(value) for value in row.values()) for row in table.to_pylist()]


def shadow(caller, server, plain):
    """The rows as plaintext Parquet: as many files as the table has, one after the other in the order of time."""
    table = caller.ask("SELECT * FROM audit.records ORDER BY created_at DESC, record_id DESC")
    files = sum(1 for _ in (server.folder / "data").rglob("*.parquet") if "/records/" in str(_)) or 1
    plain.mkdir()
    each = -(-table.num_rows // files)
    for number in range(files):
        parquet.write_table(
            table.slice(number * each, each), plain / f"{number:06}.parquet",
            compression="zstd", row_group_size=131_072, data_page_size=256 << 10, write_page_index=True,
        )  # fmt: skip
    middle = table.slice(table.num_rows // 3, 1).to_pylist()[0]
    first = middle["created_at"]
    rare = compute.value_counts(table["resource_id"])
    rare = min(rare.to_pylist(), key=lambda entry: (abs(entry["counts"] - 3), entry["values"]))
    return files, {
        "record_id": middle["record_id"],
        "at": first.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "trace_id": middle["trace_id"],
        "resource_id": rare["values"],
        "address": json.loads(middle["context"])["sourceIPAddress"],
        "from": first.strftime("%Y-%m-%dT00:00:00Z"),
        "until": (first + datetime.timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z"),
    }


def timed(asks, rounds):
    """Milliseconds of each, medians of rounds in which everyone is asked once."""
    times = {name: [] for name in asks}
    for _ in range(rounds):
        for name, ask in asks.items():
            started = time.perf_counter()
            ask()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(own) for name, own in times.items()}


def masked_for(caller, sql):
    """Whether the caller sees something masked that the question touches."""
    return any(column in sql for column in CALLERS[caller][1])


def suite(callers, engines, sample, rounds):
    """A line a question: who took how long. Who answers otherwise than DuckDB is not timed, and told of."""
    lines, odd = [], []

    def ask(name, one, words, wanted):
        """How to ask, if the answer is the wanted one."""
        try:
            given = told(one.ask(words))
        except Exception as error:  # noqa: BLE001 - whatever an engine says, it has no time
            reason = str(error).splitlines()[0][:140]
            odd.append(f"{name} does not answer: {reason}")
            return {}
        if wanted is not None and given != wanted:
            odd.append(f"{name} answers otherwise")
            return {}
        return {name.split(":")[0]: lambda: one.ask(words)}

    for question, sql in (questions(sample) | further(sample)).items():
        asks = {}
        for suffix in ("", ", restricted"):
            words = {engine: worded(sql, engine, suffix != "") for engine in engines}
            wanted = told(engines["DuckDB"].ask(words["DuckDB"]))
            for engine, one in engines.items():
                asks |= ask(f"{engine}{suffix}: {question}", one, words[engine], wanted)
            for caller, one in callers.items():
                if (caller == "row policy") == (suffix != ""):
                    own = None if masked_for(caller, sql) else wanted
                    asks |= ask(f"{caller}: {question}", one, worded(sql, "Trailhouse", False), own)
        lines.append((question, sql, timed(asks, rounds)))
        print(question, {key: round(value, 1) for key, value in lines[-1][2].items()}, flush=True)
    return lines, odd


def geomean(values):
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def ratios(lines):
    """Callers over engines: geometric means over the suite's questions that touch what is masked, and those that do not."""
    found = []
    for caller in CALLERS:
        for engine in ENGINES:
            other = engine + (", restricted" if caller == "row policy" else "")
            both = [
                (masked_for(caller, sql), line[caller] / line[other])
                for _, sql, line in lines
                if other in line and caller in line
            ]
            open_, hidden = ([ratio for masked, ratio in both if masked == want] for want in (False, True))
            found.append((caller, engine, geomean(open_), geomean(hidden), max((ratio for _, ratio in both), default=math.nan)))
    return found


def report(lines, odd, about, names):
    """The table, those of the suite before the others, and the ratios of the suite."""
    columns = ["Investigator", "Reader", "row policy", "bare", "bare, restricted", "DuckDB", "chDB", "Polars"]
    text = ["# Audit queries", "", about, "", f"| ms | {' | '.join(columns)} |", "|---" + "|--:" * len(columns) + "|"]
    for name, _, line in lines:
        cells = [f"{line[column]:.1f}" if column in line else "-" for column in columns]
        text.append(f"| {name} | {' | '.join(cells)} |")
    text += ["", "Geometric means of the ratios, Trailhouse over the other; below 1 it is faster.", ""]
    text += ["| caller | over | open columns | masked columns | worst |", "|---|---|--:|--:|--:|"]
    for caller, engine, open_, hidden, worst in ratios([line for line in lines if line[0] in names]):
        text.append(f"| {caller} | {engine} | {open_:.2f} | {hidden:.2f} | {worst:.2f} |")
    return "\n".join(text + [""] + [f"- {line}" for line in odd]) + "\n"


def chart(lines):
    """Bars, a group a question, on a logarithmic scale."""
    shown = ["Investigator", "Reader", "bare", "DuckDB", "chDB", "Polars"]
    colours = ["#1b4965", "#5fa8d3", "#ca6702", "#9b9b9b", "#c9c9c9", "#e5d9c3"]
    top = max(value for *_, line in lines for value in line.values())
    scale = lambda value: 240 * math.log10(max(value, 1.0)) / math.log10(max(top, 10.0))  # noqa: E731
    parts = []
    for place, (name, _, line) in enumerate(lines):
        left = 40 + place * 88
        for number, (column, colour) in enumerate(zip(shown, colours)):
            if column in line:
                height = scale(line[column])
                parts.append(f'<rect x="{left + number * 12}" y="{280 - height:.0f}" width="11" height="{height:.0f}" fill="{colour}"/>')
        parts.append(f'<text x="{left + 36}" y="296" text-anchor="middle">{name}</text>')
    for power in range(int(math.log10(max(top, 10.0))) + 1):
        parts.append(f'<text x="34" y="{284 - scale(10**power):.0f}" text-anchor="end">{10**power} ms</text>')
    for number, (column, colour) in enumerate(zip(shown, colours)):
        parts.append(f'<rect x="{60 + number * 110}" y="10" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{76 + number * 110}" y="20">{column}</text>')
    width = 60 + len(lines) * 88
    style = 'font-family="sans-serif" font-size="10"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 310" {style}>{"".join(parts)}</svg>\n'


def about(server, what):
    versions = [server.run("--version")]
    for package in ("datafusion", "duckdb", "chdb", "polars", "pyarrow"):
        versions.append(f"{package} {__import__('importlib.metadata').metadata.version(package)}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return (
        f"{what}; {os.cpu_count()} cores of {model}, "
        f"{datetime.date.today()}, commit {commit}; {', '.join(versions)}. Medians of interleaved rounds."
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--trailhouse", type=pathlib.Path)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "results")
    arguments.add_argument("--bare", help=argparse.SUPPRESS)
    arguments.add_argument("--port", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.bare:
        return bare(given.bare, given.port)
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    server, engines = Server(given.trailhouse.resolve(), folder), {}
    try:
        allow(server)
        started = time.monotonic()
        load(server, made(given.records))
        print(f"{given.records} records sent in {time.monotonic() - started:.0f} s", flush=True)
        server.process.terminate()
        assert server.process.wait(600) == 0
        server.start()
        callers = {name: Trailhouse(server, role) for name, (role, _) in CALLERS.items()}
        plain = folder / "plain"
        files, sample = shadow(callers["Investigator"], server, plain)
        size = sum(file.stat().st_size for file in plain.iterdir())
        for name, kind in zip(ENGINES, (Bare, DuckDb, ChDb, Polars)):
            engines[name] = kind(plain)
        lines, odd = suite(callers, engines, sample, given.rounds)
        given.results.mkdir(exist_ok=True)
        what = f"{given.records:,} records in {files} files, {size / 1e6:.0f} MB as plaintext Parquet"
        text = report(lines, odd, about(server, what), questions(sample))
        name = f"suite-{given.records // 1_000_000}m" if given.records >= 1_000_000 else "suite"
        (given.results / f"{name}.md").write_text(text)
        (given.results / f"{name}.svg").write_text(chart(lines))
        print(text)
    finally:
        if "bare" in engines:
            engines["bare"].process.kill()
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
