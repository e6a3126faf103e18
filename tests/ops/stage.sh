#!/usr/bin/env bash
# A cluster of three nodes on loopback with Prometheus beside it, for drills: installed as src/docs/operations.md says it
# for machines with systemd, from the very files in deploy/, with the alerts' waits cut down to seconds (hasten.py).
# Beside it another region, "far", which is node d alone: what is pushed there below far/ is copied here. Prometheus
# does not watch it.
#   stage.sh up                 starts it; prints what to do next
#   stage.sh down               stops it and removes its directory
#   stage.sh env                for eval: puts `portolan`, `on`, `alerts` and the shims below into this shell
#   stage.sh on NODE 'COMMAND'  runs a command as on that node (a, b, c or d), as `ssh NODE 'COMMAND'` would; leader is
#                               the one of a, b and c that leads
#   stage.sh alerts             the alerts that fire now
#   stage.sh wait ALERT firing|gone [SECONDS=120]
#   stage.sh load [SECONDS]     pulls, pushes and lists at all nodes
# On a node of the stage `systemctl` and `journalctl` are shims for the unit "portolan": its restart policy, its
# environment file and its log. $ETC stands for /etc/portolan, $DATA for /var/lib/portolan, $LOGS for /var/log/portolan.
# Settings: STAGE=directory, PORTOLAN=binary, REGION=where nodes listen (127.REGION.x.1).
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
binary=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
tools=$cache/tools/bin
stage=${STAGE:-/tmp/portolan-stage} region=${REGION:-14}
if [ -e "$stage/settings" ]; then . "$stage/settings"; fi
prometheus=127.$region.0.1:9090 fake=127.$region.0.1:9091

fail() { echo "stage.sh: $*" >&2; exit 1; }
address() {
  case $1 in
    a) echo "127.$region.1.1" ;; b) echo "127.$region.2.1" ;; c) echo "127.$region.3.1" ;; d) echo "127.$region.4.1" ;;
    *) fail "no node $1" ;;
  esac
}
# The directory of the authority that a node is of
setup_of() { if [ "$1" = d ]; then echo "$stage/far"; else echo "$stage/setup"; fi; }
node_env() {
  local node=$1 setup; setup=$(setup_of "$1")
  local etc=$setup/nodes/$node
  echo "export NODE=$node ETC=$etc DATA=$stage/data/$node LOGS=$stage/log/$node ADDRESS=$(address "$node")"
  echo "export STAGE=$stage PATH=$stage/bin:$tools:\$PATH PORTOLAN_CONFIG=$etc/portolan.toml SETUP=$setup"
  # as the unit sets them; the address of its own is what a machine has
  echo "export PORTOLAN_NODE_DATA_DIR=$stage/data/$node PORTOLAN_NODE_BIND_SOURCE=$(address "$node")"
  echo "export PORTOLAN_CREDENTIALS_FILE=$etc/root-key PROMETHEUS=http://$prometheus"
}

