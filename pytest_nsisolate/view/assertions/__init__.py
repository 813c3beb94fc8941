# SPDX-License-Identifier: MIT
"""What may be asserted of the world that PID 1 sees, a module for each subject."""

from __future__ import annotations
