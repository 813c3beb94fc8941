# SPDX-License-Identifier: MIT
"""What the report of a failed test says about the world in which it failed.

``at_failure`` decides, and asks in the child; ``refusals`` and ``denials`` read the exception,
``parts`` and ``limits`` the kernel, and ``hints`` and ``unreaped`` know what isolation has to do
with it. ``listeners`` is the runner's side of a refused connection, ``outside`` its look at a test
that cannot answer, and ``section`` puts all of it on the report. Only a failure imports more than
``at_failure`` and what reads exceptions.
"""
