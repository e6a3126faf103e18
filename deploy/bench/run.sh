#!/usr/bin/env bash
# Measures this server beside distribution, nginx and a three-member etcd, in interleaved rounds on this machine, and
# renders medians and ratios.
#   run.sh                 everything: about two hours and 40 GB of scratch; best on a machine that does nothing else
#   QUICK=1 run.sh         a tenth of the work, one round, nothing large: about fifteen minutes, to try it
# Settings, from the environment:
#   ROUNDS=3               rounds; each measures every system once
#   FROM=1                 the first of them: a run that broke off goes on, with OUT of what it has
#   READ_SECONDS=5 PUSH_SECONDS=10   longest time of a row that reads, of one that pushes
#   SYSTEMS="distribution nginx etcd portolan portolan3"
#   LEAN=1                 only the phases in which a row has a target: about seven minutes a round
#   LARGE=1                also 100,000 tags in one repository, 1,000,000 manifests and a crash, a layer of 10 GiB
#   MANIFESTS=1000000 LAYER=10GiB   how large
#   PROFILE=dev            what `make run` and `make image` ship; release: `cargo build --release`
#   BINARY=FILE            a binary that is built already
#   OUT=DIR                results; default bench-results/<time>
#   WRITE=1                put the tables into src/docs/benchmarks.md
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}; tools=$cache/tools/bench
QUICK=${QUICK:-}; ROUNDS=${ROUNDS:-$([ -n "$QUICK" ] && echo 1 || echo 3)}
SYSTEMS=${SYSTEMS:-distribution nginx etcd portolan portolan3}; LARGE=${LARGE:-$([ -n "$QUICK" ] && echo 0 || echo 1)}
PROFILE=${PROFILE:-dev}; OUT=${OUT:-$root/bench-results/$(date -u +%Y%m%dT%H%M%SZ)}; REGION=${REGION:-74}; PORT=${PORT:-24400}
FROM=${FROM:-1}; READ_SECONDS=${READ_SECONDS:-$([ -n "$QUICK" ] && echo 1 || echo 5)}; PUSH_SECONDS=${PUSH_SECONDS:-10}
mkdir -p "$OUT" "$tools"; OUT=$(cd "$OUT" && pwd)
# Above 85 % a node takes no new blobs, above 92 % no writes at all: rows would fail, and say so only as errors.
wanted=$([ -n "$QUICK" ] && echo 10 || echo 40); free=$(df --output=avail -BG "$OUT" | tail -n 1 | tr -dc 0-9); used=$(df --output=pcent "$OUT" | tail -n 1 | tr -dc 0-9)
if [ "$free" -lt "$wanted" ] || [ "$used" -ge 80 ]; then
  echo "run.sh: $OUT has $free GB free and is $used % full; it needs $wanted GB free and at most 80 %. Free some, or give another OUT" >&2; exit 1
fi
"$here/install-peers.sh" "$tools" >/dev/null
export PATH="$tools:$PATH" BENCH_RUN=$OUT/run
mkdir -p "$BENCH_RUN"

if [ -z "${BINARY:-}" ]; then
  ROCKSDB_LIB_DIR=$("$root/.ci/rocksdb.sh" "$cache")
  export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target} CARGO_BUILD_BUILD_DIR=${CARGO_BUILD_BUILD_DIR:-$cache/build}
  case $PROFILE in
    dev) (cd "$root" && cargo build --locked --bin portolan); BINARY=$CARGO_TARGET_DIR/debug/portolan ;;
    release) (cd "$root" && cargo build --locked --release --bin portolan); BINARY=$CARGO_TARGET_DIR/release/portolan ;;
    *) echo "run.sh: PROFILE is dev or release" >&2; exit 2 ;;
  esac
fi

started=()
finish() { for p in "${started[@]}"; do kill "$p" 2>/dev/null || true; done; for p in "${started[@]}"; do wait "$p" 2>/dev/null || true; done; }
trap finish EXIT
quick=(--read-seconds "$READ_SECONDS" --push-seconds "$PUSH_SECONDS"); [ -z "$QUICK" ] || quick+=(--quick)

