# SPDX-License-Identifier: MIT
"""Calls by the fixture ``isolate``: a function in a fresh child, from inside any test.

==========================================  ================================================
:mod:`.fixture`, :mod:`.task`, :mod:`.box`  what the user holds, and the caller's side of a call
:mod:`.per_process`, :mod:`.unawaited`      whose calls these are, and who ends them
:mod:`.awaiting`                            waiting for a child in an event loop
:mod:`.call`                                the child's side
==========================================  ================================================
"""
