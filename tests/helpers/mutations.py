"""Damaged copies of real files, and a process of its own that reads them with little memory and a clock beside it.

As a program: ``python mutations.py READER FOLDER SEED COUNT`` reads ``FOLDER/original`` damaged in COUNT ways, and
prints one line of JSON a case: what became of it (read, refused, or what went wrong), and the message.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEMORY = 3 << 29
"""Bytes that a reader may take beyond what Python and its packages have."""
SECONDS = 20
WHOLE = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, stream: random.Random) -> bytes:
    """A few bits turned over."""
    out = bytearray(data)
    for _ in range(stream.randint(1, 4)):
        out[stream.randrange(len(out))] ^= 1 << stream.randrange(8)
    return bytes(out)


def overwrite(data: bytes, stream: random.Random) -> bytes:
    """Other bytes over a few."""
    start = stream.randrange(len(data))
    other = stream.randbytes(stream.randint(1, 16))
    return data[:start] + other + data[start + len(other) :]


def truncate(data: bytes, stream: random.Random) -> bytes:
    return data[: stream.randrange(len(data))]


def behead(data: bytes, stream: random.Random) -> bytes:
    return data[stream.randrange(1, len(data)) :]


def insert(data: bytes, stream: random.Random) -> bytes:
    start = stream.randrange(len(data))
    return data[:start] + stream.randbytes(stream.randint(1, 40)) + data[start:]


def remove(data: bytes, stream: random.Random) -> bytes:
    start = stream.randrange(len(data))
    return data[:start] + data[start + stream.randint(1, 40) :]


def zeros(data: bytes, stream: random.Random) -> bytes:
    start = stream.randrange(len(data))
    length = min(stream.choice((1, 8, 64, 512, 4096)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def repeat(data: bytes, stream: random.Random) -> bytes:
    """A piece a second time, or many."""
    start = stream.randrange(len(data))
    piece = data[start : start + stream.randint(1, 200)]
    return data[:start] + piece * stream.choice((2, 3, 50)) + data[start:]


def swap(data: bytes, stream: random.Random) -> bytes:
    """Two pieces in each other's place."""
    length = max(1, len(data) // 50)
    first, second = sorted(stream.sample(range(len(data)), 2))
    piece, other = data[first : first + length], data[second : second + length]
    out = data[:first] + other + data[first + len(other) :]
    return out[:second] + piece + out[second + len(piece) :]


def inflate(data: bytes, stream: random.Random) -> bytes:
    """A length of two, four or eight bytes that is none: at the ends of a file, where most formats have theirs."""
    size = stream.choice((2, 4, 8))
    near = stream.randrange(min(64, len(data)))
    start = max(0, stream.choice((near, len(data) - size - near, stream.randrange(len(data)))))
    value = stream.choice(WHOLE) & ((1 << 8 * size) - 1)
    return data[:start] + value.to_bytes(size, stream.choice(("little", "big"))) + data[start + size :]


def header(data: bytes, stream: random.Random) -> bytes:
    """Digits of a text of lengths and shapes (as in npy and safetensors) made more, negative or none."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return flip(data, stream)
    start = stream.choice(places)
    return data[:start] + stream.choice((b"9", b"-", b" ", b"e", b"999999", b"1e99")) + data[start + 1 :]


def zip_sizes(data: bytes, stream: random.Random) -> bytes:
    """Sizes, method or checksum in the directory of a zip file."""
    entries = [place for place in range(len(data) - 46) if data[place : place + 4] == b"PK\1\2"]
    if not entries:
        return inflate(data, stream)
    place = stream.choice(entries) + stream.choice((10, 16, 20, 24, 24, 28, 42))
    return data[:place] + struct.pack("<I", stream.choice(WHOLE) & 0xFFFFFFFF) + data[place + 4 :]


def footer(data: bytes, stream: random.Random) -> bytes:
    """A number in the footer of a Parquet file that is two milliards, with the footer's length corrected."""
    if data[-4:] != b"PAR1":
        return inflate(data, stream)
    length = struct.unpack("<I", data[-8:-4])[0]
    start = len(data) - 8 - stream.randint(1, length)
    huge = stream.choice((b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01"))
    body = data[:start] + huge + data[start + 1 : -8]
    return body + struct.pack("<I", length + len(huge) - 1) + b"PAR1"


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, overwrite, truncate, behead, insert, remove, zeros, repeat, swap, inflate, inflate, header, zip_sizes,
    footer,
)  # fmt: skip


def mutated(data: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged copies, each with a name by which it can be made again."""
    for number in range(count):
        stream = random.Random(f"{seed}/{number}")
        chosen = [stream.choice(MUTATIONS) for _ in range(stream.choice((1, 1, 1, 2, 3)))]
        out = data
        for one in chosen:
            out = one(out, stream) if len(out) > 8 else out
        yield f"{number}: {', '.join(one.__name__ for one in chosen)}", out


def outcome(read: Callable[[Path], Any], path: Path, expected: str | None) -> tuple[str, str]:
    """What became of reading a file: read, refused, wrong (read, but not what was written), or an error."""
    from apfl.errors import UserError

    def hang(number: int, frame: Any) -> None:
        raise TimeoutError(f"still reading after {SECONDS} s")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        found = read(path)
    except UserError as error:
        said = str(error)
        return ("refused" if "\n" not in said and len(said) < 900 else "long"), said
    except BaseException:
        return "error", traceback.format_exc()
    finally:
        signal.alarm(0)
    return ("read", "") if expected is None or found in (expected, None) else ("wrong", str(found))


def main(reader: str, folder: str, seed: str, count: str) -> None:
    """Read damaged copies one after another and print what became of each."""
    from tests.helpers import readers

    read, exact = readers.READERS[reader]
    original = Path(folder) / "original"
    data, path = original.read_bytes(), readers.place(Path(folder), reader)
    path.write_bytes(data)
    expected = read(path)  # also loads every package that reading needs
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, damaged in [*readers.BOMBS.get(reader, lambda data: [])(data), *mutated(data, int(seed), int(count))]:
        path.write_bytes(damaged)
        if damaged == data:
            continue
        print(json.dumps([name, "started", ""]), flush=True)
        print(json.dumps([name, *outcome(read, path, expected if exact else None)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
