#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Run a command in Debian sid, which has the newest Pythons, with this checkout at its own place:
#
#     sudo tools/in_sid.sh /var/tmp/sid env PYTHON=python3.14 ./check
#
# The folder is made once, by debootstrap (300 MB, a minute), and is yours to remove. It is entered
# by pivot_root and not by chroot, in which the kernel makes no user namespace. The environments
# are those of the checkout, so give it one of its own: git worktree add /var/tmp/nsisolate.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    printf 'in_sid.sh: %s\n' "$1" >&2
    exit 1
}

(($# >= 2)) || fail "usage: in_sid.sh FOLDER COMMAND [ARGUMENT ...]"
((EUID == 0)) || fail "only root can make and enter such a folder."
root=$1
shift

if [[ ! -e $root/.complete ]]; then
    command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
    packages=python3.14,python3.14-venv,python3.14-dev,python3.15,python3.15-venv,python3.15-dev
    packages+=,gcc,libc6-dev,libcap-dev,procps,iproute2,libcap2-bin,busybox-static,bubblewrap
    debootstrap --variant=minbase --include="$packages,ca-certificates,git" sid "$root" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    # What a suite starts by that name.
    ln -s python3.14 "$root/usr/bin/python3"
    touch "$root/.complete"
fi

# pip's settings and the certificates are the host's.
for path in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [[ ! -e $path ]] || install -D -m 644 "$path" "$root$path"
done

export root checkout
exec unshare --mount --propagation private bash -euc '
    mount --rbind "$root" "$root"
    for path in /proc /sys /dev /tmp "$checkout"; do
        mkdir -p "$root$path"
        mount --rbind "$path" "$root$path"
    done
    cd "$root"
    mkdir -p .outside
    pivot_root . .outside
    cd /
    umount -l /.outside
    cd "$checkout"
    exec "$@"' in_sid "$@"
