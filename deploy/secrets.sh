#!/bin/sh
# Makes the secrets of the compose file that are not there yet: deploy/secrets/, out of version control. The folder is
# its owner's alone; the files in it are readable, because in the containers other users read them.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

# once NAME VALUE: a file that is there stays as it is
once() {
  [ -s "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"
  chmod 0444 "secrets/$1"
}
fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

once owner "$(fresh)"
once owner_url "postgresql://gavotte:$(cat secrets/owner)@postgres/gavotte"
for role in planning coding review deploy operator; do
  once "$role" "$(fresh)"
  once "${role}_url" "postgresql://gavotte_$role:$(cat "secrets/$role")@postgres/gavotte"
done
[ -e secrets/model_key ] || : >secrets/model_key
chmod 0444 secrets/model_key
