# SPDX-License-Identifier: MIT
"""Frames: each one whole and in order, or the stream is broken."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import threading
import time
from binascii import crc32
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.wire import frames as wire_frames
from pytest_nsisolate.wire import tagged_json
from pytest_nsisolate.wire.frames import Frame, FrameReader, FrameWriter, Kind

if TYPE_CHECKING:
    from types import FrameType

NONCE = b"12345678"
HEADER_SIZE = 21
DATA = st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=4)
FRAMES = st.lists(st.builds(Frame, st.sampled_from(Kind), DATA), max_size=5)


def raw(payload: bytes, *, kind: int = 2, nonce: bytes = NONCE, length: int | None = None) -> bytes:
    """A frame as anybody can build it, with a right checksum."""
    size = len(payload) if length is None else length
    head = b"nsi1" + nonce + struct.pack("!BI", kind, size)
    return head + struct.pack("!I", crc32(payload, crc32(head))) + payload


def stream(frames: list[Frame]) -> bytes:
    return b"".join(raw(tagged_json.encode(frame.data), kind=frame.kind) for frame in frames)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe of one page; closes what is still open."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            with contextlib.suppress(OSError):
                os.close(fd)


class Drain(threading.Thread):
    """Reads a pipe to its end, slowly if asked, and keeps the frames."""

    def __init__(self, fd: int, size: int = 65536) -> None:
        super().__init__(daemon=True)
        self.fd, self.size = fd, size
        self.reader = FrameReader(NONCE)
        self.frames: list[Frame] = []

    def run(self) -> None:
        while chunk := os.read(self.fd, self.size):
            self.frames += self.reader.feed(chunk)


def test_the_writer_writes_what_the_reader_reads() -> None:
    """Through a real pipe: kind and data arrive, tuples as tuples."""
    report: dict[str, object] = {"nodeid": "a::b", "location": ("a", 1, "b"), "longrepr": None}
    with pipe() as (reading, writing):
        FrameWriter(writing, NONCE).send(Kind.REPORT, report)
        reader = FrameReader(NONCE)

        frames = reader.feed(os.read(reading, 65536))

    assert (frames, reader.at_boundary) == ([Frame(Kind.REPORT, report)], True)


@settings(deadline=None)
@given(FRAMES, st.data())
def test_frames_arrive_however_the_stream_is_cut(frames: list[Frame], data: st.DataObject) -> None:
    """The pipe decides the sizes of the chunks, not the frames."""
    rest = stream(frames)
    reader = FrameReader(NONCE)
    arrived = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        arrived += reader.feed(rest[:size])
        rest = rest[size:]

    assert (arrived, reader.at_boundary) == (frames, True)


def test_a_cut_frame_is_no_frame_and_no_boundary() -> None:
    """At every length but the whole one."""
    whole = stream([Frame(Kind.DONE, {"alone": True})])
    for size in range(1, len(whole)):
        reader = FrameReader(NONCE)
        assert (reader.feed(whole[:size]), reader.at_boundary) == ([], False)


def test_every_flipped_bit_breaks_the_stream() -> None:
    """Or leaves it unfinished, when it made the length larger: in no case a frame comes out."""
    whole = stream([Frame(Kind.DONE, {"ran": ["setup", "call", "teardown"]})])
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        reader = FrameReader(NONCE)
        with contextlib.suppress(BrokenStream):
            assert reader.feed(bytes(flipped)) == []
        assert not reader.at_boundary


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"Fatal Python error: Segfault", "bytes that are no frame"),
        (raw(b"{}", nonce=b"87654321"), "a frame of another attempt"),
        (raw(b"{}", kind=0), "a frame of unknown kind 0"),
        (raw(b"{}", kind=255), "a frame of unknown kind 255"),
        (raw(b"", length=2**32 - 1), "a frame of 4294967295 bytes, 268435456 are allowed"),
        (raw(b"{}")[:-1] + b"]", "a REPORT frame with a wrong checksum"),
        (raw(b"[]"), "the data of a REPORT frame: not a dict with str keys"),
        (raw(b"null"), "the data of a REPORT frame: not a dict with str keys"),
        (raw(tagged_json.encode({1: 2})), "the data of a REPORT frame: not a dict with str keys"),
        (raw(b""), "the data of a REPORT frame: not valid tagged JSON"),
        (raw(b"{"), "the data of a REPORT frame: not valid tagged JSON"),
        (raw(b"[" * 5000), "the data of a REPORT frame: nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_breach_of_the_protocol_says_which_for_good(chunk: bytes, reason: str) -> None:
    """Nothing that comes later can mend a stream, not even an empty chunk."""
    good = stream([Frame(Kind.READY, {}), Frame(Kind.DONE, {})])
    reader = FrameReader(NONCE)
    assert len(reader.feed(good)) == 2

    reasons = []
    for piece in (good + chunk, good, b""):
        with pytest.raises(BrokenStream) as caught:
            reader.feed(piece)
        reasons.append(caught.value.reason)

    assert reasons == [reason] * 3
    assert not reader.at_boundary


def test_frames_before_the_breach_can_be_salvaged() -> None:
    """A report that arrived whole is worth showing, though the item fails."""
    frame = Frame(Kind.REPORT, {"when": "setup"})
    reader = FrameReader(NONCE)

    with pytest.raises(BrokenStream):
        reader.feed(stream([frame]) + b"x" * 100)

    assert reader.salvaged == [frame]


def test_bytes_are_limited_per_frame_and_altogether() -> None:
    """A frame that announces too much is refused before it comes."""
    frame = raw(tagged_json.encode({"a": "x" * 100}))
    reader = FrameReader(NONCE, max_frame=200, max_total=300)
    assert len(reader.feed(frame) + reader.feed(frame)) == 2
    with pytest.raises(BrokenStream, match="more bytes than one child may send"):
        reader.feed(frame)

    with pytest.raises(BrokenStream, match="a frame of 108 bytes, 100 are allowed"):
        FrameReader(NONCE, max_frame=100).feed(frame[:HEADER_SIZE])


def test_what_a_passing_test_sends_is_read_like_anything_else() -> None:
    """These frames are read once and for all: what becomes of one does not change the next."""
    payloads = (wire_frames.NOTHING, *wire_frames.PASSED.values(), wire_frames.PLAIN_DONE)
    for payload in payloads:
        reader = FrameReader(NONCE)
        (first,) = reader.feed(raw(payload))
        first.data["more"] = 1
        (second,) = reader.feed(raw(payload))
        assert second.data == tagged_json.parse(payload)


def test_what_a_passing_test_sends_counts_against_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A child that repeats it for ever is stopped: each frame takes the runner's memory."""
    payload = wire_frames.PLAIN_DONE
    weight = tagged_json.weigh(payload, tagged_json.MAX_WEIGHT)
    monkeypatch.setattr(wire_frames, "MAX_STREAM_WEIGHT", 2 * weight)
    reader = FrameReader(NONCE)

    assert len(reader.feed(2 * raw(payload))) == 2
    with pytest.raises(BrokenStream):
        reader.feed(raw(payload))


