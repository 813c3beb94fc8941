# SPDX-License-Identifier: MIT
"""Assertions on the world that PID 1 sees, a module for each subject."""

from __future__ import annotations
