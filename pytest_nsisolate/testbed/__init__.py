# SPDX-License-Identifier: MIT
"""Several hosts in one test, and the wires between them; see ``docs/design/testbed.md``.

====================================  ===========================================================
:mod:`.bed`, :mod:`.network`          what the fixture gives, and segments with their addresses
:mod:`.host`, :mod:`.program`         hosts, routers, and what runs on them
:mod:`.fabric`                        the cables and switches, in a network of their own
:mod:`.routing`                       which routes each host has
:mod:`.wire`, :mod:`.impairment`      a wire, and what it does to packets
:mod:`.relay`, :mod:`.relay_loop`     the process that does it
:mod:`.capture`, :mod:`.packets`      what passed a wire, and :mod:`.pcapng` for a file of it
:mod:`.tenure`, :mod:`.shared`        whose it is, and one for all tests of a module
:mod:`.state`                         what a failed test's report says of all that
====================================  ===========================================================
"""

from __future__ import annotations