def test_values_are_limited_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame alone would pass; kept together they would fill the runner's memory."""
    monkeypatch.setattr(wire_frames, "MAX_STREAM_WEIGHT", 5000)
    frame = raw(tagged_json.encode({"a": [0] * 2000}))
    reader = FrameReader(NONCE)
    reader.feed(frame + frame)

    with pytest.raises(BrokenStream, match="too many values"):
        reader.feed(frame)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80) | FRAMES.map(stream), max_size=6))
def test_garbage_between_frames_never_gets_out_as_anything_else(chunks: list[bytes]) -> None:
    """Frames, a pending rest or BrokenStream: no other exception."""
    reader = FrameReader(NONCE)
    with contextlib.suppress(BrokenStream):
        for chunk in chunks:
            reader.feed(chunk)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('{}[]",:$v\\0', max_size=99).map(str.encode))
def test_a_forged_payload_with_a_right_checksum_never_gets_out_as_anything_else(
    payload: bytes,
) -> None:
    """The nonce and the checksum keep accidents out, not a child that wants to lie."""
    with contextlib.suppress(BrokenStream):
        (frame,) = FrameReader(NONCE).feed(raw(payload))
        assert type(frame.data) is dict


def test_fifty_megabytes_are_read_in_linear_time() -> None:
    """In chunks of a pipe's size; a reader that copies its buffer needs minutes."""
    text = "x" * 50_000_000
    chunk = raw(tagged_json.encode({"text": text}))
    reader = FrameReader(NONCE)
    frames: list[Frame] = []
    start = time.process_time()

    for offset in range(0, len(chunk), 65536):
        frames += reader.feed(chunk[offset : offset + 65536])

    assert (frames[0].data["text"] == text, reader.at_boundary) == (True, True)
    assert time.process_time() - start < 5


