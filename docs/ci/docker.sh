#!/bin/sh
# The tests in a container of Docker.
# On Ubuntu 23.10 and newer its kernel has a say in containers too; once, on the host:
#   sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
set -eu
docker build --tag tests .
docker run --rm \
    --security-opt seccomp=unconfined \
    --security-opt apparmor=unconfined \
    --security-opt systempaths=unconfined \
    tests
