# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by ./demo and ./check: what both need before pytest can start. Nothing here is installed
# that is already there, and nothing outside the repository is changed but by apt-get.

# What is installed is what runs: no other checkout, plugin list or option slips in from outside.
unset PYTHONPATH PYTHONHOME PYTEST_ADDOPTS PYTEST_PLUGINS PYTEST_DISABLE_PLUGIN_AUTOLOAD
# Thousands of runs below would each compile the plugin anew, because pytest rewrites its asserts.
unset PYTHONDONTWRITEBYTECODE

# Redirected, too, output comes as it happens.
export PYTHONUNBUFFERED=1

say() { printf '\n==> %s\n' "$*"; }

die() {
    printf '\n%s: %s\n' "${0##*/}" "$1" >&2
    shift
    (($# == 0)) || printf '    %s\n' "$@" >&2
    exit 1
}

# Output is shown when the command fails, and only then.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    ((status == 0)) || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

# --- Python ------------------------------------------------------------------------------------

# A name on PATH may be a shim of a version manager that does not start, so each is run.
python_starts() {
    [[ $("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null) == True ]]
}

python_has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

python_has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
        >/dev/null 2>&1
}

# The interpreter itself: not a shim, whose meaning changes with the folder, and not that of an
# active environment, which may be the one to be replaced.
python_itself() { "$1" -c 'import sys; print(sys._base_executable or sys.executable)'; }

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Debian's own interpreter gets its headers and venv from packages of the same minor version; any
# other brings both along or cannot be helped by apt-get.
python_is_packaged() {
    [[ $("$1" -c 'import sys; print(sys.base_prefix)') == /usr ]]
}

# Root's tests run as an ordinary user too, who cannot reach an interpreter in root's home. Through
# env, because setpriv itself still has root's rights when it looks for the program.
python_is_for_all() {
    ((EUID != 0)) ||
        setpriv --reuid=65534 --regid=65534 --clear-groups env "$1" -c '' >/dev/null 2>&1
}

python_candidates() {
    local name
    for name in python3.15 python3.14 python3.13 python3.12 python3.11 python3; do
        type -aP "$name" || true
    done
}

# Sets `python`: what PYTHON= says, else the first complete one (for root: that others can run too, if
# there is one), else the first that packages can complete, else nothing.
choose_python() {
    local path
    python=""
    if [[ -n ${PYTHON:-} ]]; then
        python=$(type -P "$PYTHON") || die "PYTHON=$PYTHON is no program."
        python_starts "$python" ||
            die "PYTHON=$PYTHON does not start or is older than 3.11." \
                "Give another one, or leave PYTHON away to let ${0##*/} choose."
        python=$(python_itself "$python")
        return
    fi
    local complete=""
    while read -r path; do
        if python_starts "$path" && python_has_venv "$path" && python_has_headers "$path"; then
            python=$(python_itself "$path")
            if python_is_for_all "$python"; then
                return
            fi
            : "${complete:=$python}"
        fi
    done < <(python_candidates)
    python=$complete
    if [[ -n $python ]]; then
        return
    fi
    while read -r path; do
        if python_starts "$path" && python_is_packaged "$path"; then
            python=$(python_itself "$path")
            return
        fi
    done < <(python_candidates)
}

# --- System packages ---------------------------------------------------------------------------

compiles() { gcc -x c -o /dev/null - "$@" >/dev/null 2>&1; }

# The tests' root folder holds this one program, and no library.
busybox_is_static() {
    local path
    path=$(type -P busybox) && ! ldd "$path" >/dev/null 2>&1
}

# Fills `missing` with Debian package names, by looking for the thing itself and not for the
# package: a compiler from elsewhere is as good.
find_missing() {
    missing=()
    command -v gcc >/dev/null && command -v cpp >/dev/null || missing+=(gcc)
    if ! echo 'int main(void) { return 0; }' | compiles -include stdlib.h; then
        missing+=(libc6-dev)
    fi
    if ! printf '#include <sys/capability.h>\nint main(void) { return cap_free(0); }\n' |
        compiles -lcap; then
        missing+=(libcap-dev)
    fi
    if [[ -z $python ]]; then
        missing+=(python3 python3-dev python3-venv)
    else
        python_has_headers "$python" || missing+=("python$(python_version "$python")-dev")
        python_has_venv "$python" || missing+=("python$(python_version "$python")-venv")
    fi
    # The programs that examples/system looks at.
    command -v ps >/dev/null || missing+=(procps)
    command -v ip >/dev/null || [[ -x /sbin/ip ]] || missing+=(iproute2)
    command -v capsh >/dev/null || [[ -x /sbin/capsh ]] || missing+=(libcap2-bin)
    command -v unshare >/dev/null || missing+=(util-linux)
    command -v mount >/dev/null || missing+=(mount)
    # For the tests alone.
    if [[ ${0##*/} == check ]]; then
        busybox_is_static || missing+=(busybox-static)
        command -v bwrap >/dev/null || missing+=(bubblewrap)
    fi
}

# Without gcc nothing compiles, so the headers look missing as well; apt-get skips what is there.
install_missing() {
    local -a as_root=() names=("${missing[@]}")
    local line="apt-get install -y --no-install-recommends ${names[*]}"
    command -v apt-get >/dev/null ||
        die "these Debian packages, or what your system calls them, are missing: ${names[*]}" \
            "Install them, then run ${0##*/} again."
    if ((EUID != 0)); then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
            as_root=(sudo)
        else
            die "system packages are missing; as root, run: apt-get update && $line"
        fi
    fi
    say "Installing system packages: ${names[*]}"
    quietly "${as_root[@]}" apt-get -q update ||
        die "'apt-get update' failed; see the lines above." \
            "Repair the network or the apt sources, then run ${0##*/} again."
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "${names[@]}" ||
        die "apt-get could not install: ${names[*]}; see the lines above." "As root, try: $line"
}

ensure_system() {
    [[ $(uname -s) == Linux ]] || die "isolated tests need Linux; this is $(uname -s)."
    choose_python
    if [[ -n $python && -n ${PYTHON:-} ]] && ! python_is_packaged "$python"; then
        if ! python_has_venv "$python" || ! python_has_headers "$python"; then
            die "PYTHON=$PYTHON has no venv module or no headers (Python.h)." \
                "Give another one, or leave PYTHON away to let ${0##*/} choose."
        fi
    fi
    find_missing
    if ((${#missing[@]})); then
        install_missing
        choose_python
        [[ -n $python ]] ||
            die "no Python 3.11 or newer starts here." \
                "Install a newer one with its venv and dev packages, or give one: PYTHON=/path/to/python ./${0##*/}"
        find_missing
        ((${#missing[@]} == 0)) ||
            die "still missing after the installation: ${missing[*]}" \
                "If another Python on PATH is in the way, name the right one: PYTHON=/path/to/python ./${0##*/}"
    fi
    say "Python $(python_version "$python") ($python); system packages are there"
}

# --- Environments ------------------------------------------------------------------------------

# Sets `place`, the folder of all that is made, and `pytest_cache`: this one where it is ours, else one where this
# user keeps such things. Root and an ordinary user can use one clone, and neither is in the other's
# way. Root's is for all to read, because its tests run as an ordinary user too.
choose_place() {
    place=. pytest_cache=.pytest_cache
    if [[ -O . && -w . ]] && [[ ! -e .venv || -O .venv ]]; then
        return
    fi
    local caches=/var/cache
    ((EUID == 0)) || caches=${XDG_CACHE_HOME:-${HOME:-/}/.cache}
    place=$caches/pytest-nsisolate/$(cksum <<<"$PWD" | cut -d ' ' -f 1)
    mkdir -p "$place" 2>/dev/null ||
        die "this clone belongs to $(stat -c %U .), and $place cannot be made for $(id -un)." \
            "Name a folder of your own: XDG_CACHE_HOME=/path/to/folder ./${0##*/}"
    say "This clone is not $(id -un)'s: environments and caches go to $place"
    export RUFF_CACHE_DIR=$place/ruff MYPY_CACHE_DIR=$place/mypy
    pytest_cache=$place/pytest
}

base_of() {
    "$1" -c 'import os, sys; print(os.path.realpath(sys.base_prefix), *sys.version_info[:3])' 2>/dev/null
}

# make_environment DIR: a virtual environment of the chosen Python; one of another is replaced.
make_environment() {
    local folder=$1
    if [[ -x $folder/bin/python && -x $folder/bin/pip ]] &&
        [[ $(base_of "$folder/bin/python") == "$(base_of "$python")" ]] &&
        "$folder/bin/pip" --version >/dev/null 2>&1; then
        return
    fi
    say "Making the environment $folder"
    "$python" -m venv --clear "$folder" ||
        die "$python could not make a virtual environment in $folder; see the lines above." \
            "Remove that folder and run ${0##*/} again, or name another Python with PYTHON=."
}

# install DIR ARGUMENT...: pip install, with a way out when it fails.
install() {
    local folder=$1
    shift
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet "$@" ||
        die "pip could not install the Python packages into $folder; see the lines above." \
            "No connection: set pip's index or proxy (pip help config) and run ${0##*/} again." \
            "Else: remove $folder and run ${0##*/} again."
}
