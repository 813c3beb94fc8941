# SPDX-License-Identifier: MIT
"""Code in the test's own process."""

from __future__ import annotations
