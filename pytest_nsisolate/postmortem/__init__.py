# SPDX-License-Identifier: MIT
"""What a failed test's report says about the world in which it failed.

``inquest`` decides, and asks in the child; ``refusals`` reads the exception, ``world`` and
``limits`` the kernel. ``listeners`` is the runner's side of a refused connection, and ``section``
puts all of it on the report. Only a failure imports more than ``inquest``.
"""
