# SPDX-License-Identifier: MIT
"""Code in pytest's own process: the hooks, the phases of an isolated test, its reports."""

from __future__ import annotations
