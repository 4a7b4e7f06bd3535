"""Hostile requests, by kind: what a broken or a bad client may send. Seeded; every case is bytes or a message."""

import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

from tritonclient.grpc import service_pb2

from tests.edge.conftest import SIZE, pictures

PATH = b"/v2/models/tiny/infer"
PIXELS = pictures(1).tobytes()
HEADER = "Inference-Header-Content-Length"
NUMBERS = [0, -1, 1, 2, 7, 8, 33, 2**31 - 1, 2**31, 2**32, 2**63, -(2**63), 2**64, 10**30, 10**400]
VALUES: list[Any] = [
    *NUMBERS,
    None,
    True,
    False,
    1.5,
    math.nan,
    math.inf,
    "",
    "8",
    "\ud800",
    "\x00",
    [],
    [[]],
    {},
    {"a": 1},
]
DATATYPES: list[Any] = ["UINT8", "BYTES", "FP32", "INT64", "BOOL", "", "uint8", "UINT8\x00", "💥", None, 8, [], {}]
Document = dict[str, Any]


def http(body: bytes, *headers: tuple[str, str], path: bytes = PATH, method: bytes = b"POST") -> bytes:
    """A whole request."""
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in headers)
    return b"%s %s HTTP/1.1\r\nHost: node\r\nContent-Length: %d\r\n%s\r\n%s" % (method, path, len(body), lines, body)


def document() -> Document:
    """A right request, its pixels in binary form behind it."""
    parameters = {"binary_data_size": len(PIXELS)}
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "parameters": parameters}]}


def binary(asked: Any, tail: bytes = PIXELS, *, header: Any = None) -> bytes:
    """A request of JSON and the bytes behind it."""
    text = json.dumps(asked).encode("utf-8", "surrogatepass")
    return http(text + tail, (HEADER, str(len(text) if header is None else header)))


def _shape(rng: random.Random) -> bytes:
    asked = document()
    asked["inputs"][0]["shape"] = rng.choice(
        [[rng.choice(VALUES) for _ in range(rng.randrange(6))], rng.choice(VALUES)]
    )
    return binary(asked)


def _datatype(rng: random.Random) -> bytes:
    asked = document()
    asked["inputs"][0] |= {"datatype": rng.choice(DATATYPES), "shape": rng.choice([[1, SIZE, SIZE, 3], [1], [2], []])}
    return binary(asked)


def _length(rng: random.Random) -> bytes:
    asked = document()
    asked["inputs"][0]["parameters"] = {"binary_data_size": rng.choice([*VALUES, len(PIXELS) - 1, len(PIXELS) + 1])}
    return binary(asked, PIXELS[: rng.randrange(len(PIXELS) + 1)])


