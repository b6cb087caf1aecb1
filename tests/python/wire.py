"""Flight SQL in bytes: what no driver would send can be sent, and what a driver would hide is seen."""

import base64
import datetime
import decimal
import json
import struct
import time

import grpc
import pyarrow
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FLIGHT = "/arrow.flight.protocol.FlightService/"
TYPES = "type.googleapis.com/arrow.flight.protocol.sql."
MESSAGE_BYTES_MAX = 64 << 20


def varint(number):
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def encode(*fields):
    """A protobuf message of these fields, each a number and a value; none where the value is None."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif value is not None:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def decode(message):
    """The values of each field of a protobuf message."""

    def number(at):
        value = shift = 0
        while True:
            value, shift, at = value | (message[at] & 0x7F) << shift, shift + 7, at + 1
            if message[at - 1] < 0x80:
                return value, at

    fields, at = {}, 0
    while at < len(message):
        key, at = number(at)
        if key & 7 == 0:
            value, at = number(at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(key & 7) or number(at)
            value, at = message[at : at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def command(name, *fields):
    body = fields[0] if fields and isinstance(fields[0], bytes) else encode(*fields)
    return encode((1, TYPES + name), (2, body))


def query(sql):
    return command("CommandStatementQuery", (1, sql))


def prepared(handle):
    return command("CommandPreparedStatementQuery", (1, handle))


def descriptor(command):
    return encode((1, 2), (2, command))


def ticket_of(info):
    (endpoint,) = decode(info)[3]
    assert 2 not in decode(endpoint), "the data is where the client is"
    return decode(decode(endpoint)[1][0])[1][0]


def schema_of(encapsulated):
    return pyarrow.ipc.read_schema(pyarrow.py_buffer(encapsulated))


def split(batch, **options):
    """Header and body of each message of an IPC stream."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write(batch)
    reader, messages = pyarrow.ipc.MessageReader.open_stream(sink.getvalue()), []
    for message in reader:
        messages.append((message.metadata.to_pybytes(), message.body.to_pybytes() if message.body else b""))
    return messages


def joined(messages):
    """The table in the messages of a DoGet."""
    out = b""
    for message in map(decode, messages):
        (header,) = message[2]
        out += b"\xff\xff\xff\xff" + struct.pack("<i", len(header)) + header + message.get(1000, [b""])[0]
    return pyarrow.ipc.open_stream(out + b"\xff\xff\xff\xff\0\0\0\0").read_all()


class Client:
    """Calls with this token, or with none. Each client has a connection of its own."""

    def __init__(self, port, token=None):
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, method, request, metadata=None, timeout=60):
        """Begins a call whose kind of request does not matter on the wire: one message, or an iterator of them."""
        requests = iter([request] if isinstance(request, bytes) else request)
        path = method if "/" in method else FLIGHT + method
        metadata = self.metadata if metadata is None else metadata
        return self.channel.stream_stream(path)(requests, timeout, metadata)

    def all(self, method, request, **options):
        return list(self.call(method, request, **options))

    def info(self, command, method="GetFlightInfo"):
        (info,) = self.all(method, descriptor(command))
        return info

    def get(self, ticket, **options):
        return self.all("DoGet", encode((1, ticket)), **options)

    def ask(self, command):
        return joined(self.get(ticket_of(self.info(command))))

    def put(self, command, messages=()):
        """DoPut of these headers and bodies; the answer's metadata."""
        messages = [encode((2, header), (1000, body or None)) for header, body in messages] or [b""]
        messages[0] = encode((1, descriptor(command))) + messages[0]
        (answer,) = self.all("DoPut", messages)
        return decode(answer).get(1, [b""])[0]

    def act(self, action, body=b""):
        return [decode(result).get(1, [b""])[0] for result in self.all("DoAction", encode((1, action), (2, body)))]

    def prepare(self, sql):
        """Handle, schema of the result, schema of the parameters."""
        request = command("ActionCreatePreparedStatementRequest", (1, sql))
        (result,) = self.act("CreatePreparedStatement", request)
        result = decode(decode(result)[2][0])
        return result[1][0], schema_of(result[2][0]), schema_of(result[3][0])

    def close(self, handle):
        self.act("ClosePreparedStatement", command("ActionClosePreparedStatementRequest", (1, handle)))


