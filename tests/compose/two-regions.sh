#!/usr/bin/env bash
# Runs deploy/compose/two-regions.yml with both versions of compose. Behind its balancers: cards exchanged and a rule
# set by command, docker pushes in one region and pulls in the other, the image's status is COMPLETE, `replication verify`
# says equal and so does `deploy/replication/equal.py`, from both exports; then the leader
# of each region is killed, what lies between them is cut, and one of them is lost for good, taken over from and made
# anew (lost.sh). And with small.yml, three nodes and one, no balancers.
# Needs root, installs what is missing (apt, the Go module proxy), starts dockerd if none runs; pulls no image.
#   tests/compose/two-regions.sh [1] [2]     which versions of compose; both without. PORTOLAN=binary for the image
#   SIZES="full small" for one of them, KEEP=1 leaves the last regions running
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
base=${BASE_PORT:-22430}
# shellcheck source=lib.sh
. "$here/tests/compose/lib.sh"
# shellcheck source=lost.sh
. "$here/tests/compose/lost.sh"
file=$here/deploy/compose/two-regions.yml haproxy_image=portolan-test-haproxy:2
size='' balancers=''

trap 'code=$?; end_name; leave $code' EXIT

nodes() { # REGION
  if [ "$1 $size" = "us small" ]; then echo us-a; else echo "$1-a $1-b $1-c"; fi
}
port_of() {
  case $1 in
    balancer-eu) echo $base ;;
    eu-a) echo $((base + 1)) ;; eu-b) echo $((base + 2)) ;; eu-c) echo $((base + 3)) ;;
    balancer-us) echo $((base + 10)) ;;
    us-a) echo $((base + 11)) ;; us-b) echo $((base + 12)) ;; us-c) echo $((base + 13)) ;;
  esac
}
# Where clients come in
door() { if [ $size = full ]; then at "balancer-$1"; else at "$1-a"; fi; }
is_running() { [ "$(docker inspect -f '{{.State.Running}}' "$(container "$1")")" = true ]; }
# The node that leads, as one that runs says
leader() { # REGION
  local node zone
  for node in $(nodes "$1"); do
    is_running "$node" || continue
    portolan_in "$node" cluster status -o json >"$work/status.json" 2>/dev/null || continue
    zone=$(jq -r '.nodes[] | select(.leads) | .zone' "$work/status.json")
    [ -z "$zone" ] || { echo "$1-$zone"; return; }
  done
  return 1
}
has_leader() { local node; node=$(leader "$1") && is_running "$node"; }
answers() { [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' "http://$1/v2/")" = 401 ]; }

# Containers of all that is to be there
containers() {
  local it
  for it in prepare-eu form-eu prepare-us form-us $(nodes eu) $(nodes us) $balancers; do container "$it"; done
}
up_regions() {
  compose up -d >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "compose up"; }
  until_ok 180 "eu is formed" has_formed form-eu
  until_ok 180 "us is formed" has_formed form-us
  wait_healthy "$(nodes eu) $(nodes us)"
}

## Up, and up again; then the two lines that the file itself says.
bring_up() {
  local before node running
  say "compose $version: $(compose version --short 2>/dev/null), $size: $(nodes eu) and $(nodes us)"
  up_regions
  before=$(containers); up_regions
  [ "$before" = "$(containers)" ] || fail "a second up made other containers"
  running=$(docker ps -q --filter "label=com.docker.compose.project=$project" | wc -l)
  [ "$running" = "$(wc -w <<<"$(nodes eu) $(nodes us) $balancers")" ] || fail "$running containers run"
  for node in $(nodes eu) $(nodes us); do
    [ "$(docker port "$(container "$node")" | grep -vc '127.0.0.1')" = 0 ] || fail "a port is open beyond loopback"
  done
  introduce eu us; introduce us eu
  until_ok 30 "eu answers" answers "$(door eu)"; until_ok 30 "us answers" answers "$(door us)"
  log_in eu-a "$(door eu)"; log_in us-a "$(door us)"
  set_rule eu us '"backfill": { "enabled": false }'
}
introduce() { # REGION TO: as the file says it
  compose exec -T "$1-a" portolan region card </dev/null | compose exec -T "$2-a" portolan region add - >"$work/add" ||
    fail "$2 takes no card"
}
set_rule() { # REGION TO MORE: what else the rule says
  compose exec -T "$1-a" portolan replication set - >"$work/set" <<RULES || fail "the rule is not taken"
{ "rules": [ { "destinations": [ { "region": "$2", "registryId": "000000000000" } ], $3,
               "repositoryFilters": [ { "filter": "team/", "filterType": "PREFIX_MATCH" } ] } ] }
RULES
}

## docker pushes in eu, waits for it to arrive, and pulls in us what it pushed.
push_there() { push_to "$(door eu)" "$1"; }
push_to() { # PLACE NAME: pushes team/NAME:1, twice if need be; docker repeats no manifest by itself
  local image=$1/team/$2:1; shift
  make_image "$image" 2 2; id_of "$image" >"$work/id"
  docker push -q "$image" >"$work/push.log" 2>&1 || docker push -q "$image" >"$work/push.log" 2>&1 ||
    { cat "$work/push.log"; fail "push of $1"; }
  forget_images "$image"
}
is_there() { docker pull -q "$1"; }
pull_here() {
  local image since=$SECONDS; image=$(door us)/team/$1:1
  until_ok 90 "$1 arrives in us" is_there "$image"
  [ "$(id_of "$image")" = "$(cat "$work/id")" ] || fail "us gave another image than eu took: $1"
  forget_images "$image"
  say "  $1: pushed in eu, pulled in us within $((SECONDS - since)) s"
}
push_and_pull() { push_there "$1"; pull_here "$1"; is_told_complete "$1"; }

is_complete() { # NAME: what eu says of it, where it was pushed
  portolan_in "$(leader eu)" replication image "team/$1" 1 -o json >"$work/image.json" &&
    jq -e '[.replicationStatuses[] | [.region, .status]] == [["us", "COMPLETE"]]' "$work/image.json"
}
is_told_complete() { until_ok 30 "$1 is COMPLETE in us, by eu's word" is_complete "$1"; }

is_equal() { # REGION OTHER
  portolan_in "$(leader "$1")" replication verify "$2" -o json >"$work/verify.json" &&
    jq -e '.regions[0].last | .clean and .repositories > 0 and .repositories == .equal' "$work/verify.json"
}
verify() {
  until_ok 120 "both regions are equal" is_equal us eu
  say "  verify: $(jq -c '.regions[0].last | {repositories, equal, records, differences}' "$work/verify.json")"
  recompute
}
recompute() { # from both exports, and nothing else
  portolan_in "$(leader eu)" replication export us --direction to >"$work/eu.jsonl" || fail "no export of eu"
  portolan_in "$(leader us)" replication export eu --direction from >"$work/us.jsonl" || fail "no export of us"
  python3 "$here/deploy/replication/equal.py" "$work/eu.jsonl" "$work/us.jsonl" >"$work/equal" ||
    { cat "$work/equal"; fail "the exports differ"; }
  grep -qE '^[1-9][0-9]* repositories, [1-9][0-9]* records, 0 differ$' "$work/equal" || { cat "$work/equal"; fail "the exports hold nothing"; }
  say "  exports: $(head -1 "$work/equal"); $(sed -n 's/ at index.*//p' "$work/equal" | paste -sd' ')"
}

kill_leader() { # REGION: a client of the balancer goes on
  local node; node=$(leader "$1"); kill_node "$node"
  push_and_pull "leader-of-$1"
  start_node "$node"; until_ok 30 "$1 has a leader" has_leader "$1"
}

## Nothing gets from one region to the other, each goes on; then everything arrives by itself.
disconnect_us() { local node; for node in $(nodes us); do docker network disconnect "${project}_wan" "$(container "$node")"; done; }
connect_us() {
  local node
  for node in $(nodes us); do
    # compose 2 has done so at an `up`, compose 1 has not
    docker inspect -f '{{json .NetworkSettings.Networks}}' "$(container "$node")" | grep -q "\"${project}_wan\"" ||
      docker network connect --alias "$node" "${project}_wan" "$(container "$node")"
  done
}
cut_wan() {
  disconnect_us
  push_there cut
  sleep 5
  is_there "$(door us)/team/cut:1" >/dev/null 2>&1 && fail "nothing is cut"
  connect_us
  pull_here cut
}

scenario() {
  local place port
  version=$1 size=$2 project=portolan-regions-$1
  for place in eu us eu-a eu-b eu-c us-a us-b us-c; do
    port=$(port_of "$place"); [ -n "$port" ] || port=$(port_of "balancer-$place")
    place=${place^^}; export "PORTOLAN_PORT_${place/-/_}=$port"
  done
  export PORTOLAN_HAPROXY_IMAGE=$haproxy_image
  if [ "$size" = full ]; then
    override=(-f "$here/deploy/compose/balancers.yml") balancers="balancer-eu balancer-us"
  else
    override=(-f "$here/deploy/compose/small.yml") balancers=''
  fi
  compose down -v --remove-orphans >/dev/null 2>&1 || true
  bring_up
  push_and_pull first; verify
  if [ "$size" = full ]; then kill_leader eu; kill_leader us; cut_wan; verify; lose_region; fi
  forget_images $(docker image ls --format '{{.Repository}}:{{.Tag}}' | grep "^127.0.0.1:$((base / 100))" || true)
  [ "${KEEP:-0}" = 1 ] || { compose down -v --remove-orphans >/dev/null 2>&1; project=''; }
}

install_tools
"$here/deploy/docker/image.sh" "$binary" 2>/dev/null
make_haproxy_image "$haproxy_image"
[ $# -gt 0 ] || set -- 1 2
for wanted; do
  for size in ${SIZES:-full small}; do
    started=$SECONDS; scenario "$wanted" "$size"; say "compose $wanted, $size: passed in $((SECONDS - started)) s"
  done
done
forget_images "$haproxy_image"
