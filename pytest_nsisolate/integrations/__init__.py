# SPDX-License-Identifier: MIT
"""What must follow the releases of others: pytest, coverage, single plugins."""

from __future__ import annotations
