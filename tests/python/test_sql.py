"""The command line client: formats, scripts, and a prompt at a real terminal."""

import csv
import io
import json
import os
import pty
import select
import subprocess
import time

import pyarrow.ipc
import pyarrow.parquet
import pytest

GROUPED = "SELECT action, count(*) AS n FROM audit.records GROUP BY action ORDER BY n DESC, action LIMIT 3"


def sql(world, *words, ok=True, **options):
    words = [world.binary, "sql", "--tenant", "acme", "--config", world.config, *map(str, words)]
    done = subprocess.run(words, capture_output=True, timeout=60, **options)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


@pytest.fixture(scope="module")
def expected(world):
    return world.query(GROUPED).to_pylist()


def test_every_format_holds_the_same_rows(world, tmp_path, expected):
    rows = list(csv.DictReader(io.StringIO(sql(world, "--format", "csv", GROUPED).decode())))
    assert [(row["action"], int(row["n"])) for row in rows] == [(row["action"], row["n"]) for row in expected]
    assert [json.loads(line) for line in sql(world, "--format", "ndjson", GROUPED).splitlines()] == expected
    arrow = sql(world, "--format", "arrow", GROUPED)
    assert pyarrow.ipc.open_file(arrow).read_all().to_pylist() == expected
    table = sql(world, "--save", tmp_path / "answer.parquet", GROUPED).decode()
    assert table.endswith("\n3 rows\n") and expected[0]["action"] in table
    assert pyarrow.parquet.read_table(tmp_path / "answer.parquet").to_pylist() == expected


def test_lists_and_maps_are_json_in_csv(world):
    (row,) = csv.DictReader(io.StringIO(sql(world, "--format", "csv", "SELECT [1, 2] AS l, {'a': 'x;\"'} AS s").decode()))
    assert json.loads(row["l"]) == [1, 2] and json.loads(row["s"]) == {"a": 'x;"'}


def test_a_refused_statement_leaves_the_file_as_it_was(world, tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("before")
    assert b"error: " in sql(world, "--save", kept, "SELECT nothing FROM audit.records", ok=False)
    assert kept.read_text() == "before"


def test_an_answer_that_breaks_off_leaves_the_file_as_it_was(world, tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("before")
    assert b"error: " in sql(world, "--save", kept, "SELECT CAST(action AS BIGINT) FROM audit.records", ok=False)
    assert kept.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["kept.csv"]


def test_what_is_kept_is_whole_though_nobody_looks(world, tmp_path, expected):
    words = ["--save", tmp_path / "kept.parquet", "--receipt", tmp_path / "kept.json", GROUPED]
    words = [world.binary, "sql", "--tenant", "acme", "--config", world.config, *words]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(list(map(str, words)), stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert pyarrow.parquet.read_table(tmp_path / "kept.parquet").to_pylist() == expected
    assert json.loads((tmp_path / "kept.json").read_text())


def test_two_binary_answers_are_none(world):
    script = b"SELECT 1 AS one; SELECT 2 AS one;"
    for binary in ("parquet", "arrow"):
        assert b"one answer" in sql(world, "--format", binary, input=script, ok=False)


def test_a_script_runs_up_to_the_first_statement_without_an_answer(world):
    script = b"SELECT 1 AS one; -- the first;\nSELECT ';' AS two;\n\nSELECT 3 AS three"
    assert sql(world, "--format", "csv", input=script) == b"one\n1\ntwo\n;\nthree\n3\n"
    words = [world.binary, "sql", "--tenant", "acme", "--config", world.config, "--format", "csv"]
    script = b"SELECT 1 AS one;\n\nSELECT nothing;\nSELECT 3 AS three;"
    done = subprocess.run(words, input=script, capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stdout == b"one\n1\n"
    assert b"line 3" in done.stderr, done.stderr


class Terminal:
    """A prompt as somebody at a terminal has it."""

    seen = b""

    def __init__(self, world, home):
        self.process, self.end = pty.fork()
        if self.process == 0:
            os.environ.update(HOME=str(home), TERM="xterm")
            words = [str(world.binary), "sql", "--tenant", "acme", "--config", str(world.config)]
            os.execv(words[0], words)

    def read_until(self, text):
        deadline = time.monotonic() + 30
        while (end := self.seen.find(text.encode())) < 0:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 1)[0]:
                self.seen += os.read(self.end, 65536)
        end += len(text)
        shown, self.seen = self.seen[:end], self.seen[end:]
        return shown.decode()

    def type(self, keys):
        self.read_until("trailhouse> ")
        os.write(self.end, keys.encode())

    def left(self):
        while True:
            try:
                os.read(self.end, 65536)
            except OSError:  # the other end is closed
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def test_a_prompt(world, tmp_path, expected):
    terminal = Terminal(world, tmp_path)
    # A statement goes on until its semicolon, and says how long it took.
    terminal.type("SELECT action\rFROM audit.records LIMIT 1;\r")
    assert "1 row" in (shown := terminal.read_until("ms\r\n")), shown
    # Words are completed from what this caller sees.
    terminal.type("SELECT count(*) FROM audit.rec\t WHERE actio\t = 'nothing';\r")
    assert "| 0 " in terminal.read_until("1 row")
    terminal.type("\\d audit.records\r")
    shown = terminal.read_until("leaf_index")
    assert "VARCHAR" in shown and "What was done" in shown
    terminal.type("\\format csv\r")
    terminal.type(f"\\save {tmp_path}/kept.ndjson\r")
    terminal.type(f"{GROUPED};\r")
    terminal.type("SELECT 7 AS seven, 8 AS eight;\r")
    terminal.read_until("\n7,8\r\n")
    assert [json.loads(line) for line in (tmp_path / "kept.ndjson").read_text().splitlines()] == expected
    # A refusal ends the statement and not the prompt.
    terminal.type("SELECT nothing FROM audit.records;\r")
    terminal.read_until("error: ")
    terminal.type("\\timing\r")
    terminal.read_until("timing is off")
    terminal.type(" SELECT 'not to be kept';\r")
    terminal.read_until("\nnot to be kept")
    terminal.type("\\q\r")
    assert terminal.left() == 0
    history = tmp_path / ".trailhouse_history"
    assert "GROUP BY action" in history.read_text() and "not to be kept" not in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_control_c_ends_the_statement(world, tmp_path):
    terminal = Terminal(world, tmp_path)
    numbers = "SELECT column1 AS n FROM (VALUES " + ", ".join(f"({n})" for n in range(60)) + ")"
    crossed = "SELECT count(*) FROM n a, n b, n c, n d, n e, n f WHERE a.n * b.n * c.n * d.n * e.n * f.n = 7919"
    terminal.type(f"WITH n AS ({numbers}) {crossed};\r")
    terminal.read_until("\x1b[?2004l")  # the editor gives the terminal back when the line is whole
    time.sleep(1)
    os.write(terminal.end, b"\x03")
    terminal.read_until("cancelled")
    terminal.type("SELECT 41 + 1 AS answer;\r")
    terminal.read_until("| 42 ")
    terminal.type("\x04")
    assert terminal.left() == 0
