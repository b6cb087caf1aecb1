"""The tools that people come with, against the real server: what each needs of Flight SQL beyond a query."""

import concurrent.futures
import datetime
import decimal
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import duckdb
import nbclient
import nbformat
import pandas
import polars
import pyarrow
import pyarrow.flight
import pytest

from conftest import BINARY, ROOT
from test_doors import frame, stored
from test_queries import expected_actions

CLIENTS = ROOT / "tests" / "clients"
COUNT = "SELECT count(*) AS n FROM audit.records WHERE action = ?"
FEW = "SELECT record_id, created_at, action, labels, leaf_index FROM audit.records"
# Some 9 thousand million rows to compare: nobody waits for its end.
LONG = (
    "SELECT count(*) FROM audit.records a, audit.records b, audit.records c, audit.records d "
    "WHERE a.action || b.action || c.action || d.action LIKE '%nowhere%'"
)
INSTANCES = "ec2.DescribeInstances"


def address(world):
    return f"grpc://127.0.0.1:{world.ports['eu_flight']}"


def as_writer(world, role=None):
    """A connection that may write for initech; without a role it may do nothing else."""
    token = world.token("initech", role, scope="audit.write")
    return adbc.connect(address(world), {"adbc.flight.sql.authorization_header": f"Bearer {token}"}, autocommit=True)


@pytest.fixture(scope="module")
def connection(world):
    with world.connect("acme", "eu", "Investigator") as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


# ADBC: the driver under Polars, pandas, DuckDB, R, Power BI and dbt.


@pytest.mark.parametrize("user", ["", "a", "an", "any"])
def test_adbc_logs_in_with_any_user_and_the_token_as_password(world, user):
    # The driver leaves the padding of its base64 away, so the length of the name matters.
    login = {"username": user, "password": world.token("acme", "Reader")}
    with adbc.connect(address(world), login, autocommit=True) as connection, connection.cursor() as cursor:
        assert cursor.execute(COUNT, (INSTANCES,)).fetchone() == (expected_actions()[INSTANCES],)


def test_adbc_says_that_there_are_no_transactions_and_goes_on(world):
    login = {"adbc.flight.sql.authorization_header": f"Bearer {world.token('acme', 'Reader')}"}
    with pytest.warns(Warning, match="Cannot disable autocommit"):
        connection = adbc.connect(address(world), login)
    with connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
        connection.commit()


