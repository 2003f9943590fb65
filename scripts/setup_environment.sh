#!/usr/bin/env bash
# Fills .venv: torch, torch-scatter compiled against it, then everything else, at the versions in
# constraints.txt. `make` calls it when pyproject.toml or constraints.txt changed.
#
# Safe to repeat and to interrupt: pip skips what is there, packages that an interruption left half
# installed are found and installed anew, and only a compilation that failed is remembered, so that
# it does not cost minutes again (`make scatter` retries).
#
# Environment: PYTHON, the interpreter to build on; GRAPHREP_SKIP_SCATTER=1, leave torch-scatter out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

venv=.venv
python=$venv/bin/python
log=$venv/setup.log
clock= # the process that shows the time of a long step

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'graphrep set-up: %s\n' "$*" >&2
    exit 1
}

# step LABEL COMMAND...: run a command into the log, and show how long it has been at it.
step() {
    local label=$1 began=$SECONDS status=0
    shift
    show_time "$label" &
    clock=$!
    "$@" >>"$log" 2>&1 || status=$?
    stop_clock
    [[ -t 1 ]] && printf '\r\033[K'
    if ((status == 0)); then
        say "$label: done in $((SECONDS - began)) s"
    else
        say "$label: FAILED after $((SECONDS - began)) s"
    fi
    return "$status"
}

show_time() {
    local began=$SECONDS pause=30
    [[ -t 1 ]] && pause=1
    # A sleep outlives its killed parent, so it must hold neither our output nor the lock.
    while sleep "$pause" >/dev/null 2>&1 9>&- && kill -0 $$ 2>/dev/null; do
        if [[ -t 1 ]]; then
            printf '\r    %s: %s s' "$1" "$((SECONDS - began))"
        else
            say "$1: still running, $((SECONDS - began)) s"
        fi
    done
}

stop_clock() {
    [[ -n $clock ]] || return 0
    kill "$clock" 2>/dev/null || true
    wait "$clock" 2>/dev/null || true
    clock=
}

must() {
    step "$@" && return
    tail -n 30 "$log" >&2
    fail "$1 could not be installed; the whole log is $log"
}

install() { "$python" -m pip install --constraint constraints.txt "$@"; }

create_environment() {
    local base
    base=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
    [[ -n $base ]] || fail "no python3.11 found; install it, or name one: make PYTHON=/path/to/python3.11"
    "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        fail "graphrep needs Python 3.11, but $base is $("$base" --version 2>&1); name another: make PYTHON=/path/to/python3.11"
    say "$venv on $("$base" --version)"
    "$base" -m venv --clear "$venv" ||
        fail "$base cannot make virtual environments (on Debian: apt install python3-venv)"
}

# pip writes INSTALLER last: without it a package was cut off in the middle, yet pip would take it
# for installed.
remove_half_installed() {
    local packages record
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    for record in "$packages"/*.dist-info; do
        if [[ -d $record && ! -e $record/INSTALLER ]]; then
            say "$(basename "$record" .dist-info) was left half installed; again"
            rm -rf "$record"
        fi
    done
    rm -rf "$packages"/~* # what pip set aside while it replaced a package
}

scatter_works() {
    "$python" - >>"$log" 2>&1 <<'EOF'
import torch, torch_scatter
found = torch_scatter.segment_csr(torch.ones(3), torch.tensor([0, 1, 3]))
assert found.tolist() == [1.0, 2.0], found
EOF
}

without_scatter() {
    say "torch-scatter: $1"
    say "graphrep works without it: reductions over explicit edges fall back on"
    say "torch.scatter_reduce, maximum and softmax slower, same results; \`make scatter\` tries to build it"
}

# An optional part: whatever happens here, set-up goes on.
install_scatter() {
    local torch_version state
    torch_version=$("$python" -c 'from importlib.metadata import version; print(version("torch"))')
    state=$venv/torch-scatter-for-torch-$torch_version # works | unavailable
    if [[ ${GRAPHREP_SKIP_SCATTER:-0} == 1 ]]; then
        without_scatter "left out, as GRAPHREP_SKIP_SCATTER=1 asks"
        return
    fi
    if [[ -e $state ]]; then
        [[ $(<"$state") == works ]] || without_scatter "could not be built earlier"
        return
    fi
    if scatter_works; then
        echo works >"$state"
        return
    fi
    say "compiling torch-scatter, about 6 minutes on 2 cores, once; pip keeps the result"
    if step torch-scatter install --no-build-isolation --no-deps torch-scatter && ! scatter_works; then
        say "the torch-scatter that pip kept was built for another torch; compiling it anew"
        step torch-scatter install --no-build-isolation --no-deps \
            --no-cache-dir --force-reinstall torch-scatter || true
    fi
    if scatter_works; then
        echo works >"$state"
    else
        "$python" -m pip uninstall --yes torch-scatter >>"$log" 2>&1 || true
        echo unavailable >"$state"
        cp "$log" "$venv/torch-scatter.log"
        without_scatter "could not be built (it needs g++ and 3 GB of memory; see $venv/torch-scatter.log)"
    fi
}

# One set-up at a time; a second one waits and then finds everything done.
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi
trap stop_clock EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$python" -m pip --version >/dev/null 2>&1 || create_environment
: >"$log"
remove_half_installed
if [[ ${1:-} == scatter ]]; then
    rm -f "$venv"/torch-scatter-for-torch-*
fi
must "torch" install torch setuptools wheel
install_scatter
must "build tools" install hatchling editables
must "graphrep and its dependencies" install --no-build-isolation --editable ".[dev]"
"$python" -m pip check >>"$log" 2>&1 || { "$python" -m pip check >&2 || true; }
