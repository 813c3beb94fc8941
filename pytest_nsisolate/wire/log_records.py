# SPDX-License-Identifier: MIT
"""Log records of a child, handled by the handlers of its caller.

Fact: what keeps log records of a test, ``caplog`` and the "Captured log" section, keeps them in
memory, which the child has a copy of; a log file or a terminal would be written from two sides.

Consequence: each handler that the child has inherited passes the record on, and the caller gives it
to the original of that handler, once. Handlers that the function adds itself are its own.

What still fails: a record's ``exc_info`` crosses as its text, other attributes and arguments if
they are plain data, else as the finished message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging import Formatter, makeLogRecord
from typing import Any

from pytest_nsisolate.wire import values

#: What every record has, and of which types; another type would break formatters.
_FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "levelno": (int,),
    "levelname": (str,),
    "pathname": (str,),
    "filename": (str,),
    "module": (str,),
    "lineno": (int,),
    "funcName": (str, type(None)),
    "created": (float,),
    "msecs": (float,),
    "relativeCreated": (float,),
    "thread": (int, type(None)),
    "threadName": (str, type(None)),
    "processName": (str, type(None)),
    "process": (int, type(None)),
    "exc_text": (str, type(None)),
    "stack_info": (str, type(None)),
}


def handlers() -> list[logging.Handler]:
    """In the caller, before the fork: every handler of a logger, in the order of both sides."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = {
        id(handler): handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    }
    return list(found.values())


def divert(inherited: list[logging.Handler], send: Callable[[dict[str, object]], None]) -> None:
    """In the child: these handlers pass records on instead of handling them."""
    for at, handler in enumerate(inherited):
        if not isinstance(handler, logging.NullHandler):
            handler.createLock()  # another thread may have held it at the fork
            vars(handler)["handle"] = _forward(handler, at, send)


def restore(inherited: list[logging.Handler]) -> None:
    """In a process that the function has forked: they handle records themselves again."""
    for handler in inherited:
        vars(handler).pop("handle", None)


def _forward(
    handler: logging.Handler, at: int, send: Callable[[dict[str, object]], None]
) -> Callable[[logging.LogRecord], bool]:
    def handle(record: logging.LogRecord) -> bool:
        try:
            record.getMessage()
        except Exception:  # pytest's handlers raise it, others print it
            handler.handleError(record)
        else:
            send({"handler": at, "record": _describe(record)})
        return True

    return handle


def _describe(record: logging.LogRecord) -> dict[str, object]:
    found = dict(vars(record))
    if record.exc_info and not record.exc_text:
        found["exc_text"] = Formatter().formatException(record.exc_info)
    found.pop("exc_info", None)
    plain: dict[str, object] = {}
    for name, value in found.items():
        try:
            plain[name] = values.pack(value, name)
        except values.UnfitError:
            continue
    if "args" not in plain or type(record.msg) is not str:
        plain["msg"], plain["args"] = str(record.getMessage()), None
    return plain


def replay(data: dict[str, Any], originals: list[logging.Handler]) -> None:
    """In the caller: give the record to the handler that would have had it.

    :raises ValueError: for what :func:`divert` does not send.
    """
    at, fields = data.get("handler"), data.get("record")
    if type(at) is not int or not 0 <= at < len(originals) or not isinstance(fields, dict):
        raise ValueError("a log record of the wrong shape")
    try:
        plain = {str(name): values.unpack(value) for name, value in fields.items()}
    except values.UnfitError as unfit:
        raise ValueError(str(unfit)) from None
    record = makeLogRecord({})
    for name, value in plain.items():
        if name in _FIELDS:
            if not isinstance(value, _FIELDS[name]):
                raise ValueError(f"a log record with {name} of the wrong type")
        elif hasattr(logging.LogRecord, name):
            raise ValueError(f"a log record with {name}")
        setattr(record, name, value)
    if type(record.msg) is not str:
        raise ValueError("a log record without a message")
    originals[at].handle(record)
