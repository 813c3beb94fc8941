#!/bin/sh
# The tests in a container of Podman, with or without root.
set -eu
podman build --tag tests .
podman run --rm \
    --security-opt seccomp=unconfined \
    --security-opt unmask=ALL \
    tests
