#!/bin/sh
# Makes what the agents need before they start, once for all of them, and safe to repeat: tables and logins in the
# database, topics on the bus, schemas in the registry. The image runs it as `prepare`.
#
# PREPARE_PASSWORDS names a folder with a file for each role that holds the password of its login in the database.
set -eu
deadline=$(($(date +%s) + ${PREPARE_SECONDS:-120}))

# Whoever is first waits for the others: a command is tried until it succeeds, and the last try says what was wrong.
in_time() {
  while [ "$(date +%s)" -lt "$deadline" ]; do
    if "$@" 2>/tmp/prepare.said; then return; fi
    sleep 2
  done
  cat /tmp/prepare.said >&2
  "$@"
}

if [ "${GAVOTTE_STORE__BACKEND:-sqlite}" = postgres ]; then
  in_time gavotte store migrate
  [ -z "${PREPARE_PASSWORDS:-}" ] || in_time gavotte store grants --apply --passwords "$PREPARE_PASSWORDS"
fi
[ "${GAVOTTE_BUS__BACKEND:-embedded}" != kafka ] || in_time gavotte topics create
[ -z "${GAVOTTE_REGISTRY__URL:-}" ] || in_time gavotte contracts push
