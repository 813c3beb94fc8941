# SPDX-License-Identifier: MIT
"""The commands of ``nsisolate``, and what they do at a terminal.

==============================  =================================================================
:mod:`.run`, :mod:`.session`    a command as PID 1 of fresh namespaces
:mod:`.enter`                   a command in the namespaces of a test that is held open
:mod:`.doctor`                  what this host gives; its report is in :mod:`.doctor_report`
:mod:`.completion`              scripts that complete all of these in a shell
:mod:`.held`                    those tests
:mod:`.relay`                   the wire between the user's terminal and a pseudo-terminal
:mod:`.terminal`                the user's terminal, and signals that can be polled for
:mod:`.command`                 the last steps of a process before it becomes the command
==============================  =================================================================
"""
