# SPDX-License-Identifier: MIT
"""Steps of a way in: noted where there is a trace, and read from one who is not trusted."""

from __future__ import annotations

import os
import struct
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_nsisolate.wire import steps
from pytest_nsisolate.wire.frames import NOTHING, Frame, FrameReader, FrameWriter, Kind
from pytest_nsisolate.wire.steps import UNNOTED, Steps

NONCE = b"12345678"


@contextmanager
def said(noted: Steps | None) -> Iterator[tuple[FrameWriter, list[Frame]]]:
    """A writer, and what has come of it when the block is over."""
    ours, theirs = os.pipe()
    frames: list[Frame] = []
    try:
        yield FrameWriter(theirs, NONCE, noted), frames
        frames += FrameReader(NONCE).feed(os.read(ours, 1 << 16))
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_child_without_a_trace_notes_nothing() -> None:
    """And says no more than that it is ready; no clock is asked."""
    with said(None) as (writer, frames):
        assert writer.note is UNNOTED
        writer.note("mount proc")
        writer.send_ready()
    assert frames == [Frame(Kind.READY, {})]
    assert NOTHING == b"{}"


def test_each_step_has_its_end() -> None:
    """In the order in which they were noted."""
    noted = Steps()
    with said(noted) as (writer, frames):
        writer.note("clone")
        writer.note("mount proc")
        writer.send_ready()
    (ready,) = frames
    assert ready.kind is Kind.READY
    found = [*steps.read(ready.data["steps"])]
    assert [name for name, _ in found] == ["clone", "mount proc"]
    assert found[0][1] <= found[1][1]


def packed(names: str, *ends: float) -> str:
    """As a child says it."""
    return f"{names}|{b2a_base64(struct.pack(f'!{len(ends)}d', *ends), newline=False).decode()}"


@pytest.mark.parametrize(
    "lie",
    [
        *(None, 7, "", "steps", "|", "clone|", "clone|x", "clone|\N{SNOWMAN}", "clone|AAAA"),
        *([packed("clone", 1.0)], {"steps": packed("clone", 1.0)}),
        *(packed("clone", float("nan")), packed("clone", float("inf"))),
    ],
)
def test_what_is_no_list_of_steps_is_none(lie: object) -> None:
    """A hostile child costs its own spans, and nothing else."""
    assert not [*steps.read(lie)]


def test_a_name_breaks_no_frame() -> None:
    """Whatever it has in it."""
    noted = Steps()
    with said(noted) as (writer, frames):
        writer.note('keep "/mnt/\\x \N{SNOWMAN}"')
        writer.send_ready()
    ((name, _),) = steps.read(frames[0].data["steps"])
    assert name == "keep /mnt/x ?"


def test_names_and_ends_belong_together() -> None:
    """Where there are more of one kind, the rest is nothing."""
    assert [*steps.read(packed("a;b", 1.0))] == [("a", 1.0)]
    assert [*steps.read(packed("a", 1.0, 2.0))] == [("a", 1.0)]


def test_there_is_a_bound() -> None:
    """However many it says."""
    assert len([*steps.read(packed("a;" * 10_000, *([1.0] * 10_000)))]) <= 100
