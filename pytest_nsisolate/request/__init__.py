# SPDX-License-Identifier: MIT
"""What a test asks for: markers, options and ini keys become one request. No process yet."""

from __future__ import annotations
