# SPDX-License-Identifier: MIT
"""A runner with a second thread, as a worker of pytest-xdist has: each test takes the long way."""

from __future__ import annotations

import threading

threading.Thread(target=threading.Event().wait, name="bench", daemon=True).start()
