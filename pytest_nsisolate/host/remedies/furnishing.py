# SPDX-License-Identifier: MIT
"""Refusals inside: what makes a namespace usable (user_namespaces(7), mount(2), netdevice(7)), what
a marker grants or takes away, and another root (pivot_root(2)).
"""

from __future__ import annotations

from errno import (
    EACCES,
    EAFNOSUPPORT,
    EBUSY,
    EDQUOT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOTBLK,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
    ERANGE,
    EROFS,
)
from typing import Final

from pytest_nsisolate.host import CAP_NET_ADMIN, CAP_SETFCAP, CAP_SYS_ADMIN, CAP_SYS_TIME, facts
from pytest_nsisolate.host.remedies.table import (
    APPARMOR_CAUSE,
    APPARMOR_REMEDY,
    FILTER,
    REPORT,
    UNCONFINE,
    UNMASK,
    Case,
    Row,
    always,
    apparmor,
    lacks,
)

_ID_MAP: Final = r"write (uid_map|gid_map|setgroups)"
_MOUNTING: Final = r"mount |make /|move (sysfs|/)|fill /|bind /|keep /"
_NO_ROOT: Final = "let the test have a user namespace (no user=False)"


def _root_without_setfcap(case: Case) -> bool:
    """Since Linux 5.12 only CAP_SETFCAP may map uid 0 (user_namespaces(7))."""
    return case.host.euid == 0 and not case.host.holds(CAP_SETFCAP)


def _proc_masked(case: Case) -> bool:
    covered = facts.covers_below("/proc") or facts.is_read_only("/proc")
    return case.user != "none" and bool(covered)


def _sys_masked(case: Case) -> bool:
    return case.user != "none" and bool(facts.covers_below("/sys"))


def _docker_apparmor(_: Case) -> bool:
    label = facts.security_label()
    return label.endswith(("(enforce)", "(kill)"))


ID_MAP: Final = (
    Row(
        _ID_MAP,
        (EPERM,),
        _root_without_setfcap,
        "the runner is uid 0 without CAP_SETFCAP, and since Linux 5.12 uid 0 is not mapped into a"
        " user namespace without it",
        "docker run --cap-add SETFCAP (Kubernetes: securityContext: {{capabilities: {{add:"
        " [SETFCAP]}}}}), or run pytest as an ordinary user",
    ),
    Row(_ID_MAP, (EPERM, EACCES), apparmor, APPARMOR_CAUSE, APPARMOR_REMEDY),
    Row(
        _ID_MAP,
        (EACCES,),
        always,
        "the process is not dumpable, as after exec of a program with a setuid bit, with file"
        " capabilities or without read permission, so its /proc files belong to root",
        "run a plain interpreter: {python} must be readable and have no capabilities (getcap)",
    ),
    Row(
        _ID_MAP,
        (EROFS,),
        always,
        "/proc is mounted read-only, so the id map cannot be written",
        "mount it writable: mount -o remount,rw /proc; in a container: " + UNMASK,
    ),
    Row(
        r"write uid_map",
        (EPERM, EINVAL),
        always,
        "the map was written twice, or names an id that the runner (uid {euid}, gid {egid})"
        " does not have",
        "this is " + REPORT,
    ),
    Row(
        r"write (gid_map|setgroups)",
        (EPERM, EINVAL),
        always,
        "setgroups was not denied before the map of the groups was written",
        "this is " + REPORT,
    ),
    Row(
        "wait for the id map",
        (),
        always,
        "the runner did not write the id map",
        "look at the first refusal of this run; if there is none, this is " + REPORT,
    ),
)

MOUNTS: Final = (
    Row(
        "keep /",
        (EBUSY,),
        always,
        "the run itself uses a directory that has to be covered by a private one",
        "start pytest in another directory (cwd, --basetemp and rootdir must not be /dev/shm"
        " itself), or leave {namespace} out",
    ),
    Row(
        "make / private",
        (EINVAL,),
        always,
        "the runner's root is not a mount point: it is in a chroot",
        "mount --bind DIRECTORY DIRECTORY before chroot DIRECTORY, or enter it by pivot_root"
        " (systemd-nspawn, bwrap, a container)",
    ),
    Row(_MOUNTING, (EPERM,), lambda case: case.filtered is True, FILTER, UNCONFINE),
    Row(_MOUNTING, (EACCES,), apparmor, APPARMOR_CAUSE, APPARMOR_REMEDY),
    Row(
        _MOUNTING,
        (EACCES,),
        _docker_apparmor,
        "the AppArmor profile of the container forbids mounting ({label})",
        "Docker: --security-opt apparmor=unconfined; Kubernetes: securityContext:"
        " {{appArmorProfile: {{type: Unconfined}}}}",
    ),
    Row(
        _MOUNTING,
        (EACCES,),
        lambda _: facts.selinux_enforcing(),
        "SELinux forbids mounting ({label})",
        "Docker, Podman: --security-opt label=disable, or label=type:spc_t",
    ),
    Row(
        _MOUNTING,
        (EACCES,),
        always,
        "a security module forbids mounting (label here: {label})",
        "Docker on Debian and Ubuntu: --security-opt apparmor=unconfined; with SELinux:"
        " --security-opt label=disable",
    ),
    Row(
        "mount proc",
        (EPERM,),
        _proc_masked,
        "/proc is masked, and a user namespace may not mount a proc that shows more than the one"
        " it sees (covered: {covers})",
        UNMASK,
    ),
    Row(
        "mount sysfs",
        (EPERM,),
        _sys_masked,
        "/sys is masked, and a user namespace may not mount a sysfs that shows more than the one"
        " it sees (covered: {sys_covers})",
        UNMASK,
    ),
    Row(
        "mount (proc|sysfs)",
        (EPERM,),
        lambda case: case.user != "none" and case.filtered is False,
        "nothing that can be seen from here covers /proc or /sys, so the process is not in the new"
        " {namespace} namespace that the mount would belong to",
        "this is " + REPORT,
    ),
    Row(
        "mount sysfs",
        (EBUSY,),
        always,
        "this sysfs is mounted there already: the network namespace is not a new one",
        "this is " + REPORT,
    ),
    Row(
        _MOUNTING,
        (EPERM,),
        lacks(CAP_SYS_ADMIN),
        "without a user namespace mounting needs CAP_SYS_ADMIN, which the runner does not hold",
        _NO_ROOT + ", or run pytest as root",
    ),
    Row(
        _MOUNTING,
        (ENODEV,),
        always,
        "this kernel ({kernel}) was built without the file system",
        "boot a kernel that has it (CONFIG_POSIX_MQUEUE, CONFIG_TMPFS,"
        " CONFIG_UNIX98_PTYS), or leave {namespace} out",
    ),
)

