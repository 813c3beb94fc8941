# SPDX-License-Identifier: MIT
"""The items whose turn is still to come, as far as that is known.

A session has a list of them. A worker of pytest-xdist gets its own from the controller, a few at a
time, and another worker may take some of them away again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest


class Upcoming:
    """What comes after the current item, in order.

    :param depth: so many items are looked at, at most.
    """

    def __init__(self, session: pytest.Session, depth: int) -> None:
        self._session = session
        self._depth = depth
        self._places = {item: at for at, item in enumerate(session.items)}
        self._current: pytest.Item | None = None
        self._items: Sequence[pytest.Item] = ()

    def __iter__(self) -> Iterator[pytest.Item]:
        return iter(self._items)

    def come_to(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """It is this item's turn, and pytest says what it runs next."""
        self._current = item
        self._items = self._after(item, nextitem)

    def behind(self, item: pytest.Item) -> pytest.Item | None:
        """What comes after the current item or one of these; None if that is not known."""
        at = 0 if item is self._current else self._items.index(item) + 1
        if at < len(self._items):
            return self._items[at]
        if item is self._current:
            return None
        items, place = self._session.items, self._places[item] + 1
        return items[place] if place < len(items) else None

    def _after(self, item: pytest.Item, nextitem: pytest.Item | None) -> Sequence[pytest.Item]:
        if nextitem is None:
            return ()
        items = self._session.items
        at = self._places.get(item, len(items))
        if not hasattr(self._session.config, "workerinput"):
            if self._places.get(nextitem, at + 1) <= at:
                return ()  # a round of a loop that repeats: it has a state of its own (stress)
            known = at + 1 < len(items) and items[at + 1] is nextitem
            return items[at + 1 : at + 1 + self._depth] if known else (nextitem,)
        return (nextitem, *(items[index] for index in self._queued()))

    def _queued(self) -> list[int]:
        """In a worker of pytest-xdist: what its controller has sent besides the next one."""
        for plugin in self._session.config.pluginmanager.get_plugins():
            queue: Any = getattr(plugin, "torun", None)
            if hasattr(queue, "lock"):
                with queue.lock() as entries:
                    found = [*islice(entries, self._depth)]
                return [entry for entry in found if isinstance(entry, int)]
        return []
