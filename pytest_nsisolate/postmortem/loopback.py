# SPDX-License-Identifier: MIT
"""A network in which nothing was changed, in one line.

Fact: what asks the kernel over netlink takes more than a tenth of a second to import, in each test
that fails, and most tests leave their network as it was.
Consequence: a network that has the loopback device only, with its own addresses and no route, is
told from files of ``/proc/net`` (proc_pid_net(5)). Any other is left to the view.
"""

from __future__ import annotations