## What systemd does on a machine, as far as the unit says it: restarts, the environment file, stop within its time.
supervise() {
  local node=$1 code
  eval "$(node_env "$node")"
  echo $$ >"$LOGS/supervisor"
  while [ -e "$LOGS/wanted" ]; do
    (set -a; [ ! -e "$ETC/portolan.env" ] || . "$ETC/portolan.env"; set +a; exec portolan server) >>"$LOGS/node.log" 2>&1 &
    echo $! >"$LOGS/pid"
    code=0; wait $! || code=$?
    rm -f "$LOGS/pid"
    case $code in 0 | 2 | 130) return ;; esac
    [ -e "$LOGS/wanted" ] || return
    echo "systemd: portolan.service ended with $code, starts again" >>"$LOGS/node.log"; sleep 1
  done
}
lives() { [ -e "$stage/log/$1" ] && kill -0 "$(cat "$stage/log/$1")" 2>/dev/null; }
runs() { lives "$1/pid"; }
ask() { curl -s -o /dev/null -m 2 --cacert "$(setup_of "$1")/ca.pem" "https://$(address "$1"):7403/$2" -f; }
start() {
  runs "$1" && return
  touch "$stage/log/$1/wanted"
  # a second one beside one that is about to start the process again would be in its way
  if ! lives "$1/supervisor"; then setsid "$here/tests/ops/stage.sh" supervise "$1" </dev/null >/dev/null 2>&1 & fi
  for _ in $(seq 100); do ask "$1" livez && return; sleep 0.1; done
  echo "portolan.service did not come up; journalctl -u portolan says why" >&2; return 1
}
stop() {
  local pid='' now; rm -f "$stage/log/$1/wanted"
  for _ in $(seq 200); do
    lives "$1/supervisor" || return 0
    now=$(cat "$stage/log/$1/pid" 2>/dev/null) || now=$pid
    [ "$now" = "$pid" ] || { pid=$now; kill -TERM "$pid" 2>/dev/null || true; }
    sleep 0.1
  done
  kill -KILL "$pid" # TimeoutStopSec
}
systemctl() {
  case "$1 ${2:-}" in
    "start portolan") start "$NODE" ;;
    "stop portolan") stop "$NODE" ;;
    "restart portolan") stop "$NODE"; start "$NODE" ;;
    "kill -s") kill -s "$3" "$(cat "$LOGS/pid")" ;;
    "is-active portolan") if runs "$NODE"; then echo active; else echo inactive; return 3; fi ;;
    "show -p") cat "$LOGS/pid" 2>/dev/null || echo 0 ;; # show -p MainPID --value portolan
    *) fail "systemctl $*: not on this stage" ;;
  esac
}
journalctl() { # -u portolan [-n LINES] [-g PATTERN]
  local lines=1000 pattern=.; shift 2
  while [ $# -gt 0 ]; do case $1 in -n) lines=$2 ;; -g) pattern=$2 ;; *) fail "journalctl $1: not on this stage" ;; esac; shift 2; done
  grep -E -- "$pattern" "$LOGS/node.log" | tail -n "$lines"
}

up() {
  local node at
  [ ! -e "$stage" ] || fail "$stage is there already: \`$0 down\` first"
  [ -x "$binary" ] || fail "no binary at $binary: \`make build\` first"
  "$here/tests/ops/install.sh"
  mkdir -p "$stage"/{bin,data,prometheus,fake}; chmod 700 "$stage"
  printf 'region=%q binary=%q stage=%q\n' "$region" "$binary" "$stage" >"$stage/settings"
  ln -s "$binary" "$stage/bin/portolan"
  for at in systemctl journalctl on alerts; do
    printf '#!/bin/sh\nSTAGE=%s exec %s %s "$@"\n' "$stage" "$here/tests/ops/stage.sh" "$at" >"$stage/bin/$at"; chmod +x "$stage/bin/$at"
  done
  found local 1 a b c
  found far 2 d
  watch_it
  link
  for _ in $(seq 100); do [ "$(query 'count(up == 1)')" = 4 ] && break; sleep 0.3; done
  [ "$(query 'count(up == 1)')" = 4 ] || fail "Prometheus does not see three nodes: http://$prometheus/targets"
  echo "The stage is up: nodes a, b and c, and d of another region, below $stage, Prometheus at http://$prometheus."
  echo "In a shell:"
  echo "  eval \"\$($here/tests/ops/stage.sh env)\""
}

# found REGION NUMBER NODE…: certificates, configurations, processes, a cluster of them.
found() {
  local name=$1 number=$2 node setup nodes=() urls=(); shift 2
  setup=$(setup_of "$1")
  for node in "$@"; do nodes+=("--node=$node=$(address $node)"); urls+=("--node=https://$(address $node):7403"); done
  "$binary" cluster prepare --dir "$setup" "${nodes[@]}" >/dev/null
  for node in "$@"; do
    mkdir -p "$stage/log/$node" "$stage/data/$node"
    sed -e "s|node-a.example|$(address $node)|; s|0\.0\.0\.0:740|$(address $node):740|" \
      -e "s|zone = \"a\"|zone = \"$node\"|; s|region = \"local\"|region = \"$name\"|" \
      -e "s|/etc/portolan|$setup/nodes/$node|; s|/var/log/portolan|$stage/log/$node|" \
      "$here/deploy/systemd/portolan.toml" >"$setup/nodes/$node/portolan.toml"
    # small, so that it can be filled; the disk below is shared with everything else
    echo "PORTOLAN_BLOBS_CAPACITY=300MiB" >"$setup/nodes/$node/portolan.env"
    echo "PORTOLAN_NODE_REGION_NUMBER=$number" >>"$setup/nodes/$node/portolan.env"
    echo "PORTOLAN_LISTEN_REGION=$(address $node):7404" >>"$setup/nodes/$node/portolan.env"
    chmod 600 "$setup/nodes/$node"/portolan.*
    start $node
  done
  "$binary" cluster form "${urls[@]}" --ca "$setup/ca.pem" --cert "$setup/operators/setup/operator.pem" \
    --key "$setup/operators/setup/operator.key" >/dev/null
}

# Both regions know each other, "far" sends what is below far/, and both are seen to be equal.
link() {
  on d 'portolan region card' | on a 'portolan region add -' >/dev/null
  on a 'portolan region card' | on d 'portolan region add -' >/dev/null
  on d 'portolan replication set -' >/dev/null <<'RULES'
{ "rules": [ { "destinations": [ { "region": "local", "registryId": "000000000000" } ],
               "repositoryFilters": [ { "filter": "far/", "filterType": "PREFIX_MATCH" } ] } ] }
RULES
  for _ in $(seq 100); do on leader 'portolan replication verify far' >/dev/null 2>&1 && return; sleep 0.3; done
  fail "the regions do not come to be equal: $(on leader 'portolan region list' 2>&1)"
}

# Prometheus: the user for it as deploy/prometheus/prometheus.yml says, its configuration with this stage's addresses.
watch_it() {
  eval "$(node_env a)"; cd "$here"
  portolan user create metrics >/dev/null && portolan user policy put metrics read-cluster deploy/prometheus/policy.json >/dev/null
  portolan user key create metrics --save-credentials "$stage/metrics.key" >/dev/null
  cut -d: -f2 "$stage/metrics.key" >"$stage/prometheus/password"
  sed -e "s|PTLNX*|$(cut -d: -f1 "$stage/metrics.key")|; s|/etc/prometheus/portolan-password|$stage/prometheus/password|" \
    -e "s|/etc/prometheus/portolan-ca.pem|$stage/setup/ca.pem|; s|_interval: 15s|_interval: 2s|; s|scrape_timeout: 5s|scrape_timeout: 2s|" \
    -e "s|node-a.example:7403|$(address a):7403|; s|node-b.example:7403|$(address b):7403|" \
    -e "s|node-c.example:7403|$(address c):7403|" deploy/prometheus/prometheus.yml >"$stage/prometheus/prometheus.yml"
  cat >>"$stage/prometheus/prometheus.yml" <<CFG
  # what no command provokes on a healthy node: a page of metrics by hand, $stage/fake/metrics
  - job_name: portolan-fake
    fallback_scrape_protocol: PrometheusText0.0.4
    static_configs: [{ targets: ["$fake"] }]
CFG
  "$here/tests/ops/hasten.py" <deploy/prometheus/alerts.yml >"$stage/prometheus/alerts.yml"
  : >"$stage/fake/metrics"
  (cd "$stage/fake" && exec setsid python3 -m http.server --bind "${fake%:*}" "${fake#*:}") >/dev/null 2>&1 </dev/null &
  echo $! >"$stage/fake.pid"
  setsid "$tools/prometheus" --config.file="$stage/prometheus/prometheus.yml" --storage.tsdb.path="$stage/prometheus/data" \
    --web.listen-address="$prometheus" --log.level=warn >"$stage/prometheus/log" 2>&1 </dev/null &
  echo $! >"$stage/prometheus.pid"
}

down() {
  local node
  [ -e "$stage/settings" ] || return 0
  for node in a b c d; do stop $node & done; wait
  for node in prometheus fake; do [ ! -e "$stage/$node.pid" ] || kill "$(cat "$stage/$node.pid")" 2>/dev/null || true; done
  sleep 1; ! mountpoint -q "$stage/small" || umount -l "$stage/small"
  rm -rf "$stage"
}

# The node that leads, as the first one says that answers
leader() {
  local node
  for node in a b c; do
    on $node "portolan cluster status -o json | jq -er '.nodes[] | select(.leads).zone'" 2>/dev/null && return
  done
  fail "nobody knows who leads"
}
on() {
  local node=${1:?on NODE COMMAND}; shift
  [ "$node" != leader ] || node=$(leader)
  (eval "$(node_env "$node")"; exec bash -euo pipefail -c "$*")
}

query() { # the first value of an instant query
  curl -s -m 5 --data-urlencode "query=$1" "http://$prometheus/api/v1/query" |
    python3 -c 'import json,sys; r = json.load(sys.stdin)["data"]["result"]; print(r[0]["value"][1] if r else "")' 2>/dev/null || true
}
alerts() {
  curl -s -m 5 "http://$prometheus/api/v1/alerts" | python3 -c '
import json, sys
for a in json.load(sys.stdin)["data"]["alerts"]:
    if a["state"] == "firing": print(a["labels"]["severity"], a["labels"]["alertname"], "-", a["annotations"]["summary"])'
}
await() {
  local alert=$1 state=$2 until=$((SECONDS + ${3:-120}))
  while [ $SECONDS -lt $until ]; do
    case $state in
      firing) alerts >"$stage/alerts.now" && grep -q " $alert - " "$stage/alerts.now" && return ;;
      gone) alerts >"$stage/alerts.now" && ! grep -q " $alert - " "$stage/alerts.now" && return ;;
    esac
    sleep 1
  done
  return 1
}
load() {
  eval "$(node_env a)"
  local seconds=${1:-10} at=() node
  for node in a b c; do at+=(--registry "https://$(address $node):7400"); done
  portolan bench manifest-put --duration "${seconds}s" --clients 3 --rate 20 --ca "$SETUP/ca.pem" "${at[@]}" >/dev/null &
  portolan bench manifest-get --duration "${seconds}s" --clients 3 --rate 40 --ca "$SETUP/ca.pem" "${at[@]}" --prefix pull >/dev/null &
  portolan bench blob-push --duration "${seconds}s" --clients 3 --rate 10 --ca "$SETUP/ca.pem" "${at[@]}" --prefix push >/dev/null &
  portolan bench blob-get --duration "${seconds}s" --clients 3 --rate 20 --ca "$SETUP/ca.pem" "${at[@]}" --prefix get >/dev/null &
  wait
}

command=${1:-}; [ $# = 0 ] || shift
case $command in
  up | down | on | supervise | systemctl | journalctl | alerts | load) "$command" "$@" ;;
  env) node_env a ;;
  wait) await "$@" || fail "$1 is not $2 after ${3:-120} s; these fire: $(alerts)" ;;
  query) query "$1" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \?//' >&2; exit 2 ;;
esac
