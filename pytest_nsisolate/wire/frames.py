# SPDX-License-Identifier: MIT
"""Frames on the pipe from a child to the runner.

Fact: a pipe is a stream of bytes. Any process that holds the writing end can write into it, a death
can cut it anywhere, and a signal handler or a second thread may want to write in mid-frame.

Consequence: what arrives proves nothing by itself. A passed test is a claim of the child, and
only an unbroken stream carries claims.

What we do: each frame has a magic, the nonce of the attempt, its kind, its length and a checksum
over all of it; the reader takes bounded sizes in linear time and answers anything else with
:class:`BrokenStream`, for good. The writer finishes a frame that an exception interrupted before
it starts the next one.

What still fails: a child that reads the nonce from its own memory can forge frames. It can claim
what it likes about its own test, and nothing about any other.
"""

from __future__ import annotations

import enum
import errno
import struct
from binascii import crc32
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.kernel.originals import os, threading
from pytest_nsisolate.wire import tagged_json
from pytest_nsisolate.wire.steps import UNNOTED, Steps

MAX_FRAME: Final = 256 * 1024**2
"""Bytes that the payload of one frame may have."""
MAX_TOTAL: Final = 1024**3
"""Bytes that one child may send altogether."""
MAX_STREAM_WEIGHT: Final = 4 * tagged_json.MAX_WEIGHT
"""Brackets and commas that one child may send altogether (what bounds the reader's memory)."""
NONCE_SIZE: Final = 8
"""Bytes of the nonce of an attempt."""

_MAGIC: Final = b"nsi1"
_HEAD: Final = struct.Struct(f"!4s{NONCE_SIZE}sBI")
_CHECKSUM: Final = struct.Struct("!I")
_OVERHEAD: Final = _HEAD.size + _CHECKSUM.size


class Kind(enum.IntEnum):
    """What a frame says."""

    READY = 1
    REPORT = 2
    WARNING = 3
    EXIT = 4
    REFUSED = 5
    COVERAGE = 7
    DONE = 8
    LOG = 9
    PAUSE = 10
    RESUME = 11
    BROKEN = 12
    CARRIED = 13
    TURN = 14
    RESULT = 15
    VIEW = 16
    OUTPUT = 17
    ENDING = 18
    FAULTS = 19
    TIMES = 20
    REACH = 21
    TTY = 22


_KINDS: Final = {int(kind): kind for kind in Kind}

#: What a frame carries that says only of what kind it is.
NOTHING: Final = b"{}"
#: The reports of phases about which there is nothing to say but that they have passed.
PASSED: Final = {
    when: b'{"passed": "%s"}' % when.encode() for when in ("setup", "call", "teardown")
}
#: The completion record of nearly every test.
PLAIN_DONE: Final = b'{"phases": ["setup", "call", "teardown"], "alone": true}'