def refusal(act, *arguments, **options):
    """The error that this ends with; None if it does not."""
    try:
        act(*arguments, **options)
    except grpc.RpcError as error:
        return error
    return None


def code(act, *arguments, **options):
    error = refusal(act, *arguments, **options)
    return error.code().name if error else "OK"


def token(world, *more, tenant="acme", role="Investigator"):
    return world.run("token", "--tenant", tenant, "--role", role, *more).strip()


def signed(world, like, **claims):
    """A token of the development issuer, as `like` but for these claims."""
    header, body, _ = like.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    text = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    head = header + "." + text(json.dumps(claims).encode())
    key = Ed25519PrivateKey.from_private_bytes((world.folder / "keys" / "developer.key").read_bytes())
    return head + "." + text(key.sign(head.encode()))


def batch(*columns):
    return pyarrow.record_batch(list(columns), names=[f"c{at}" for at in range(len(columns))])


def bind(client, handle, *columns):
    return client.put(prepared(handle), split(batch(*columns)))


def arrays():
    """One value of every type that clients send, by whatever way they send it."""
    array, moment = pyarrow.array, datetime.datetime(2026, 1, 2, 3, 4, 5)
    yield from ([pyarrow.nulls(1), array([True]), array([2**63], pyarrow.uint64()), array([1.5], pyarrow.float16())])
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"):
        yield array([1], getattr(pyarrow, kind)())
    for kind in ("string", "large_string", "string_view"):
        yield array(["text that is too long for a view"], getattr(pyarrow, kind)())
    for kind in ("binary", "large_binary", "binary_view"):
        yield array([b"bytes"], getattr(pyarrow, kind)())
    for kind in (pyarrow.decimal32(5, 2), pyarrow.decimal64(12, 2), pyarrow.decimal128(38, 2), pyarrow.decimal256(70, 2)):
        yield array([decimal.Decimal("1.23")], kind)
    for zone in (None, "UTC", "Europe/Berlin", "+05:30"):
        yield from (array([moment], pyarrow.timestamp(unit, zone)) for unit in ("s", "ms", "us"))
    yield from (array([moment.date()], kind) for kind in (pyarrow.date32(), pyarrow.date64()))
    yield from (array([moment.time()], kind) for kind in (pyarrow.time32("s"), pyarrow.time64("us")))
    yield from (array([datetime.timedelta(1)], pyarrow.duration("s")), array([(1, 2, 3)], pyarrow.month_day_nano_interval()))
    yield from (array([b"abcd"], pyarrow.binary(4)), array(["x"]).dictionary_encode())
    yield pyarrow.RunEndEncodedArray.from_arrays(array([1], pyarrow.int32()), array(["x"]))
    lists = (pyarrow.list_, pyarrow.list_view, lambda item: pyarrow.list_(item, 2))
    yield from (array([[1, None]], of(pyarrow.int64())) for of in lists)
    yield from (array([{"a": 1}]), array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())))
    words, numbers, first = array(["x"]), array([7]), array([0], pyarrow.int32())
    yield pyarrow.UnionArray.from_sparse(array([1], pyarrow.int8()), [words, numbers])
    yield pyarrow.UnionArray.from_dense(array([7], pyarrow.int8()), first, [words, numbers], ["a", "b"], [5, 7])


def work(world):
    """Processor seconds that the server has used."""
    fields = open(f"/proc/{world.process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident(world):
    lines = open(f"/proc/{world.process.pid}/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def stops(world, seconds=2):
    """Whether the server has nothing to do any more, so many seconds from now at the latest."""
    deadline, rests = time.monotonic() + seconds, False
    while not rests and time.monotonic() < deadline:
        before = work(world)
        time.sleep(0.2)
        rests = work(world) - before <= 0.03
    return rests
