# SPDX-License-Identifier: MIT
"""All that crosses between processes: the trust boundary. What comes in is data of known shape."""

from __future__ import annotations
