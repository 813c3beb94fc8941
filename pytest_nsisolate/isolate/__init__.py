# SPDX-License-Identifier: MIT
"""Calls by the fixture ``isolate``: a function in a fresh child, from inside any test.

============================================  ================================================
:mod:`.isolate`, :mod:`.tasks`, :mod:`.boxes`  what the user holds
:mod:`.home`, :mod:`.custody`                  whose calls these are, and who ends them
:mod:`.spawning`, :mod:`.waiting`              the caller's side of one child
:mod:`.body`, :mod:`.log_records`              the child's side
:mod:`.values`, :mod:`.thrown`                 what crosses
============================================  ================================================
"""
