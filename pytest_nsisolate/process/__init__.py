# SPDX-License-Identifier: MIT
"""One process in its namespaces, from plan to reaping."""

from __future__ import annotations
