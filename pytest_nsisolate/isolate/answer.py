# SPDX-License-Identifier: MIT
"""What a child has handed over as the answer of its function, read by the caller.

The child is not trusted (law 7): what it says is plain data, unless the call was made with
``trusted=True``; and what cannot be read is a lost answer, never another exception.
"""

from __future__ import annotations

from typing import Any

from pytest_nsisolate.errors import IsolatedLoss, NotPlainError
from pytest_nsisolate.kernel.originals import pickle
from pytest_nsisolate.wire import exceptions, values


def read(frame: dict[str, Any], name: str, *, trusted: bool) -> tuple[Any, BaseException | None]:
    """The function's value, or its exception: (the one or None, the other or None).

    :param frame: of the kind RESULT; empty if none has come.
    :param name: of the function, for the texts of errors.
    :param trusted: whether a pickle is read.
    """
    try:
        if not frame:
            return None, IsolatedLoss(name, "it has finished without an answer")
        if trusted and "pickle" in frame:
            found = pickle.loads(frame["pickle"])
            if "error" not in frame:
                return found, None
            found.add_note(exceptions.remake(frame["error"]).__notes__[0])
            return None, found
        if "error" in frame:
            return None, exceptions.remake(frame["error"])
        if "unfit" in frame:
            return None, NotPlainError(name, *map(str, frame["unfit"]))
        return values.unpack(frame["value"]), None
    except values.UnfitError as unfit:
        return None, NotPlainError(name, unfit.type_name, unfit.where, unfit.why)
    except Exception as error:  # what the child made up, or a class that pickle does not find
        return None, IsolatedLoss(name, f"its answer cannot be read ({error!r})")
