#!/bin/sh
# Builds the image as it is and runs it, without a container daemon and without a registry of images: `make image`.
#
# Root on Debian with buildah, podman, runc and debootstrap. What the Dockerfile's FROM names is made from Debian's own
# packages under the same name, so that the unedited Dockerfile builds. Takes some minutes; what it makes is kept in
# $XDG_CACHE_HOME/gavotte/image-lane and in podman's store, and is used again.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'image  %s\n' "$*"; }
fail() { printf 'image  %s\n' "$*" >&2; exit 1; }

for program in buildah podman runc debootstrap; do
  command -v "$program" >/dev/null || fail "there is no $program: apt-get install buildah podman runc debootstrap"
done
[ "$(id -u)" = 0 ] || fail "this lane needs root: without a daemon, an image is made by mounting it"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/gavotte/image-lane
mkdir -p "$cache"
base=$(sed -n 's/^FROM \([^ ]*\).*/\1/p' deploy/Dockerfile | sort -u)
[ "$(echo "$base" | wc -l)" = 1 ] || fail "the Dockerfile builds upon more than one base"
suite=${base##*-}
image=gavotte:lane
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || fail "there is no $python: make dev"
work=$(mktemp -d "$cache/run.XXXXXX")
name=gavotte-lane-$$
trap 'podman rm --force --time 0 "$name" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

# Runs without systemd, cgroup v2 delegation or a network of its own.
cat >"$work/containers.conf" <<'CONF'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
CONF
export CONTAINERS_CONF="$work/containers.conf"

stand_in() {
  say "making a stand-in for $base from Debian's packages"
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    "$suite" "$work/rootfs" >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/rootfs" / >/dev/null
  buildah config --cmd python3 --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah commit --quiet --rm "$container" "docker.io/library/$base" >/dev/null
  rm -rf "$work/rootfs"
}

podman image exists "docker.io/library/$base" || stand_in

# The machine's own ways to its package index and the authorities that it trusts, mounted while it builds and not kept.
set --
for path in /etc/pip.conf "${SSL_CERT_DIR:-/etc/ssl/certs}" ${PIP_FIND_LINKS:-}; do
  [ ! -e "$path" ] || set -- "$@" --volume "$path:$path:ro"
done
begun=$(date +%s)
say "building $image from deploy/Dockerfile"
buildah bud --isolation chroot --pull-never --format docker --layers "$@" \
  --file deploy/Dockerfile --tag "$image" . >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; fail "the build failed"; }
say "built in $(($(date +%s) - begun)) s, $(podman image inspect --format '{{.Size}}' "$image" | awk '{printf "%d MB", $1 / 1e6}')"

# -- what the image says of itself ----------------------------------------------------------------------------------------

inspect() { podman image inspect --format "$1" "$image"; }
[ "$(inspect '{{.Config.User}}')" = 10001:10001 ] || fail "the image runs as $(inspect '{{.Config.User}}')"
inspect '{{.Config.Healthcheck}}' | grep -q agents.health || fail "the image has no health check"

# -- and what it does: no root, a read-only root, no capabilities, limits --------------------------------------------------

run() {
  podman run --no-healthcheck --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp:rw,size=256m \
    --volume "$work/data:/data:rw" "$@"
}
install -d -m 0700 -o 10001 -g 10001 "$work/data"
if run --rm "$image" >"$work/usage" 2>&1; then fail "without a role it should have said how it is used"; fi
grep -q "usage:" "$work/usage" || fail "without a role: $(cat "$work/usage")"
run --rm --entrypoint id "$image" | grep -q uid=10001 || fail "it does not run as 10001"
run --rm "$image" gavotte doctor >"$work/doctor" 2>&1 || { cat "$work/doctor" >&2; fail "the doctor"; }
say "sandbox inside: $(awk '$2 == "sandbox" { print $3 }' "$work/doctor")"
run --rm "$image" gavotte demo --yes >"$work/demo" 2>&1 || { cat "$work/demo" >&2; fail "the demo"; }
say "demo inside: $(grep '^Done' "$work/demo")"

port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
run --detach --name "$name" --env "GAVOTTE_TELEMETRY__PORT=$port" "$image" review >/dev/null
tries=0
until podman exec "$name" python -P -m agents.health /readyz >"$work/ready" 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { podman logs "$name" >&2; fail "it did not get ready: $(cat "$work/ready")"; }
  sleep 0.5
done
say "ready: $(cat "$work/ready")"
podman exec "$name" python -P -m agents.health >/dev/null || fail "the health check says no"
podman exec "$name" sh -c 'touch /opt/gavotte/x 2>/dev/null || touch /x 2>/dev/null' && fail "the root can be written"
podman logs "$name" | python3 -c 'import json, sys; [json.loads(line) for line in sys.stdin]' || fail "its log is no JSON"
podman exec "$name" sh -c 'cat /proc/1/comm' | grep -q tini || fail "nobody reaps what sandboxes leave behind"
podman stop --time 20 "$name" >/dev/null
code=$(podman inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" = 0 ] || fail "after SIGTERM it ended with $code: $(podman logs "$name" 2>&1 | tail -n 5)"
say "stopped in order by SIGTERM, exit 0"

# -- the services of the compose file, as it says, on servers of this machine ---------------------------------------------

if command -v podman-compose >/dev/null; then
  podman-compose --file deploy/compose.yaml config >/dev/null || fail "podman-compose does not take the compose file"
fi
if command -v java >/dev/null && command -v mvn >/dev/null; then
  say "dancing the compose file on Kafka, PostgreSQL and a registry"
  mkdir "$work/dance"
  "$python" tests/images/dance.py "$work/dance" || fail "the dance of the compose file"
  say "danced"
else
  say "without java and mvn there is no Kafka here: the dance of the compose file was left out"
fi
