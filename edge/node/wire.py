"""A look at a ModelInferRequest's bytes before protobuf reads them.

Two bytes on the wire can make a message of a hundred bytes in memory, so 64 MB could make gigabytes. What a right
request needs is few fields and long ones: pixels and pictures lie in `raw_input_contents`, or in packed numbers.
"""

MAX_FIELDS = 2048  # of all levels
MAX_NUMBERS = 16 << 20  # bytes of packed numbers; protobuf makes four or eight of one
# Path of field numbers -> it is a message with fields of its own (inputs, outputs, parameters, contents).
_MESSAGES = {(4,), (4, 2), (5,), (5, 4), (5, 4, 2), (5, 5), (6,), (6, 2), (6, 2, 2)}
_CONTENTS, _PICTURES = (5, 5), 8


def is_modest(data: bytes) -> bool:
    """Whether reading this takes little more memory than the bytes themselves. False for what is no message, too."""
    fields = numbers = 0
    todo: list[tuple[tuple[int, ...], int, int]] = [((), 0, len(data))]
    while todo:
        path, at, end = todo.pop()
        while at < end:
            fields += 1
            key, at = _varint(data, at, end)
            kind = key & 7
            if kind == 0:
                length, at = 0, _varint(data, at, end)[1]
            elif kind == 2:
                length, at = _varint(data, at, end)
            else:
                length = {1: 8, 5: 4}.get(kind, -1)
            if length < 0 or at < 0 or length > end - at or fields > MAX_FIELDS:
                return False
            here = (*path, key >> 3)
            if kind == 2 and here in _MESSAGES:
                todo.append((here, at, at + length))
            elif path == _CONTENTS and key >> 3 != _PICTURES:
                numbers += length
            at += length
    return numbers <= MAX_NUMBERS


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number, and where it ends; -1: nowhere."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, -1