def test_adbc_finds_out_what_is_there(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Trailhouse" and info["vendor_version"]
    assert connection.adbc_get_table_types() == ["TABLE"]
    assert (connection.adbc_current_catalog, connection.adbc_current_db_schema) == ("acme", "audit")

    def objects(**asked):
        return connection.adbc_get_objects(**asked).read_all().to_pylist()

    assert objects(depth="catalogs") == [{"catalog_name": "acme", "catalog_db_schemas": None}]
    (schema,) = objects(depth="db_schemas")[0]["catalog_db_schemas"]
    assert schema == {"db_schema_name": "audit", "db_schema_tables": None}
    (schema,) = objects(depth="all", table_name_filter="rec%", column_name_filter="actor%")[0]["catalog_db_schemas"]
    (table,) = schema["db_schema_tables"]
    columns = {column["column_name"]: column for column in table["table_columns"]}
    assert table["table_name"] == "records" and set(columns) == {"actor_id", "actor_type"}
    assert columns["actor_id"]["xdbc_type_name"] == "VARCHAR"
    assert objects(depth="tables", catalog_filter="globex") == []


def test_adbc_is_told_one_schema_everywhere(connection, cursor):
    everything = "SELECT * FROM audit.records"
    listed = connection.adbc_get_table_schema("records", db_schema_filter="audit")
    prepared = cursor.adbc_execute_schema(everything)
    assert listed.remove_metadata() == prepared == cursor.execute(everything).fetch_arrow_table().schema
    with adbc_driver_manager.AdbcStatement(connection.adbc_connection) as statement:
        statement.set_sql_query(everything)
        assert pyarrow.schema(statement.execute_schema()) == prepared
        stream, _ = statement.execute_query()
        assert pyarrow.RecordBatchReader._import_from_c(stream.address).schema == prepared
    empty = cursor.execute(f"{everything} WHERE false").fetch_arrow_table()
    assert (empty.num_rows, empty.schema) == (0, prepared)
    with pytest.raises(adbc_driver_manager.ProgrammingError, match="NOT_FOUND"):
        connection.adbc_get_table_schema("nothing")


def test_adbc_is_told_the_types_of_parameters(cursor):
    asked = "SELECT * FROM audit.records WHERE action = ? AND created_at > ? AND leaf_index = ?"
    assert cursor.adbc_prepare(asked).types == [pyarrow.string(), pyarrow.timestamp("us", "UTC"), pyarrow.int64()]


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678_901)
VALUES = [
    17, -1, 2**62, 1.5, "x", b"\0\1", True, None, [1, 2], {"a": 1}, decimal.Decimal("1.23"), MOMENT,
    MOMENT.replace(tzinfo=datetime.timezone.utc), MOMENT.date(), MOMENT.time(), datetime.timedelta(seconds=3),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_adbc_binds_every_type_of_python(cursor, value):
    assert cursor.execute("SELECT ? AS p", (value,)).fetchone() == (value,)


TEXT = pyarrow.array(["a text that is too long for a view"])
LISTS = pyarrow.array([["a"]])
ZERO = pyarrow.array([0])
# What is sent, and what comes back if that is not the same.
ARRAYS = [
    (pyarrow.array([1], pyarrow.int8()), None),
    (pyarrow.array([2**63], pyarrow.uint64()), None),
    (pyarrow.array([1.5], pyarrow.float32()), None),
    (pyarrow.array([1], pyarrow.timestamp("ns", "Europe/Berlin")), None),
    (pyarrow.array([1], pyarrow.time32("s")), None),
    (pyarrow.array([decimal.Decimal("1.20")], pyarrow.decimal256(50, 2)), None),
    (pyarrow.array([b"ab"], pyarrow.binary(2)), None),
    (TEXT.cast(pyarrow.large_string()), None),
    (TEXT.cast(pyarrow.string_view()), TEXT),
    (TEXT.dictionary_encode(), TEXT),
    (pyarrow.RunEndEncodedArray.from_arrays([1], TEXT), TEXT),
    (LISTS, None),
    (pyarrow.array([["a"]], pyarrow.list_view(pyarrow.string())), LISTS),
    (pyarrow.array([[("a", "b")]], pyarrow.map_(pyarrow.string(), pyarrow.string())), None),
    (pyarrow.UnionArray.from_dense(ZERO.cast(pyarrow.int8()), ZERO.cast(pyarrow.int32()), [TEXT]), TEXT),
]


@pytest.mark.parametrize("sent,back", ARRAYS, ids=lambda array: array and str(array.type)[:30])
def test_adbc_binds_every_layout_of_arrow(cursor, sent, back):
    table = cursor.execute("SELECT ? AS p", pyarrow.record_batch([sent], ["p"])).fetch_arrow_table()
    assert table["p"].combine_chunks().equals(sent if back is None else back)


def test_adbc_binds_large_lists(cursor):
    large = pyarrow.array([["a"]], pyarrow.large_list(pyarrow.string()))
    nested = pyarrow.StructArray.from_arrays([large], ["inner"])
    bound = pyarrow.record_batch([large, nested], ["p", "q"])
    assert cursor.execute("SELECT ? AS p, ? AS q", bound).fetchall() == [(["a"], {"inner": ["a"]})]


def test_adbc_answers_each_bound_row_and_takes_a_statement_again(cursor):
    actions = [INSTANCES, "sts.AssumeRole", "no.such"]
    counts = [(expected_actions()[action],) for action in actions]
    assert cursor.execute(COUNT, pyarrow.record_batch([pyarrow.array(actions)], ["a"])).fetchall() == counts
    assert [cursor.execute(COUNT, (action,)).fetchone() for action in actions] == counts
    with pytest.raises(adbc_driver_manager.Error, match="takes 1 parameters, and 2 are bound"):
        cursor.execute(COUNT, (INSTANCES, 2))
    with pytest.raises(adbc_driver_manager.Error, match="statement-not-allowed"):
        cursor.executemany("INSERT INTO audit.records (action) VALUES (?)", [("a",)])


def test_adbc_partitions_are_read_by_others_as_they_may(world, cursor):
    (partition,), schema = cursor.adbc_execute_partitions("SELECT DISTINCT actor_id FROM audit.records")
    assert schema.names == ["actor_id"]

    def read(tenant, role):
        with world.connect(tenant, "eu", role) as other, other.cursor() as cursor:
            cursor.adbc_read_partition(partition)
            return cursor.fetch_arrow_table()["actor_id"].to_pylist()

    assert all(actor.startswith("arn:") for actor in read("acme", "Investigator"))
    assert all(actor.startswith("h1:") for actor in read("acme", "Reader"))
    with pytest.raises(adbc_driver_manager.Error, match="invalid-cursor"):
        read("initech", "Reader")


def test_adbc_polls_once(connection):
    incremental = {adbc_driver_manager.StatementOptions.INCREMENTAL.value: "true"}
    with connection.cursor(adbc_stmt_kwargs=incremental) as cursor:
        partitions, schema = cursor.adbc_execute_partitions(FEW)
        assert len(partitions) == 1 and schema is not None
        progress = adbc_driver_manager.StatementOptions.PROGRESS.value
        assert cursor.adbc_statement.get_option_float(progress) == 1.0
        assert cursor.adbc_execute_partitions(FEW)[0] == []


def test_adbc_session_options_are_the_callers_own(world):
    with world.connect("acme", "eu", "Reader") as connection, connection.cursor() as cursor:
        connection.adbc_current_catalog, connection.adbc_current_db_schema = "acme", "audit"
        assert cursor.execute("SELECT count(*) FROM records").fetchone() == (310,)
        for other in ("globex", "nobody"):
            with pytest.raises(adbc_driver_manager.Error, match="invalid value"):
                connection.adbc_current_catalog = other


def ticks(world):
    fields = pathlib.Path(f"/proc/{world.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_the_server_stops_when_a_client_cancels_or_waits_no_longer(world, connection):
    with connection.cursor() as cursor:
        threading.Timer(0.5, cursor.adbc_cancel).start()
        with pytest.raises(adbc_driver_manager.Error, match="CANCELLED"):
            cursor.execute(LONG).fetchall()
    waits = {adbc_driver_flightsql.StatementOptions.TIMEOUT_FETCH.value: 0.5}
    with connection.cursor(adbc_stmt_kwargs=waits) as cursor:
        with pytest.raises(adbc_driver_manager.Error, match="TIMEOUT"):
            cursor.execute(LONG).fetchall()
    deadline = time.monotonic() + 20
    while True:
        before = ticks(world)
        time.sleep(0.5)
        # Two queries would take all of it: 50 ticks a core.
        if ticks(world) - before < 15:
            break
        assert time.monotonic() < deadline, "the server still computes what nobody waits for"
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_adbc_errors_say_what_and_which_request(cursor):
    with pytest.raises(adbc_driver_manager.ProgrammingError) as refused:
        cursor.execute("SELECT nothing FROM audit.records")
    assert refused.value.status_code == adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT
    details = refused.value.details
    assert any(b"INVALID_QUERY" in detail for _, detail in details)
    assert b"x-trailhouse-request-id" in [key for key, _ in details]


def test_many_cursors_at_once(world):
    def ask(number):
        with world.connect("acme", "eu", "Reader") as connection, connection.cursor() as cursor:
            return cursor.execute("SELECT ? AS p", (number,)).fetchone()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == [(number,) for number in range(16)]


# Data frames


def test_polars_binds_and_reads_in_batches(connection):
    bound = {"parameters": (INSTANCES,)}
    assert polars.read_database(COUNT, connection, execute_options=bound).item() == expected_actions()[INSTANCES]
    parts = list(polars.read_database(FEW, connection, iter_batches=True, batch_size=100))
    assert sum(part.height for part in parts) == 310
    assert parts[0].schema["created_at"] == polars.Datetime("us", "UTC")
    assert polars.read_database("SELECT * FROM audit.records", connection).height == 310


# Both look first which tables there are.
@pytest.mark.parametrize("role", [None, "Reader"])
def test_polars_appends_a_frame(world, role):
    keys = [f"polars-{role}-{n}" for n in range(2)]
    rows = polars.from_arrow(frame(keys)).with_columns(context=polars.struct(a=1))
    with as_writer(world, role) as connection:
        assert rows.write_database("audit.records", connection, if_table_exists="append") == 2
        assert rows.write_database("audit.records", connection, if_table_exists="append") == 0
        for mode in ("fail", "replace"):
            with pytest.raises(adbc_driver_manager.Error, match="statement-not-allowed"):
                rows.write_database("audit.records", connection, if_table_exists=mode)


def test_an_empty_frame_stores_nothing(world):
    # The driver ends its stream without a single message.
    with as_writer(world) as connection, connection.cursor() as cursor:
        assert cursor.adbc_ingest("records", frame(["empty"]).slice(0, 0), mode="append", db_schema_name="audit") == 0


def test_pandas_reads(connection):
    assert pandas.read_sql(FEW, connection).shape == (310, 5)
    typed = pandas.read_sql(FEW, connection, dtype_backend="pyarrow")
    assert str(typed.dtypes["created_at"]) == "timestamp[us, tz=UTC][pyarrow]"
    assert len(pandas.read_sql_table("records", connection, schema="audit")) == 310


@pytest.mark.parametrize("role", [None, "Reader"])
def test_pandas_appends_a_frame(world, role):
    keys = [f"pandas-{role}-{n}" for n in range(2)]
    rows = frame(keys).to_pandas()
    with as_writer(world, role) as connection:
        assert rows.to_sql("records", connection, schema="audit", if_exists="append", index=False) == 2
        with pytest.raises(ValueError, match="already exists"):
            rows.to_sql("records", connection, schema="audit", index=False)
    assert stored(world, f"pandas-{role}-") == keys


def test_duckdb_reads_the_stream_and_fills_another(world, cursor):
    records = cursor.execute(FEW).fetch_record_batch()  # noqa: F841 - DuckDB finds it by its name
    counted = duckdb.sql("SELECT action, count(*) FROM records GROUP BY action").fetchall()
    assert dict(counted) == dict(expected_actions())
    made = duckdb.sql(
        "SELECT 'duckdb-' || i AS idempotency_key, TIMESTAMPTZ '2026-01-02 03:04:05+00' AS created_at, "
        "'Order.Placed' AS action, 'Order' AS resource_type, '17' AS resource_id, 'User' AS actor_type, "
        "'ann' AS actor_id, '4bf92f3577b34da6a3ce929d0e0e4736' AS trace_id, map(['env'], ['prod']) AS labels, "
        "{'a': i} AS context FROM range(5) t(i)"
    )
    with as_writer(world) as connection, connection.cursor() as loader:
        assert loader.adbc_ingest("records", made.to_arrow_reader(), mode="append", db_schema_name="audit") == 5
    assert len(stored(world, "duckdb-")) == 5


# Plain Flight


def text(tag, value):
    return bytes([tag << 3 | 2, len(value)]) + value.encode()


def command(name, body=b""):
    """A Flight SQL command, made by hand: an Any of the message."""
    url = f"type.googleapis.com/arrow.flight.protocol.sql.{name}"
    packed = text(1, url) + bytes([2 << 3 | 2, len(body)]) + body
    return pyarrow.flight.FlightDescriptor.for_command(packed)


COMMANDS = {
    "CommandStatementQuery": (text(1, "SELECT action FROM audit.records"), 310),
    "CommandGetCatalogs": (b"", 1),
    "CommandGetDbSchemas": (b"", 1),
    "CommandGetTables": (b"", 2),
    "CommandGetTableTypes": (b"", 1),
    "CommandGetSqlInfo": (b"", None),
    "CommandGetXdbcTypeInfo": (b"", None),
    "CommandGetPrimaryKeys": (text(3, "records"), 0),
    "CommandGetImportedKeys": (text(3, "records"), 0),
    "CommandGetExportedKeys": (text(3, "records"), 0),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_pyarrow_flight_speaks_the_protocol_by_hand(world, name):
    body, rows = COMMANDS[name]
    with pyarrow.flight.connect(address(world)) as client:
        header = client.authenticate_basic_token("any", world.token("acme", "Reader"))
        options = pyarrow.flight.FlightCallOptions(headers=[header])
        info = client.get_flight_info(command(name, body), options)
        # A location that is not this server would send its client somewhere else.
        (endpoint,) = info.endpoints
        assert endpoint.locations == []
        table = client.do_get(endpoint.ticket, options).read_all()
        assert table.schema == info.schema == client.get_schema(command(name, body), options).schema
        assert table.num_rows == rows if rows is not None else table.num_rows > 10


def test_pyarrow_flight_lists_what_there_is(world):
    with pyarrow.flight.connect(address(world)) as client:
        header = client.authenticate_basic_token("any", world.token("acme", "Reader"))
        options = pyarrow.flight.FlightCallOptions(headers=[header])
        assert "CreatePreparedStatement" in [action.type for action in client.list_actions(options)]
        assert list(client.list_flights(options=options)) == []
        with pytest.raises(pyarrow.ArrowNotImplementedError):
            list(client.do_action(("Nothing", b""), options))
        with pytest.raises(pyarrow.flight.FlightUnauthenticatedError):
            list(client.list_actions())


# Clients that need an environment of their own: made once, beside the build, by the versions they are pinned to.


def environment(name, pins, install):
    digest = hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in pins)).hexdigest()[:12]
    folder = BINARY.parents[1] / "clients" / f"{name}-{digest}"
    folder.parent.mkdir(exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = folder / "installed"
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            finished.touch()
    return folder


def answers(world, *program, **options):
    words = {"PORT": str(world.ports["eu_flight"]), "TOKEN": world.token("acme", "Reader")}
    done = subprocess.run(program, env={**os.environ, **words}, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_superset_reads_through_its_sqlalchemy_dialect(world):
    pins = CLIENTS / "superset-requirements.txt"

    def install(folder):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", pins], check=True)

    python = environment("superset", [pins], install) / "bin" / "python"
    found = answers(world, python, CLIENTS / "superset.py")
    actions = expected_actions()
    assert (found["sql_info"], found["tables"], found["password"]) == (4, 2, [{"a": 1}])
    assert found["dbapi"] == [[actions[INSTANCES]]] and found["bound"] == [1, 1.5, "x", True]
    assert (found["schemas"], found["names"], found["has"]) == (["audit"], ["records", "segments"], [True, False])
    assert "actor_id" in found["columns"] and found["keys"] == []
    assert found["top"][0] == [INSTANCES, actions[INSTANCES]] and found["chart"] == 310


def test_clients_for_node_read(world):
    pins = [CLIENTS / "js" / name for name in ("package.json", "package-lock.json")]

    def install(folder):
        for path in pins:
            shutil.copy(path, folder)
        quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        # By the lock file, but not `ci`: one client names a package for another system that was never published.
        subprocess.run(["npm", "install", *quiet], cwd=folder, check=True)

    folder = environment("node", pins, install)
    found = answers(world, "node", CLIENTS / "js" / "clients.mjs", cwd=folder)
    ((action, number),) = expected_actions().most_common(1)
    for name, client in found.items():
        assert client["top"] == {"action": action, "n": number}, name
        assert client["all"][0] == 310, name
        assert client.get("catalogs", ["acme"]) == ["acme"], name
        assert client.get("tables", ["records", "segments"]) == ["records", "segments"], name
        assert client.get("refused", "an error"), name
    assert len(found) == 6


# The notebook people start from


def test_the_notebook_connects(world, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "01-connect.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells), "outputs are not committed"
    words = {"TRAILHOUSE_URI": address(world), "TRAILHOUSE_TOKEN": world.token("acme", "Reader")}
    folders = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "IPYTHONDIR": str(tmp_path)}
    nbclient.NotebookClient(notebook, timeout=120).execute(env={**os.environ, **words, **folders})
    assert all(cell.outputs for cell in cells[1:])