new_key() { (umask 077; printf 'PTLN%s:%s\n' "$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n' | tr a-f A-F)" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$1"); }
basic() { printf 'Authorization: Basic %s' "$(tr -d '\n' <"$1" | base64 -w0)"; }
wait_ready() { for _ in $(seq 600); do curl -sf -o /dev/null "$1/readyz" && return; sleep 0.1; done; echo "run.sh: $1 is not ready" >&2; return 1; }
every=(); ours=(); distribution=(); leader_phases=blobpush,images,mput
if [ -n "${LEAN:-}" ]; then
  leader_phases=blobpush,mput; every=(--modes put); distribution=(--phases idle,manifests,blobget,blobpush,herd,after); ours=(--phases idle,manifests,blobget,blobpush,herd,lists,after)
fi
harness() { "$here/registry_bench.py" "${quick[@]}" "${every[@]}" "$@"; }

# One node as `portolan server` starts it without configuration; anonymous pulls by an explicit policy.
start_one() {
  dir=$BENCH_RUN/one; rm -rf "$dir"; mkdir -p "$dir"; key=$dir/root-key; new_key "$key"
  "$BINARY" server --data-dir "$dir/data" --set "listen.public=127.0.0.1:$PORT" --set "listen.raft=127.0.0.1:$((PORT + 1))" \
    --set "listen.blob=127.0.0.1:$((PORT + 2))" --set "listen.admin=127.0.0.1:$((PORT + 3))" --set "auth.root_key_file=$key" \
    --set log.access=false 2>"$dir/log" & pid=$!; started+=("$pid")
  url=http://127.0.0.1:$PORT admin=http://127.0.0.1:$((PORT + 3))
  wait_ready "$admin"
  "$BINARY" user grant anonymous 'read:*' --admin "$admin" --credentials-file "$key" >/dev/null
}
stop_one() { kill "$pid"; wait "$pid" 2>/dev/null || true; rm -rf "$dir"; }

# Three nodes over three zones with mutual TLS between them, as `portolan dev` starts them.
start_three() {
  dir=$BENCH_RUN/three; rm -rf "$dir"; mkdir -p "$dir"
  "$BINARY" dev --dir "$dir" --region "$REGION" --port "$PORT" --set log.access=false >"$dir.log" 2>&1 & pid=$!; started+=("$pid")
  key=$dir/root-key; admin=http://127.$REGION.1.1:$((PORT + 3))
  for _ in $(seq 600); do grep -q 'The cluster is ready' "$dir.log" && break; sleep 0.1; done
  wait_ready "$admin"
  "$BINARY" user grant anonymous 'read:*' --admin "$admin" --credentials-file "$key" >/dev/null
  read -r leader follower < <("$BINARY" cluster status -o json --admin "$admin" --credentials-file "$key" | python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
print(*[next(n["public_url"] for n in nodes if n["leads"] == leads) for leads in (True, False)])')
}

settings() {
  echo "machine: $(nproc) cores, $(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ {printf "%d GiB", $2 / 1048576}' /proc/meminfo), kernel $(uname -r), $(findmnt -no FSTYPE -T "$OUT") under $OUT"
  echo "portolan: $("$BINARY" --version), profile $PROFILE, commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo "  one node: portolan server, defaults but addresses, a root key and log.access=false; reads without a credential by the policy 'anonymous read:*', writes with Basic"
  echo "  three nodes: portolan dev (zones a, b, c; mutual TLS between nodes), log.access=false"
  "$BINARY" config print-effective 2>/dev/null | sed -n '/^\[\(raft\|http\|blobs\|log\)\]/,/^$/p' | grep -v '^#' | sed 's/^/    /' || true
  echo "distribution: $(registry --version 2>&1), file system driver, in-memory descriptor cache, access log off, no authentication"
  echo "nginx: $(nginx -v 2>&1), sendfile, two workers, access log off, open_file_cache, the same files"
  echo "etcd: $(etcd --version | head -n 1), three members, defaults but the backend quota, no TLS"
  echo "wrk: $(wrk -v 2>&1 | head -n 1)"
  echo "clients: deploy/bench/loadgen, wrk, deploy/bench/etcdload, on the same machine"
}
settings | tee "$OUT/settings.txt"
# The first touch of a virtual machine's memory can cost ten times what every later one does (2 ms against 0.2 ms per MB
# of page cache here): without this the rows that run first, and every large push, would pay for it.
python3 -c '
import mmap
kib = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemAvailable"))
mmap.mmap(-1, kib * 1024 * 7 // 10, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0x8000)).close()'
"$here/limits.py" --dir "$BENCH_RUN/limits" --json "$OUT/limits.json" --seconds "$([ -n "$QUICK" ] && echo 1 || echo 3)" >/dev/null

for round in $(seq "$FROM" "$ROUNDS"); do
  for system in $SYSTEMS; do
    echo "== round $round: $system"
    case $system in
      distribution)
        pids=$("$here/peers.sh" start distribution $((PORT + 20)))
        harness --url "http://127.0.0.1:$((PORT + 20))" --name distribution --json "$OUT/distribution.$round.json" --pid "${pids%%,*}" "${distribution[@]}" || true
        "$here/peers.sh" stop distribution; "$here/peers.sh" wipe distribution ;;
      nginx)
        pids=$("$here/peers.sh" start nginx-static $((PORT + 21)))
        harness --url "http://127.0.0.1:$((PORT + 21))" --name nginx --json "$OUT/nginx.$round.json" --pid "${pids%%,*}" \
          --static "$BENCH_RUN/nginx-static/root" --phases idle,manifests,blobget,herd,after || true
        "$here/peers.sh" stop nginx-static; "$here/peers.sh" wipe nginx-static ;;
      etcd) "$here/etcd_bench.sh" "$OUT/etcd.$round.json" || true; rm -rf "$BENCH_RUN/etcd" ;;
      portolan)
        start_one
        harness --url "$url" --name portolan --json "$OUT/portolan.$round.json" --pid "$pid" --header "$(basic "$key")" --read-header '' "${ours[@]}" || true
        harness --url "$url" --name "portolan, Basic" --json "$OUT/portolan-basic.$round.json" --pid "$pid" --header "$(basic "$key")" --phases manifests || true
        "$here/bearer.py" --portolan "$BINARY" --url "$url" --key "$key" --pid "$pid" --seconds "$([ -n "$QUICK" ] && echo 2 || echo 5)" --json "$OUT/portolan-bearer.$round.json" || true
        stop_one ;;
      portolan3)
        start_three
        harness --url "$follower" --name "portolan, a follower of three" --json "$OUT/portolan3-follower.$round.json" --pid "$pid" --header "$(basic "$key")" --read-header '' \
          --phases idle,manifests,blobget,mput,after || true
        harness --url "$leader" --name "portolan, the leader of three" --json "$OUT/portolan3-leader.$round.json" --pid "$pid" --header "$(basic "$key")" --read-header '' \
          --phases $leader_phases || true
        kill "$pid"; wait "$pid" 2>/dev/null || true; rm -rf "$dir" ;;
      *) echo "run.sh: no system $system" >&2; exit 2 ;;
    esac
  done
done

if [ "$LARGE" = 1 ]; then
  echo "== large: 100,000 tags in one repository"
  start_one
  harness --url "$url" --name "portolan, 100,000 tags" --json "$OUT/portolan-tags.1.json" --pid "$pid" --header "$(basic "$key")" --read-header '' \
    --phases lists --tags 100000 --tags-clients 64 --tags-seconds 1800 || true
  stop_one
  echo "== large: ${MANIFESTS:-1000000} manifests and a crash, a layer of ${LAYER:-10GiB}"
  "$here/large.py" --portolan "$BINARY" --dir "$BENCH_RUN/large" --json "$OUT/large.json" --port "$PORT" \
    --manifests "${MANIFESTS:-1000000}" --layer "${LAYER:-10GiB}" || true
fi

"$here/render.py" "$OUT" >"$OUT/tables.md"
echo "results: $OUT; tables: $OUT/tables.md"
[ -z "${WRITE:-}" ] || "$here/render.py" "$OUT" --into "$root/src/docs/benchmarks.md"