#: What most tests send, and nothing else; with its weight. It is read once: after a clone each page
#: that a parser touches is one to copy.
_READ: Final[dict[bytes, tuple[int, Any]]] = {
    payload: (tagged_json.weigh(payload, tagged_json.MAX_WEIGHT), tagged_json.parse(payload))
    for payload in (NOTHING, *PASSED.values(), PLAIN_DONE)
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a child.

    :param kind: what it says.
    :param data: the plain values that go with it; of known types, but otherwise unchecked.
    """

    kind: Kind
    data: dict[str, object]


class FrameWriter:
    """The child's end. It does not own the descriptor: the code that opened it closes it.

    :param fd: the writing end of the pipe, blocking.
    :param nonce: the nonce of the attempt, :data:`NONCE_SIZE` bytes.
    :param steps: notes when each step on the way in has ended; None: there is no trace.
    """

    __slots__ = ("_draining", "_fd", "_lock", "_nonce", "_unsent", "note", "steps")

    def __init__(self, fd: int, nonce: bytes, steps: Steps | None = None) -> None:
        _check_nonce(nonce)
        self._fd = fd
        self._nonce = nonce
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._draining = False
        self._lock = threading.RLock()
        self.steps = steps
        #: A step on the way in is over.
        self.note = UNNOTED if steps is None else steps.note

    def send_ready(self) -> None:
        """Everything stands; with the steps that have led there, if they were noted."""
        if self.steps is None:
            self.send_encoded(Kind.READY, NOTHING)
        else:
            # What :meth:`send` writes, without its look at each value: that costs fifty pages.
            self.send_encoded(Kind.READY, b'{"steps": "%s"}' % self.steps.text())

    def send(self, kind: Kind, data: dict[str, object]) -> None:
        """Write one frame, all of it, however long that takes. Any thread may call.

        From a signal handler that interrupted another ``send`` of its thread, the frame is
        queued, and written by the interrupted call. A frame that an exception interrupts is
        finished by the next ``send``.

        :raises OSError: from write(2); EMSGSIZE, with nothing written, beyond MAX_FRAME.
        """
        self.send_encoded(kind, tagged_json.encode(data))

    def send_encoded(self, kind: Kind, payload: bytes) -> None:
        """As :meth:`send`, with data that :func:`tagged.encode` has written, or would have."""
        frame = self._build(kind, payload)
        with self._lock:
            self._unsent.append((memoryview(frame), []))
            # A loop, for the handler that comes when the drain has ended but not yet said so.
            while self._unsent and not self._draining:
                self._drain()

    @property
    def descriptor(self) -> int:
        """The writing end; -1 when it has been abandoned."""
        return self._fd

    def _drain(self) -> None:
        self._draining = True
        try:
            while self._unsent:
                frame, sent = self._unsent[0]
                if rest := frame[sum(sent) :]:
                    # One call in C. Handlers run, and raise, between a call and the use of its
                    # result: after ``n = write(...)`` what was written would not be known.
                    sent.extend(map(os.write, (self._fd,), (rest,)))
                else:
                    self._unsent.popleft()
        finally:
            self._draining = False

    def abandon(self) -> int:
        """Make this copy of the writer mute, in a process that the test has forked.

        Takes no lock, since the fork may have copied a held one. ``send`` raises EBADF afterwards.

        :returns: the descriptor, for its owner to get rid of; -1 if it has been abandoned before.
        """
        abandoned, self._fd = self._fd, -1
        self._unsent = deque()
        self._draining = False
        self._lock = threading.RLock()
        return abandoned

    def _build(self, kind: Kind, payload: bytes) -> bytes:
        if len(payload) > MAX_FRAME:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        head = _HEAD.pack(_MAGIC, self._nonce, kind, len(payload))
        return b"".join((head, _CHECKSUM.pack(crc32(payload, crc32(head))), payload))


class FrameReader:
    """The runner's end: bytes in as they come, frames out. Once broken, it stays broken.

    :param nonce: the nonce of the attempt, :data:`NONCE_SIZE` bytes.
    :param max_frame: bytes that a frame's payload may have.
    :param max_total: bytes that may come altogether.
    """

    def __init__(
        self, nonce: bytes, *, max_frame: int = MAX_FRAME, max_total: int = MAX_TOTAL
    ) -> None:
        _check_nonce(nonce)
        self._nonce = nonce
        self._max_frame = max_frame
        self._bytes_left = max_total
        self._weight_left = MAX_STREAM_WEIGHT
        self._buffer = bytearray()
        self._offset = 0
        self._reason: str | None = None
        self.salvaged: list[Frame] = []
        """The frames that the chunk which broke the stream held before the damage."""

    @property
    def at_boundary(self) -> bool:
        """False when an unfinished frame is pending, or the stream is broken."""
        return self._reason is None and not self._buffer

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes of the stream.

        :returns: the frames that are complete now, in order.
        :raises BrokenStream: for a breach of the protocol, and at every call after it. Frames
            that this chunk had completed before the breach are in :attr:`salvaged`.
        """
        if self._reason is not None:
            raise BrokenStream(self._reason)
        frames: list[Frame] = []
        try:
            self._bytes_left -= len(chunk)
            if self._bytes_left < 0:
                raise BrokenStream("more bytes than one child may send")
            self._buffer += chunk
            while (frame := self._take()) is not None:
                frames.append(frame)
        except BrokenStream as error:
            self._reason = error.reason
            self.salvaged = frames
            self._buffer = bytearray()
            raise
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        return frames

    def _take(self) -> Frame | None:
        """The next frame of the buffer, or None until more bytes have come."""
        body = self._offset + _OVERHEAD
        if len(self._buffer) < body:
            return None
        magic, nonce, number, length = _HEAD.unpack_from(self._buffer, self._offset)
        kind = _KINDS.get(number)
        if magic != _MAGIC:
            raise BrokenStream("bytes that are no frame")
        if nonce != self._nonce:
            raise BrokenStream("a frame of another attempt")
        if kind is None:
            raise BrokenStream(f"a frame of unknown kind {number}")
        if length > self._max_frame:
            raise BrokenStream(f"a frame of {length} bytes, {self._max_frame} are allowed")
        end = body + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            head = bytes(view[self._offset : body - _CHECKSUM.size])
            payload = bytes(view[body:end])
        (checksum,) = _CHECKSUM.unpack_from(self._buffer, body - _CHECKSUM.size)
        if checksum != crc32(payload, crc32(head)):
            raise BrokenStream(f"a {kind.name} frame with a wrong checksum")
        self._offset = end
        return Frame(kind, self._read(kind, payload))

    def _read(self, kind: Kind, payload: bytes) -> dict[str, object]:
        known = _READ.get(payload)
        if known is not None and known[0] <= self._weight_left:
            self._weight_left -= known[0]
            return {**known[1]}
        try:
            weight = tagged_json.weigh(payload, min(self._weight_left, tagged_json.MAX_WEIGHT))
            data = tagged_json.parse(payload)
        except BrokenStream as error:
            reason = error.reason
        else:
            self._weight_left -= weight
            if type(data) is dict and all(type(key) is str for key in data):
                return data
            reason = "not a dict with str keys"
        raise BrokenStream(f"the data of a {kind.name} frame: {reason}")


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