def test_many_small_frames_in_one_chunk_are_read_in_linear_time() -> None:
    """A reader that moves the rest of its buffer after each frame needs minutes."""
    chunk = raw(b"{}") * 200_000
    start = time.process_time()

    assert len(FrameReader(NONCE).feed(chunk)) == 200_000
    assert time.process_time() - start < 20


def test_a_frame_larger_than_the_pipe_is_written_whole() -> None:
    """write(2) takes a part of it at a time."""
    with pipe() as (reading, writing):
        drain = Drain(reading, 1000)
        drain.start()
        FrameWriter(writing, NONCE).send(Kind.LOG, {"text": "é" * 300_000})
        os.close(writing)
        drain.join(20)

    assert drain.frames == [Frame(Kind.LOG, {"text": "é" * 300_000})]


def test_threads_do_not_mix_their_frames() -> None:
    """A log handler writes from whatever thread logs."""
    with pipe() as (reading, writing):
        drain = Drain(reading)
        drain.start()
        writer = FrameWriter(writing, NONCE)

        def send(name: int) -> None:
            for _ in range(20):
                writer.send(Kind.LOG, {"name": name, "text": str(name) * 100_000})

        threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        os.close(writing)
        drain.join(20)

    names = [frame.data["name"] for frame in drain.frames]
    assert sorted(names, key=str) == [name for name in range(4) for _ in range(20)]


@contextlib.contextmanager
def alarm(handler: signal._HANDLER) -> Iterator[None]:
    """A signal 50 ms from now; whatever was set before is set again."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_exception_in_mid_frame_costs_no_frame() -> None:
    """The next send finishes the interrupted frame first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with pipe() as (reading, writing):
        writer = FrameWriter(writing, NONCE)
        with alarm(interrupt), pytest.raises(KeyboardInterrupt):
            writer.send(Kind.LOG, {"text": "x" * 300_000})  # nobody reads: it blocks
        drain = Drain(reading)
        drain.start()
        writer.send(Kind.DONE, {})
        os.close(writing)
        drain.join(20)

    assert [frame.kind for frame in drain.frames] == [Kind.LOG, Kind.DONE]


def test_a_signal_handler_may_send_in_mid_frame() -> None:
    """Its frame follows the one that it interrupted."""
    with pipe() as (reading, writing):
        writer = FrameWriter(writing, NONCE)
        drain = Drain(reading)

        def pause(number: int, frame: FrameType | None) -> None:
            writer.send(Kind.PAUSE, {})
            drain.start()

        with alarm(pause):
            writer.send(Kind.LOG, {"text": "x" * 300_000})
        os.close(writing)
        drain.join(20)

    assert [frame.kind for frame in drain.frames] == [Kind.LOG, Kind.PAUSE]


def test_a_frame_beyond_the_limit_is_refused_with_nothing_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stream stays whole, so the child can still say what happened."""
    monkeypatch.setattr(wire_frames, "MAX_FRAME", 1000)
    with pipe() as (reading, writing):
        writer = FrameWriter(writing, NONCE)
        with pytest.raises(OSError) as caught:
            writer.send(Kind.REPORT, {"text": "x" * 1000})
        writer.send(Kind.DONE, {})
        frames = FrameReader(NONCE).feed(os.read(reading, 65536))

    assert (caught.value.errno, frames) == (errno.EMSGSIZE, [Frame(Kind.DONE, {})])


def test_a_runner_that_is_gone_is_an_os_error() -> None:
    """EPIPE; Python ignores the signal."""
    with pipe() as (reading, writing):
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            FrameWriter(writing, NONCE).send(Kind.DONE, {})


def test_an_abandoned_writer_writes_nothing() -> None:
    """Its number may belong to another file in the meantime, and its lock to a lost thread."""
    with pipe() as (reading, writing):
        writer = FrameWriter(writing, NONCE)
        holder = threading.Thread(target=writer._lock.acquire)
        holder.start()
        holder.join()
        writer.abandon()
        with pytest.raises(OSError) as caught:
            writer.send(Kind.DONE, {})
        os.close(writing)

        assert (caught.value.errno, os.read(reading, 1)) == (errno.EBADF, b"")


def test_a_nonce_has_eight_bytes() -> None:
    """Struct would pad or cut it without a word."""
    with pytest.raises(ValueError, match="8 bytes, not 3"):
        FrameReader(b"abc")
    with pytest.raises(ValueError, match="8 bytes, not 9"):
        FrameWriter(1, b"123456789")
