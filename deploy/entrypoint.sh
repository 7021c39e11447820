#!/bin/sh
# What the image runs: `ROLE`, or the file of a further agent, is that agent; `prepare` makes what agents need before they
# start; `gavotte ...` is the command line.
#
# An agent is named by its container: processes of containers have equal pids, and a restart keeps the name.
set -eu
case ${1:-} in
  prepare | gavotte) command=$1; shift ;;
  *) command=agent ;;
esac
case $command in
  prepare) exec gavotte-prepare "$@" ;;
  gavotte) exec gavotte "$@" ;;
esac
[ $# = 1 ] || exec python -P -m agents "$@"
instance=${HOSTNAME:-$(cat /etc/hostname)}
exec python -P -m agents "$1" "$(printf %s "$instance" | tr -c 'A-Za-z0-9' _)"