def _element(rng: random.Random) -> bytes:
    """BYTES whose elements lie about their length."""
    count = rng.randrange(1, 40)
    sizes = [rng.choice([0, 3, rng.randrange(50), 2**31, 2**32 - 1]) for _ in range(rng.randrange(count + 2))]
    tail = b"".join(struct.pack("<I", size) + rng.randbytes(min(size, 20)) for size in sizes)
    one = {"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(tail)}}
    return binary({"inputs": [one]}, tail)


def _header(rng: random.Random) -> bytes:
    return binary(document(), header=rng.choice([*NUMBERS, "", " ", "0x10", "1e3", "٣", "12 13", "9" * 5000, "1,1"]))


def _deep(rng: random.Random) -> bytes:
    depth = rng.choice([100, 1000, 10_000, 100_000])
    inner = rng.choice(["[" * depth, "[" * depth + "]" * depth, '{"a":' * depth, '{"a":' * depth + "1" + "}" * depth])
    name = rng.choice(["inputs", "parameters", "id", "outputs", "x"])
    prefix = rng.choice(["", f'{{"{name}":', '{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":'])
    return http((prefix + inner).encode())


def _text(rng: random.Random) -> bytes:
    """Bad UTF-8, other encodings, byte-order marks, no JSON at all."""
    right = json.dumps(document())
    bad = [
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\x00",
        b'{"inputs": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"[]",
        b'"',
    ]
    return http(rng.choice([*bad, right.encode("utf-16"), right.encode("utf-32"), rng.randbytes(rng.randrange(300))]))


def _data(rng: random.Random) -> bytes:
    """Numbers of JSON that are none, or too many, or nested unevenly."""
    count = SIZE * SIZE * 3
    data: Any = [rng.choice(VALUES) if rng.random() < 0.1 else rng.randrange(256) for _ in range(count)]
    odd = ["NaN", "-Infinity", "1e999", "-1e-999", "9" * 4000, "9" * 5000, "0.5", "256", "-1", '"7"', "[1,[2]]", "null"]
    shapes = [data, data[:-1], data * 3, [data], [[1, 2], [3]], [[[]]], [{}] * count, "text", None, [data, data[:5]]]
    text = json.dumps(rng.choice(shapes))
    if rng.random() < 0.5:
        text = "[" + ",".join(rng.choice(odd) for _ in range(count)) + "]"
    kind = rng.choice(["UINT8", "BYTES", "FP64"])
    head = f'{{"inputs":[{{"name":"image","datatype":"{kind}","shape":[1,8,8,3],"data":'
    return http((head + text + "}]}").encode("utf-8", "surrogatepass"))


def _fields(rng: random.Random) -> bytes:
    """Any value anywhere."""
    asked = document()
    one = asked["inputs"][0]
    place = rng.choice([asked, one, one["parameters"]])
    names = ["id", "parameters", "outputs", "inputs", "name", "datatype", "shape", "data", "binary_data_size"]
    place[rng.choice(names)] = rng.choice(VALUES)
    if rng.random() < 0.5:
        name = rng.choice(["top_k", "binary_data_output", "classification", "sequence_id"])
        asked["parameters"] = {name: rng.choice(VALUES)}
    if rng.random() < 0.5:
        wanted = {"name": rng.choice(["logits", "label", "probability", *VALUES])}
        wanted["parameters"] = {rng.choice(["classification", "binary_data"]): rng.choice(VALUES)}
        asked["outputs"] = [wanted] * rng.randrange(1, 3)
    if rng.random() < 0.2:
        asked["inputs"] = [one] * rng.randrange(5)
    return binary(asked)


def _chunks(rng: random.Random) -> bytes:
    """Transfer-Encoding: right chunks, and wrong ones."""
    text = json.dumps(document()).encode()
    body = text + PIXELS
    pieces = [body[at : at + 37] for at in range(0, len(body), 37)]
    right = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    ends = [
        b"0\r\n\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"",
        b"0\r\n",
        b"-1\r\n\r\n",
        b"zz\r\n\r\n",
        b"F" * 40 + b"\r\n\r\n",
    ]
    mess = [
        right,
        right.replace(b"25\r\n", b"26\r\n", 1),
        right.replace(b"\r\n", b"\n"),
        b"5;a=b\r\nhello\r\n",
        rng.randbytes(40),
    ]
    length = rng.choice([b"", b"", b"Content-Length: 5\r\n"])
    coding = rng.choice([b"chunked", b"chunked", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked"])
    head = b"POST %s HTTP/1.1\r\nHost: node\r\n%s: %d\r\nTransfer-Encoding: %s\r\n%s\r\n"
    return head % (PATH, HEADER.encode(), len(text), coding, length) + rng.choice(mess) + rng.choice(ends)


def _method(rng: random.Random) -> bytes:
    methods = [
        b"GET",
        b"PUT",
        b"DELETE",
        b"PATCH",
        b"HEAD",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"PRI",
        b"POST",
        b"X" * 90,
        b"",
    ]
    paths = [PATH, b"/status", b"/metrics", b"/v2", b"/v2/models", b"*", b"http://other/v2"]
    return http(b"{}", path=rng.choice(paths), method=rng.choice(methods))


def _path(rng: random.Random) -> bytes:
    parts = [b"tiny", b"versions", b"1", b"infer", b"ready", b"v2", b"models", b"", b"versions/-1", b"{name}"]
    parts += [b"..", b"%2e%2e", b"%00", b"%ff", b"%", b"%2F", b"etc/passwd", b"?x=1", b"#", b";a", b"\xff", b"a" * 3000]
    path = b"/" + b"/".join(rng.choice(parts) for _ in range(rng.randrange(1, 7)))
    return http(b"{}", path=path, method=rng.choice([b"GET", b"POST"]))


def _line(rng: random.Random) -> bytes:
    """What is no HTTP/1.1, or hardly."""
    right = binary(document())
    many = b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(3000))
    return rng.choice(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(60),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            b"GET /v2\r\n\r\n",
            b"GET /v2 HTTP/9.9\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + many + b"\r\n",
            b"GET /v2 HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nBad Header: 1\r\n: 2\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nA: \x00\x01\r\n\r\n",
            right.replace(b"Host: node", b"Content-Encoding: gzip\r\nHost: node"),
            right.replace(b"Host: node", b"Upgrade: websocket\r\nConnection: Upgrade\r\nHost: node"),
            rng.randbytes(rng.randrange(1, 400)),
        ]
    )


def _big(rng: random.Random) -> bytes:
    """Megabytes of JSON whose values are many and small, or few and long."""
    unit = rng.choice(["[0],", "[],", "{},", "1e5,", "9" * 4000 + ",", '"' + "A" * 4000 + '",', "[[[", '{"a":'])
    head = '{"inputs":[{"name":"image","datatype":"UINT8","shape":[32,8,8,3],"data":['
    return http((head + unit * (rng.choice([1 << 20, 6 << 20, 9 << 20]) // len(unit)) + "0]}]}").encode())


def _cut(rng: random.Random) -> bytes:
    right = binary(document())
    return right[: rng.randrange(1, len(right))]


def _mutated(rng: random.Random) -> bytes:
    """A right request with a few bytes changed, put in or left out."""
    data = bytearray(binary(document()))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) - len(PIXELS))
        data[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    return bytes(data)


REST: dict[str, Callable[[random.Random], bytes]] = {
    one.__name__.strip("_"): one
    for one in (_shape, _datatype, _length, _element, _header, _deep, _text, _data, _fields, _chunks, _method, _path)
} | {one.__name__.strip("_"): one for one in (_line, _big, _cut, _mutated)}


def message(rng: random.Random) -> bytes:
    """A ModelInferRequest that lies, as its bytes on the wire."""
    asked = service_pb2.ModelInferRequest(model_name=rng.choice(["tiny"] * 12 + ["", "../x", "x" * 5000]))
    asked.model_version, asked.id = rng.choice([""] * 8 + ["1", "9", "-1"]), rng.choice(["", "i", "\x00", "é" * 900])
    for _ in range(rng.choice([1, 1, 1, 1, 0, 2, 50])):
        one = asked.inputs.add(
            name=rng.choice(["image", "image", "image", "", "x"]), datatype=rng.choice(DATATYPES[:9])
        )
        whole = [n for n in NUMBERS if -(2**63) <= n < 2**63]
        one.shape.extend(rng.choice([[1, SIZE, SIZE, 3], [1], [rng.choice(whole) for _ in range(rng.randrange(6))]]))
        if rng.random() < 0.4:
            one.contents.uint_contents.extend([rng.choice([0, 255, 256, 2**32 - 1])] * rng.choice([1, 192, 5000]))
            one.contents.bytes_contents.extend([rng.randbytes(9)] * rng.randrange(40))
            one.contents.fp32_contents.extend([math.nan] * rng.randrange(3))
    if rng.random() < 0.7:
        asked.raw_input_contents.extend([rng.choice([PIXELS, PIXELS[:-1], b"", rng.randbytes(50)])] * rng.randrange(3))
    if rng.random() < 0.3:
        asked.parameters["top_k"].int64_param = rng.choice([0, -1, 3, 2**62])
    if rng.random() < 0.2:
        asked.parameters["top_k"].string_param = "3"
        asked.parameters["odd"].SetInParent()
    if rng.random() < 0.3:
        wanted = asked.outputs.add(name=rng.choice(["logits", "label", "probability", "", "x"]))
        wanted.parameters["classification"].int64_param = rng.choice([0, -1, 2, 2**40])
    made = bytearray(asked.SerializeToString())
    if rng.random() < 0.3 and made:
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made[: rng.randrange(len(made) + 1)]) if rng.random() < 0.15 else bytes(made)
