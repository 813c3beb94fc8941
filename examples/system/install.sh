#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs the settings and the system user of an imaginary service called greeter. Safe to run
# twice, it claims; test_installer.py holds it to that.
set -eu

mkdir -p /etc/greeter
echo 'greeting = hello' > /etc/greeter/greeter.conf
grep -q '^greeter:' /etc/passwd ||
    echo 'greeter:x:990:990:the greeter:/nonexistent:/usr/sbin/nologin' >> /etc/passwd