NETWORK_AND_CLOCKS: Final = (
    Row(
        "add a bridge",
        (EOPNOTSUPP,),
        always,
        "this kernel ({kernel}) has no bridges, which the networks of a testbed are",
        "sudo modprobe bridge, or boot a kernel that has them (CONFIG_BRIDGE)",
    ),
    Row(
        "add a veth pair",
        (EOPNOTSUPP,),
        always,
        "this kernel ({kernel}) has no veth pairs, which the wires of a testbed are",
        "sudo modprobe veth, or boot a kernel that has them (CONFIG_VETH)",
    ),
    Row(
        "open a packet socket",
        (EAFNOSUPPORT,),
        always,
        "this kernel ({kernel}) has no packet sockets, which keep what passes a wire",
        "sudo modprobe af_packet, or boot a kernel that has them (CONFIG_PACKET)",
    ),
    Row(
        "add a rule of NAT",
        (EOPNOTSUPP, EPROTONOSUPPORT, ENOENT, EINVAL),
        always,
        "this kernel ({kernel}) has no nf_tables, or not its NAT, which a router with nat= needs",
        "sudo modprobe -a nf_tables nft_chain_nat nft_masq, or boot a kernel that has them"
        " (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ); or do without nat=",
    ),
    Row(
        "divert lo",
        (EOPNOTSUPP, EPROTONOSUPPORT, ENOENT, EINVAL),
        always,
        "this kernel ({kernel}) has no nf_tables at the ingress of interfaces, or is older than"
        " 5.12; pid1.loopback needs that",
        "sudo modprobe -a nf_tables nft_fwd_netdev, or boot a kernel from 5.12 on that has them"
        " (CONFIG_NF_TABLES_NETDEV, CONFIG_NFT_FWD_NETDEV)",
    ),
    Row(
        "bind /etc/hosts",
        (ENOENT,),
        always,
        "this machine has no /etc/hosts, over which each host of a testbed gets its own",
        "make one, it may be empty: sudo touch /etc/hosts",
    ),
    Row(
        r"add a |add the |set (eth|a wire|the MTU)|divert lo|delete "
        r"|open a (netlink|packet) socket|put a relay",
        (EPERM, EACCES),
        always,
        "the test has given up the rights over its own network and mounts",
        "leave CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW to it (caps=), and build the testbed"
        " before it changes its user",
    ),
    Row(
        "set lo up",
        (EPERM,),
        lacks(CAP_NET_ADMIN),
        "without a user namespace bringing lo up needs CAP_NET_ADMIN, which the runner does not"
        " hold",
        _NO_ROOT + ", or docker run --cap-add NET_ADMIN",
    ),
    Row(
        "set lo up|sethostname|write timens_offsets",
        (EPERM, EACCES),
        apparmor,
        APPARMOR_CAUSE,
        APPARMOR_REMEDY,
    ),
    Row(
        "write timens_offsets",
        (EPERM,),
        lacks(CAP_SYS_TIME),
        "without a user namespace the offsets need CAP_SYS_TIME, which the runner does not hold",
        _NO_ROOT + ", or docker run --cap-add SYS_TIME",
    ),
    Row(
        "write timens_offsets",
        (ERANGE,),
        always,
        "the offset would put a clock below zero or beyond what the kernel can count",
        "choose a smaller time=; a negative one cannot go back before the machine was booted",
    ),
    Row(
        "write timens_offsets",
        (EROFS,),
        always,
        "/proc is mounted read-only, so the offsets cannot be written",
        "mount it writable: mount -o remount,rw /proc; in a container: " + UNMASK,
    ),
    Row(
        "write timens_offsets",
        (EACCES,),
        always,
        "a process was already born in the time namespace, which fixes its offsets",
        "this is " + REPORT,
    ),
)

GRANTS: Final = (
    Row(
        "find /dev/",
        (ENOENT,),
        always,
        "this host has no such device, or the container that pytest runs in was not given it",
        "load its driver (modprobe kvm, tun, fuse ...); in a container: docker run --device PATH;"
        " or leave it out of devices=",
    ),
    Row(
        "find /dev/",
        (ENOTBLK,),
        always,
        "there is such a path on this host, but it leads to no device",
        "name nodes, not directories, in devices=",
    ),
    Row(
        "drop capabilities",
        (EPERM,),
        always,
        "what programs may gain (the bounding set) is only limited by who holds CAP_SETPCAP",
        "let the test have a user namespace (no user=False), or docker run --cap-add SETPCAP",
    ),
    Row(
        "join a new session keyring",
        (EDQUOT,),
        always,
        "uid {euid} has as many keys as the kernel allows it",
        "sysctl -w kernel.keys.maxkeys=2000, or end what holds them (/proc/key-users counts them)",
    ),
)
