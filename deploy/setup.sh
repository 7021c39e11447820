#!/bin/sh
# Makes .venv beside the Makefile: gavotte, and the packages of a lock file, checked by hash. Never needs root.
#
#   deploy/setup.sh requirements.lock        what running gavotte and its demo takes
#   deploy/setup.sh requirements-dev.lock    and what its tests take
#
# A copy of what was installed stays in .venv; while the lock, pyproject.toml and the folder are the same, a further
# call does nothing. GAVOTTE_PYTHON names another interpreter to build upon.
set -eu
cd "$(dirname "$0")/.."
lock=$1

say() { printf 'setup  %s\n' "$*"; }
fail() { printf 'setup  %s\n' "$1" >&2; shift; for hint in "$@"; do printf '       %s\n' "$hint" >&2; done; exit 1; }

modern() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The names are tried in this order, so that the system's own python3 is preferred where it is new enough.
find_python() {
  for name in ${GAVOTTE_PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    if modern "$name"; then echo "$name"; return; fi
  done
  found=$(python3 --version 2>/dev/null || true)
  if [ -n "${GAVOTTE_PYTHON:-}" ]; then fail "GAVOTTE_PYTHON=$GAVOTTE_PYTHON is no Python 3.11 or newer."; fi
  fail "Python 3.11 or newer is needed; found: ${found:-no python3 at all}." \
    "Debian, Ubuntu:  apt-get install python3 python3-venv" \
    "Fedora:          dnf install python3" \
    "or set GAVOTTE_PYTHON to the path of one."
}

# What an installation depends upon: the locked packages, our own package list, and where the folder lies.
wanted() { pwd; cat "$1" pyproject.toml; }
current() { [ -x .venv/bin/gavotte ] && .venv/bin/python -c '' 2>/dev/null && wanted "$lock" | cmp -s - ".venv/$lock"; }

# A folder that was moved keeps programs that name its old place; a Python that was removed leaves a dead link.
usable() { modern .venv/bin/python && head -n 3 .venv/bin/pip 2>/dev/null | grep -qF "$(pwd)/.venv/bin/"; }

report() {
  version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  count=$(find .venv/lib/python*/site-packages -maxdepth 1 -name '*.dist-info' | wc -l)
  say ".venv ready (Python $version, $((count)) packages, $1 s)"
}

install() {
  .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input "$@" 2>"$log" >&2 && return
  cat "$log" >&2
  fail "pip could not install what $lock names; its own words stand above." \
    "Behind a proxy or a private index: set HTTPS_PROXY, or pip's own PIP_INDEX_URL, and call make again."
}

[ "$(uname -s)" = Linux ] || fail "Gavotte runs on Linux (x86-64, aarch64); on Windows use WSL2." "This is $(uname -s)."
command -v git >/dev/null || fail "git is needed and was not found." "Debian, Ubuntu:  apt-get install git"

# Two calls at once would trample on each other: the second waits, where flock is there to wait with.
exec 9<deploy/setup.sh
if command -v flock >/dev/null; then flock 9; fi

begun=$(date +%s)
if current; then report 0; exit 0; fi

python=$(find_python)
log=$(mktemp)
first=$(mktemp)
trap 'rm -f "$log" "$first"' EXIT
if ! usable; then
  say "making .venv with $("$python" --version), then installing; this takes about half a minute ..."
  rm -rf .venv
  "$python" -m venv .venv >"$log" 2>&1 || {
    rm -rf .venv
    cat "$log" >&2
    fail "$python cannot make virtual environments: its venv or ensurepip module is missing." \
      "Debian, Ubuntu:  apt-get install python3-venv   (or $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))"
  }
fi
rm -f .venv/*.lock
# Wheels only, so that a machine without a compiler is enough. The one package that ships none (pure Python, needed by
# the schema generator) is built here with the locked setuptools, which therefore comes first.
sed -n '/^setuptools==/,/^[a-z]*==/p' "$lock" | sed '1!{/^[a-z]/,$d;}' >"$first"
install install --require-hashes --only-binary :all: --requirement "$first"
install install --require-hashes --only-binary :all: --no-binary memoization --no-build-isolation --use-pep517 \
  --requirement "$lock"
install install --no-build-isolation --no-deps --editable .
wanted "$lock" >".venv/$lock"
# the packages of the tests include those of the program, in the same versions
if [ "$lock" = requirements-dev.lock ]; then wanted requirements.lock >.venv/requirements.lock; fi
report "$(($(date +%s) - begun))"
