"""What a hostile or an odd client may put on the wire, and what everybody is answered whatever driver they use."""

import base64
import functools
import random
import re
import signal
import socket
import struct
import time

import pyarrow
import pytest
from conftest import EVENTS, World
from wire import (
    Client, arrays, batch, bind, code, command, decode, descriptor, encode, joined, prepared, query, refusal, resident, schema_of,
    signed, split, stops, ticket_of, token, work,
)  # fmt: skip

TOKEN_BYTES_MAX = 16 * 1024
STATEMENTS_MAX = 128
CLIENT_MESSAGE_BYTES_MAX = 4 << 20
STOP_SECONDS_MAX = 2
ENDLESS = "SELECT a.context FROM audit.records a, audit.records b, audit.records c"
BUSY = ENDLESS.replace("a.context", "count(*)") + ", audit.records d WHERE a.leaf_index + b.leaf_index + c.leaf_index + d.leaf_index < 0"
# What would be ours to mend, not the caller's.
OURS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "CANCELLED", "DEADLINE_EXCEEDED"}
# Nothing of how it is made is in what is said: no path, no type, no Debug form.
INSIDES = re.compile(r"\.rs\b|::|r#|\w\(\w+ ?\{|\w \{ \w+: |panicked|0x[0-9a-f]{6}|part-|\.parquet|file://")


@pytest.fixture(scope="module")
def clients(world):
    """A client by what makes a caller: silo, tenant, role, subject."""

    @functools.cache
    def client(silo="eu", tenant="acme", role="Investigator", subject="ann"):
        return Client(world.ports[f"{silo}_flight"], token(world, "--subject", subject, tenant=tenant, role=role))

    return client


@pytest.fixture(scope="module")
def strict_world(tmp_path_factory):
    strict = World(tmp_path_factory.mktemp("strict"))
    bounds = "[queries]\ntime_s = 4\ntenant_at_once = 2\nwait_ms = 100\n"
    strict.config.write_text(strict.config.read_text().replace("[queries]\n", bounds))
    strict.start()
    strict.run("tenant", "create", "acme", "--silo", "eu")
    strict.run("ingest", "--tenant", "acme", "--format", "cloudtrail", "--url", strict.url("eu"), str(EVENTS))
    yield strict
    if strict.process.poll() is None:
        strict.stop()


@pytest.fixture
def strict(strict_world):
    """A server where queries may take little, of which there may be two, and which may have been killed."""
    if strict_world.process.poll() is not None:
        strict_world.start()
    return strict_world


@pytest.fixture(scope="module", autouse=True)
def silent(world):
    """A connection over which nothing more is asked: the preface, settings, and a request for /."""
    with socket.create_connection(("127.0.0.1", world.ports["eu_flight"])) as connection:
        settings, get = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), b"\x82\x86\x84\x41\x01x"
        headers = bytes([0, 0, len(get), 1, 5, 0, 0, 0, 1]) + get
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers)
        yield connection


# Who asks.

