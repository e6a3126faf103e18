#!/usr/bin/env bash
# One node alone, for what the stage of three does not show. It knows nothing of the stage.
#   one.sh calls    under strace, with a little work: what it asks of the kernel is what the unit lets it ask
#   one.sh bucket   its blobs in a bucket of a real S3 server, with Prometheus beside it: the board's panels of buckets
#                   show data under load
# PORTOLAN=binary, REGION=where it listens (127.REGION.9.1). Not a function of run.sh: bash does not stop at what fails
# inside of a function whose end is looked at (`f || …`).
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd); cd "$here"
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
binary=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
# what a shell on a node of the stage has: another node's configuration, with TLS
unset "${!PORTOLAN_@}"
at=127.${REGION:-14}.9.1 beside=127.${REGION:-14}.9.2 work=$(mktemp -d) under=() node="" started=""
trap end EXIT
fail() { [ ! -e "$work/log" ] || tail -n 5 "$work/log" >&2; echo "one.sh: $*" >&2; exit 1; }
wait_for() { # SECONDS COMMAND…
  local until=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $until ] || return 1; sleep 0.2; done
}

end() {
  local code=$?
  kill -TERM $node $(jobs -rp) 2>/dev/null || true
  for _ in $(seq 100); do [ -n "$(jobs -rp)" ] || break; sleep 0.2; done
  kill -KILL $(jobs -rp) 2>/dev/null || true
  rm -rf "$work"
  exit $code
}
# Starts the node below $under, with these settings; $node is its process.
begin() {
  local door port=7400 settings=(--set "auth.root_key_file=$work/key" --set blobs.capacity=1GiB) setting
  for door in public raft blob admin; do settings+=(--set "listen.$door=$at:$port"); port=$((port + 1)); done
  for setting in "$@"; do settings+=(--set "$setting"); done
  (umask 077; echo "PTLNAAAAAAAAAAAAAAAA:$(head -c 30 /dev/urandom | base64 | tr +/ ab)" >"$work/key")
  "${under[@]}" "$binary" server --data-dir "$work/one" "${settings[@]}" >"$work/log" 2>&1 &
  node=$! started=$!
  wait_for 30 "$binary" health --admin "http://$at:7403" || fail "the node is not ready"
  # a push finds a place only then, and /readyz says yes some 50 ms before
  wait_for 30 grep -q "this node is registered" "$work/log" || fail "the node is not registered"
}
# Stops it as systemd would; it must end well.
stop() {
  kill -TERM "$node"; node=""
  wait "$started" || fail "the node did not end well"
}
# Load of which nothing may fail: `portolan bench` itself is content with one success.
bench() {
  local said
  said=$("$binary" bench -o json --registry "http://$at:7400" --credentials-file "$work/key" "$@")
  python3 -c '
import json, sys
said = json.load(sys.stdin)
if said["errors"]:
    sys.exit("bench %(workload)s: %(errors)d of its operations failed" % said)' <<<"$said"
}

calls() {
  local tool
  for tool in strace systemd-analyze; do
    command -v $tool >/dev/null || { echo "unit: no $tool, so no look at its filter"; return 0; }
  done
  under=(strace -f -qq -o "$work/trace")
  begin
  node=$(head -n 1 "$work/trace" | cut -d' ' -f1) # below strace, which ends with it
  bench blob-push --size 200KiB --count 10
  bench manifest-get --count 50
  stop
  tests/ops/unit.py deploy/systemd/portolan.service "$work/trace"
}

bucket() {
  local s3=$beside:9000 prometheus=$beside:9090 loads=() load
  mkdir -p "$work/s3/images"; (umask 077; echo portolan-secret >"$work/secret")
  mkfifo "$work/hold"
  PORTOLAN_CACHE=$cache tests/s3/serve.sh "$s3" "$work/s3" <"$work/hold" >"$work/s3.said" &
  exec 8>"$work/hold" # it ends when this does
  # the first time it is built
  wait_for 600 grep -q ready "$work/s3.said" || fail "there is no S3 server"
  # so small a cache that blobs must leave it
  begin blobs.driver=s3 s3.bucket=images "s3.endpoint=http://$s3" s3.access_key=portolan \
    "s3.secret_key_file=$work/secret" s3.cache=8MiB
  cut -d: -f2 "$work/key" >"$work/password"
  cat >"$work/prometheus.yml" <<CFG
global: { scrape_interval: 2s }
scrape_configs:
  - job_name: portolan
    basic_auth: { username: PTLNAAAAAAAAAAAAAAAA, password_file: $work/password }
    static_configs: [{ targets: ["$at:7403"] }]
CFG
  "$cache/tools/bin/prometheus" --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" \
    --web.listen-address="$prometheus" --log.level=warn >"$work/prometheus.log" 2>&1 &
  # what is pushed, what the cache keeps, and more than it holds
  for load in "blob-push --size 64KiB" "blob-get --size 1MiB --blobs 2" "blob-get --size 200KiB --blobs 100"; do
    bench $load --duration 25s --clients 3 --rate 10 & loads+=($!)
  done
  for load in "${loads[@]}"; do wait "$load" || fail "the load failed"; done
  tests/ops/board.py ask "http://$prometheus" portolan bucket
  stop
}

case ${1:-} in
  calls | bucket) "$1" ;;
  *) sed -n '2,/^set/p' tests/ops/one.sh | sed '$d;s/^# \?//' >&2; exit 2 ;;
esac