CALLS = {
    **dict.fromkeys(["Handshake", "ListFlights", "ListActions", "DoExchange"], b""),
    **dict.fromkeys(["GetFlightInfo", "PollFlightInfo", "GetSchema"], descriptor(query("SELECT 1"))),
    "DoGet": encode((1, command("CommandGetSqlInfo"))),
    "DoPut": encode((1, descriptor(query("SELECT 1")))),
    "DoAction": encode((1, "CloseSession")),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("case", ["none", "garbage", "basic", "expired", "two"])
def test_every_call_wants_one_good_token(world, method, case):
    good = token(world)
    headers = {
        "none": [],
        "garbage": [f"Bearer {good[:-20]}"],
        "basic": ["Basic " + base64.b64encode(b"ann:secret").decode()],
        "expired": ["Bearer " + signed(world, good, exp=int(time.time()) - 3600)],
        "two": [f"Bearer {good}"] * 2,
    }[case]
    client = Client(world.ports["eu_flight"])
    error = refusal(client.all, method, CALLS[method], metadata=[("authorization", header) for header in headers])
    assert error is not None and error.code().name == "UNAUTHENTICATED"
    trailers = dict(error.trailing_metadata())
    assert trailers["x-trailhouse-request-id"]
    assert b"INVALID_TOKEN" in trailers["grpc-status-details-bin"]
    assert "authorization" not in trailers, "clients would adopt it"


@pytest.mark.parametrize("method", ["GetFlightInfo", "DoGet", "DoAction"])
def test_nothing_is_read_from_strangers(world, method):
    def silence():
        time.sleep(3)
        yield from ()

    error = refusal(Client(world.ports["eu_flight"]).all, method, silence(), timeout=1)
    assert error.code().name == "UNAUTHENTICATED"


def test_a_token_may_be_16_kib_long_and_no_longer(world):
    plain = token(world)
    pad = (TOKEN_BYTES_MAX - len(plain)) * 3 // 4
    tokens = sorted((signed(world, plain, pad="x" * (pad - 30 + n)) for n in range(60)), key=len)
    longest = [long for long in tokens if len(long) <= TOKEN_BYTES_MAX][-1]
    assert len(longest) > TOKEN_BYTES_MAX - 3
    for long, answer in ((longest, "OK"), (tokens[-1], "UNAUTHENTICATED")):
        assert code(Client(world.ports["eu_flight"], long).ask, query("SELECT 1")) == answer


@pytest.mark.parametrize("sql", [ENDLESS, BUSY], ids=["rows", "no rows yet"])
def test_an_answer_ends_with_the_token(world, sql):
    client = Client(world.ports["eu_flight"], signed(world, token(world), exp=int(time.time()) + 2))
    ticket = ticket_of(client.info(query(sql)))
    error = refusal(client.get, ticket, timeout=2 + STOP_SECONDS_MAX)
    assert error.code().name == "UNAUTHENTICATED"
    assert "expired" in error.details()


# One schema.

SHAPES = """
    SELECT * FROM audit.records | SELECT * FROM audit.segments | SELECT * FROM audit.records WHERE false | SELECT FROM audit.records
    SELECT count(*), min(created_at), max(created_at), min(action), max(leaf_index) FROM audit.records
    SELECT array_agg(action), string_agg(action, ','), first_value(action), bool_and(leaf_index > 0) FROM audit.records
    SELECT action, stream, grouping(action), count(DISTINCT record_id) FROM audit.records GROUP BY CUBE (action, stream)
    SELECT 1 AS a UNION ALL SELECT 2.5 | SELECT NULL UNION ALL SELECT 1 | SELECT action, 1 FROM audit.records UNION SELECT 'x', NULL
    SELECT lag(action) OVER (ORDER BY created_at), rank() OVER (PARTITION BY action ORDER BY created_at) FROM audit.records
    VALUES (1, 'a'), (2, NULL) | VALUES (NULL) | SELECT * FROM (VALUES (1, 2.0, 'x', true)) AS t(a, b, c, d)
    WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r
    EXPLAIN SELECT * FROM audit.records | DESCRIBE audit.records | SHOW TABLES | SHOW COLUMNS FROM audit.records
    SELECT * FROM information_schema.tables | SELECT * FROM information_schema.columns | SELECT 'x' AS "\u00fc \U0001f600"
    SELECT labels, labels['env'], map_keys(labels), unnest(map_values(labels)) FROM audit.records
    SELECT [1, NULL] | SELECT make_array() | SELECT [[1], []] | SELECT struct(1, 'a') | SELECT map {'a': 1} | SELECT unnest([1, 2])
    SELECT now(), current_time, INTERVAL '1 day', INTERVAL '1 month', created_at - created_at FROM audit.records
    SELECT md5('a'), date_trunc('day', created_at), created_at AT TIME ZONE 'Europe/Berlin' FROM audit.records
"""
CASTS = "boolean,tinyint unsigned,bigint,real,double,decimal,text,bytea,date,time,timestamp,timestamptz,interval"


def test_one_schema_for_every_shape_of_query(clients):
    client = clients(role="Reader")
    shapes = [sql.strip() for line in SHAPES.strip().splitlines() for sql in line.split(" | ")]
    for sql in shapes + [f"SELECT CAST(NULL AS {kind}) AS c" for kind in CASTS.split(",")]:
        handle, told, _ = client.prepare(sql)
        client.close(handle)
        (schema,) = client.all("GetSchema", descriptor(query(sql)))
        info = client.info(query(sql))
        (polled,) = decode(client.info(query(sql), "PollFlightInfo"))[1]
        streamed = client.ask(query(sql))
        streamed.validate(full=True)
        for one in (told, *(schema_of(decode(each)[1][0]) for each in (schema, info, polled))):
            assert one.equals(streamed.schema, check_metadata=True), sql


# Parameters.


def large_list():
    yield pyarrow.array([[1]], pyarrow.large_list(pyarrow.int64()))


@pytest.mark.parametrize("sent", [arrays, large_list])
def test_a_parameter_of_every_type_comes_back_as_it_was(clients, sent):
    client = clients()
    handle, _, parameters = client.prepare("SELECT ? AS v")
    assert parameters.types == [pyarrow.null()]
    for array in sent():
        assert decode(bind(client, handle, array)) == {1: [handle]}, "old clients go on with the handle they had"
        answer = client.ask(prepared(handle))
        assert answer["v"].to_pylist() == array.to_pylist(), array.type
        (schema,) = client.all("GetSchema", descriptor(prepared(handle)))
        assert schema_of(decode(schema)[1][0]).equals(answer.schema)
    for compression in (None, "lz4", "zstd"):
        client.put(prepared(handle), split(batch(pyarrow.array([1, None, 3])), compression=compression))
        assert client.ask(prepared(handle))["v"].to_pylist() == [1, None, 3]


def test_handles_are_apart_and_their_owners_alone(clients):
    mine, one = clients(), pyarrow.array([1])
    first, second = (mine.prepare("SELECT ? AS v")[0] for _ in range(2))
    bind(mine, first, one)
    assert code(mine.ask, prepared(second)) == "INVALID_ARGUMENT", "not bound"
    for other in (clients(subject="bob"), clients(tenant="initech"), clients("us", "globex"), clients("us")):
        assert code(bind, other, first, one) == code(other.ask, prepared(first)) == "NOT_FOUND"
        other.close(first)
    assert mine.ask(prepared(first))["v"].to_pylist() == [1]
    mine.close(first)
    assert code(mine.ask, prepared(first)) == "NOT_FOUND"
    for _ in range(STATEMENTS_MAX):
        mine.prepare("SELECT 1")
    assert code(mine.ask, prepared(second)) == "NOT_FOUND", "the one used least recently made room"


# Forgeries and garbage.


def test_a_ticket_is_as_it_was_made_and_its_owners(clients):
    mine = clients()
    ticket = ticket_of(mine.info(query("SELECT DISTINCT actor_id FROM audit.records")))
    sealed = decode(decode(ticket)[2][0])[1][0]
    again = lambda sealed: command("TicketStatementQuery", (1, sealed))
    forged = [sealed[:at] + bytes([sealed[at] ^ 0x10]) + sealed[at + 1 :] for at in range(len(sealed))]
    answers = [refusal(mine.get, again(sealed)) for sealed in [*forged, sealed[:-1], sealed[:12], b"", sealed + b"\0"]]
    answers += [refusal(other.get, ticket) for other in (clients(subject="bob"), clients(tenant="initech"), clients("us"))]
    assert {(error.code().name, error.details()) for error in answers} == {
        ("INVALID_ARGUMENT", "invalid-cursor: the ticket is not valid")
    }
    # A ticket grants nothing: its owner in another role sees what that role sees.
    actors = joined(clients(role="Reader").get(ticket))["actor_id"].to_pylist()
    assert actors and all(actor.startswith("h1:") for actor in actors)


COMMANDS = """CommandGetCatalogs CommandGetDbSchemas CommandGetTables CommandGetTableTypes CommandGetSqlInfo CommandGetPrimaryKeys
    CommandGetExportedKeys CommandGetImportedKeys CommandGetCrossReference CommandGetXdbcTypeInfo CommandStatementQuery
    CommandPreparedStatementQuery CommandStatementUpdate CommandPreparedStatementUpdate CommandStatementIngest CommandNext
    CommandStatementSubstraitPlan TicketStatementQuery ActionCreatePreparedStatementRequest DoPutUpdateResult""".split()
ACTIONS = """CreatePreparedStatement ClosePreparedStatement GetSessionOptions SetSessionOptions CloseSession BeginTransaction
    EndTransaction BeginSavepoint EndSavepoint CancelQuery CancelFlightInfo RenewFlightEndpoint MakeCoffee""".split()


def clean(error):
    assert error.code().name not in OURS, error.details()
    assert not INSIDES.search(error.details()), error.details()
    assert dict(error.trailing_metadata())["x-trailhouse-request-id"]


def test_garbage_is_the_callers_mistake_wherever_it_is_put(clients):
    client, chance = clients(), random.Random(7)
    bodies = [b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x08" * 50, encode((1, b"\xff\xfe")), chance.randbytes(30)]
    errors = []
    for body in bodies:
        for one in (command(name, body) for name in COMMANDS):
            for method in ("GetFlightInfo", "PollFlightInfo", "GetSchema"):
                errors.append(refusal(client.all, method, descriptor(one)))
            errors += [refusal(client.get, one), refusal(client.put, one), refusal(client.put, one, [(b"x", b"y")])]
        errors += [refusal(client.act, action, body) for action in [*ACTIONS, "", "x" * 100_000]]
    errors = [error for error in errors if error]
    for error in errors:
        clean(error)
    assert len(errors) > 600


def test_what_is_no_message_is_the_callers_mistake(clients):
    for method in ("GetFlightInfo", "GetSchema", "DoGet", "DoAction"):
        for garbage in (b"\xff" * 10, b"\x0a"):
            clean(refusal(clients().all, method, garbage))


@pytest.mark.parametrize("door", ["parameters", "load"])
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_what_a_compressed_buffer_claims_is_not_believed(strict, door, compression):
    (schema, (header, body)) = split(batch(pyarrow.array([7] * 1_000)), compression=compression)
    assert struct.unpack_from("<q", body) == (8_000,)
    lie = [schema, (header, struct.pack("<q", 1 << 60) + body[8:])]
    client = Client(strict.ports["eu_flight"], token(strict, "--scope", "audit.write", "--scope", "audit.read"))
    load = command("CommandStatementIngest", (1, encode((1, 2), (2, 2))), (2, "records"), (3, "audit"))
    target = load if door == "load" else prepared(client.prepare("SELECT ?")[0])
    assert code(client.put, target, lie) in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert strict.process.poll() is None


def test_a_parameter_cannot_be_two_billion_nothings(strict):
    client, size = Client(strict.ports["eu_flight"], token(strict)), 2**31 - 1
    handle, _, _ = client.prepare("SELECT ? AS v")
    nothings = pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(size), size)
    refused = code(bind, client, handle, nothings)
    if refused == "OK":
        refusal(client.all, "GetFlightInfo", descriptor(prepared(handle)), timeout=1)
        strict.stop(signal.SIGKILL)  # Before it has all the memory there is.
    assert refused in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("sql", ["SELECT EXISTS (SELECT 1)", "SELECT * FROM audit.records r, LATERAL (SELECT r.action) x"])
def test_refusals_are_in_words(clients, sql):
    clean(refusal(clients().info, query(sql)))


# Streams.


@pytest.mark.parametrize("how", ["cancel", "leave", "deadline"])
def test_work_stops_when_nobody_waits_for_it(strict, how):
    client = Client(strict.ports["eu_flight"], token(strict))
    ticket = encode((1, ticket_of(client.info(query(BUSY)))))
    assert stops(strict), "it has something else to do"
    before = work(strict)
    call = client.call("DoGet", ticket, timeout=1 if how == "deadline" else 60)
    if how == "deadline":
        assert code(list, call) == "DEADLINE_EXCEEDED"
    time.sleep(0.5)
    assert work(strict) - before > 0.2
    call.cancel() if how == "cancel" else client.channel.close()
    assert stops(strict, STOP_SECONDS_MAX)


def test_who_reads_slowly_costs_little_and_nobody_else(world, clients):
    ticket = encode((1, ticket_of(clients().info(query(ENDLESS.replace("context", "action"))))))
    held = [Client(world.ports["eu_flight"], token(world, "--subject", "ann")) for _ in range(8)]
    before = resident(world)
    calls = [client.call("DoGet", ticket) for client in held]
    assert all(next(call) for call in calls)
    time.sleep(1)
    assert resident(world) - before < 128 << 20
    started = time.monotonic()
    clients(tenant="initech").ask(query("SELECT 1"))
    assert time.monotonic() - started < STOP_SECONDS_MAX
    for client in held:
        client.channel.close()


def test_who_does_not_read_loses_the_place_when_the_time_is_over(strict):
    client = Client(strict.ports["eu_flight"], token(strict))
    ticket = encode((1, ticket_of(client.info(query(ENDLESS)))))
    calls = [client.call("DoGet", ticket) for _ in range(2)]
    for call in calls:
        next(call)
    time.sleep(4 + STOP_SECONDS_MAX)
    try:
        assert code(client.ask, query("SELECT 1")) == "OK"
    finally:
        client.channel.close()


def test_no_message_is_larger_than_clients_take(clients):
    skewed = "CASE WHEN a.leaf_index % 37 = 0 THEN repeat(a.action, 60000) ELSE a.action END"
    sql = f"SELECT {skewed} AS s, a.context FROM audit.records a"
    call = clients().call("DoGet", encode((1, ticket_of(clients().info(query(sql))))))
    assert call.initial_metadata() and "grpc-encoding" not in dict(call.initial_metadata()), "compressed unasked"
    sizes = [len(message) for message in call]
    assert sum(sizes) > 2 * CLIENT_MESSAGE_BYTES_MAX and max(sizes) < CLIENT_MESSAGE_BYTES_MAX


# The connection.


def test_idle_connections_hold_nobody_up(world):
    held = [socket.create_connection(("127.0.0.1", world.ports["eu_flight"])) for _ in range(500)]
    started = time.monotonic()
    assert code(Client(world.ports["eu_flight"], token(world)).ask, query("SELECT 1")) == "OK"
    assert time.monotonic() - started < STOP_SECONDS_MAX
    del held


def test_what_is_served_is_known(world, clients):
    stranger = Client(world.ports["eu_flight"])
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert (code(stranger.all, method, b""), code(clients().all, method, b"")) == ("UNAUTHENTICATED", "UNIMPLEMENTED")
    # Probes have no token.
    (answer,) = stranger.all("/grpc.health.v1.Health/Check", b"")
    assert answer == encode((1, 1))
    # And no say in what this server holds.
    assert code(stranger.all, "/grpc.health.v1.Health/Check", encode((1, b"x" * 4_096))) == "OUT_OF_RANGE"
    listed = {decode(one)[1][0].decode() for one in clients().all("ListActions", b"")}
    assert {"CreatePreparedStatement", "ClosePreparedStatement"} <= listed
    for action in ACTIONS:
        refused = code(clients().act, action, b"") == "UNIMPLEMENTED"
        assert refused == (action not in listed), action


def test_the_server_asks_a_silent_client_whether_it_is_there(silent):
    silent.settimeout(35)
    read = b""
    # A frame of eight bytes, type PING, no flags, of the connection.
    while bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) not in read:
        more = silent.recv(4_096)
        assert more, "closed without asking"
        read += more
