#!/usr/bin/env bash
# Runs docker-compose.yml with both versions of compose: push and pull by docker, a node killed beside and under a
# client, alone and behind HAProxy and nginx; then three healthy nodes and three copies of every blob. Needs root,
# installs what is missing (apt, the Go module proxy), starts dockerd if none runs; pulls no image.
#   tests/compose/run.sh [1] [2]     which versions of compose; both without. PORTOLAN=binary for the image
#   MIB=500 size of the large images, STEPS="push_and_pull kill_under" for some of the steps below, KEEP=1 leaves the last
#   cluster running
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mib=${MIB:-500}; base=${BASE_PORT:-22410}; layers=5
# shellcheck source=lib.sh
. "$here/tests/compose/lib.sh"
file=$here/docker-compose.yml haproxy='' nginx='' hosts=''
# what the host's connections to published ports come from: gateways of docker's networks
trusted=172.16.0.0/12,192.168.0.0/16

clean_up() {
  local code=$?
  [ -z "$haproxy" ] || kill "$haproxy" 2>/dev/null || true
  [ -z "$nginx" ] || kill "$nginx" 2>/dev/null || true
  [ -z "$hosts" ] || { sed -i "/ $hosts\$/d" /etc/hosts; rm -rf "/etc/docker/certs.d/$hosts:7400"; }
  leave $code
}
trap clean_up EXIT

## Up, and up again: certificates, key, data and containers stay.
bring_up() {
  local before key
  say "compose $version: $(compose version --short 2>/dev/null)"
  up
  before=$(for s in prepare form node-a node-b node-c; do container $s; done); key=$(portolan_in node-a cluster first-key --bare | sha256sum)
  up
  [ "$before" = "$(for s in prepare form node-a node-b node-c; do container $s; done)" ] || fail "a second up made other containers"
  [ "$key" = "$(portolan_in node-b cluster first-key --bare | sha256sum)" ] || fail "a second up made another key"
  [ "$(docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' "$(container node-a)")" = "65532:65532 true [ALL]" ] ||
    fail "a node has more rights than it needs"
  [ "$(docker port "$(container node-a)" | grep -vc '127.0.0.1')" = 0 ] || fail "a port is open beyond loopback"
  docker logs "$(container prepare)" >"$work/prepare.log" 2>&1; grep -q kept "$work/prepare.log" || fail "the second up prepared anew"
  start_haproxy; start_nginx
  log_in node-a "$(at node-a)" "$(at node-b)" "$(at node-c)" "$(at balancer)"
}

## docker pushes to one node, pulls from the others by tag and by digest.
push_and_pull() {
  local image id digest
  image=$(at node-a)/team/small:1
  printf 'hello from %s\n' "$version" >"$work/hello"; tar -c -C "$work" hello | docker import - "$image" >/dev/null
  id=$(id_of "$image"); docker push -q "$image" >/dev/null || fail "push to node-a"
  digest=$(docker image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n 's/.*@//p' | head -1)
  forget_images "$image"
  docker pull -q "$(at node-b)/team/small:1" >/dev/null || fail "pull from node-b by tag"
  [ "$(id_of "$(at node-b)/team/small:1")" = "$id" ] || fail "node-b gave another image"
  forget_images "$(at node-b)/team/small:1"
  docker pull -q "$(at node-c)/team/small@$digest" >/dev/null || fail "pull from node-c by digest"
  forget_images "$(at node-c)/team/small@$digest"
  until_ok 60 "three copies of team/small" has_three_copies team/small:1
  say "  pushed to one node, pulled from the two others"
}

## A push that repeats at most once; a repeat sends no layer that was finished.
push_once_or_twice() {
  local image=$1 log=$2
  if docker push "$image" >"$log" 2>&1; then say "  the push succeeded; docker repeated $(sed -n 's/: Retrying.*//p' "$log" | sort -u | wc -l) of $layers layers by itself"; return; fi
  say "  docker gave up: $(tail -1 "$log" | cut -c1-160)"
  docker push "$image" >"$log.again" 2>&1 || { tail -3 "$log.again"; fail "the repeated push"; }
  local layer
  for layer in $(sed -n 's/^\([0-9a-f]\{12\}\): Pushed$/\1/p' "$log"); do
    grep -q "^$layer: Layer already exists" "$log.again" || fail "layer $layer was sent twice"
  done
  say "  one repeat succeeded, $(grep -c 'already exists' "$log.again" || true) of $layers layers were there already"
}

# Kills the node that most of the client's transfers go through, once they have gone on for SECONDS
kill_when_moving() {
  local since=$SECONDS end=$((SECONDS + 240)) node=
  until [ -n "$node" ] && [ $((SECONDS - since)) -ge "$1" ]; do
    node=$(busiest) || since=$SECONDS
    [ $SECONDS -lt $end ] || { say "  no transfer was seen" >&2; return 1; }
    sleep 0.1
  done
  echo "$node" >"$work/killed"; kill_node "$node"
}
pushed_bytes() { du -sb "$(docker volume inspect -f '{{.Mountpoint}}' "${project}_data-a")" | cut -f1; }
kill_when_stored() { # NODE: once a fifth of the image lies on node-a
  local start end; start=$(pushed_bytes); end=$((SECONDS + 240))
  until [ $(($(pushed_bytes) - start)) -gt $((mib * 1024 * 1024 / 5)) ]; do
    [ $SECONDS -lt $end ] || { say "  no upload was seen" >&2; return 1; }
    sleep 0.1
  done
  kill_node "$1"
}

## A node dies that the client does not talk to: the client notices nothing.
kill_beside() {
  local image id killer; image=$(at node-a)/team/beside:1
  make_image "$image" $layers $((mib / layers)); id=$(id_of "$image")
  say "  push of $mib MiB to node-a"
  kill_when_stored node-c & killer=$!
  docker push "$image" >"$work/push.log" 2>&1 || { tail -3 "$work/push.log"; fail "push while node-c was killed"; }
  wait $killer || fail "nothing was killed"
  grep -qi retrying "$work/push.log" && fail "the client noticed: $(grep -i retrying "$work/push.log" | head -1)"
  start_node node-c; until_ok 180 "three copies of team/beside" has_three_copies team/beside:1
  forget_images "$image"
  say "  pull of $mib MiB from node-b"
  (sleep 1.5; kill_node node-a) & killer=$!
  docker pull "$(at node-b)/team/beside:1" >"$work/pull.log" 2>&1 || { tail -3 "$work/pull.log"; fail "pull while node-a was killed"; }
  wait $killer; [ "$(id_of "$(at node-b)/team/beside:1")" = "$id" ] || fail "another image came back"
  start_node node-a; forget_images "$(at node-b)/team/beside:1"
  say "  three healthy nodes, three copies of each blob"
}

## Behind the balancer the node dies that the client talks to.
kill_under() {
  local image id killer before; image=$(at balancer)/team/under:1
  make_image "$image" $layers $((mib / layers)); id=$(id_of "$image")
  say "  push of $mib MiB through HAProxy"
  before=$(broken_off); kill_when_moving 4 & killer=$!
  push_once_or_twice "$image" "$work/under.log"
  wait $killer || fail "nothing was killed"
  [ "$(broken_off)" -gt "$before" ] || fail "the client did not talk to the node that was killed"
  start_node "$(cat "$work/killed")"; until_ok 15 "haproxy sees three nodes" sees_nodes 3
  until_ok 180 "three copies of team/under" has_three_copies team/under:1
  forget_images "$image"
  say "  pull of $mib MiB through HAProxy"
  # a fast disk may have given all layers by the time of the kill, which then shows nothing: once more, a little earlier
  local moving
  for moving in 1 0 0 0 0; do
    before=$(broken_off); kill_when_moving $moving & killer=$!
    docker pull "$image" >"$work/pull.log" 2>&1 || { tail -3 "$work/pull.log"; fail "pull while its node was killed"; }
    wait $killer || fail "nothing was killed"
    [ "$(id_of "$image")" = "$id" ] || fail "another image came back"
    [ "$(broken_off)" -eq "$before" ] || break
    start_node "$(cat "$work/killed")"; until_ok 15 "haproxy sees three nodes" sees_nodes 3
    forget_images "$image"
  done
  [ "$(broken_off)" -gt "$before" ] || fail "the client never talked to the node that was killed"
  start_node "$(cat "$work/killed")"; until_ok 15 "haproxy sees three nodes" sees_nodes 3
  say "  three healthy nodes, three copies of each blob"
}

## A node dies around the end of a push, whichever it is: mostly the balancer's and the nodes' patience hides it.
kill_at_the_end() {
  local delay node image turn=0
  for delay in 0.15 0.4 0.8; do
    turn=$((turn + 1)); node=$(sed -n "${turn}p" <<<$'node-a\nnode-b\nnode-c'); image=$(at balancer)/team/end:$turn
    make_image "$image" $layers 2
    (sleep $delay; kill_node "$node") &
    push_once_or_twice "$image" "$work/end$turn.log"; wait $!
    start_node "$node"; until_ok 15 "haproxy sees three nodes" sees_nodes 3
    forget_images "$image"; docker pull -q "$image" >/dev/null || fail "pull of what was pushed while $node died"
  done
}

## The manifest's PUT, which docker never repeats, meets a node that dies, and no other can stand in: with the other two
## taken out of the balancer, the only node is killed as soon as docker has reported its last layer.
kill_at_manifest() {
  local image line pid turn pushed
  for turn in 1 2 3 4 5 6; do
    image=$(at balancer)/team/manifest:$turn pushed=0
    make_image "$image" $layers 2
    pid=$(docker inspect -f '{{.State.Pid}}' "$(container node-a)")
    tell_haproxy "set server nodes/b state maint; set server nodes/c state maint"
    docker push "$image" 2>&1 | while IFS= read -r line; do
      echo "$line"
      if [[ $line == *": Pushed" ]]; then
        pushed=$((pushed + 1)); [ $pushed -lt $layers ] || kill -9 "$pid"
      fi
    done >"$work/manifest.log" || true
    tell_haproxy "set server nodes/b state ready; set server nodes/c state ready"
    # what docker did not stop, docker starts again by itself
    wait_healthy; until_ok 15 "haproxy sees three nodes" sees_nodes 3
    if ! grep -q "digest: sha256" "$work/manifest.log"; then
      [ "$(grep -c ': Pushed$' "$work/manifest.log")" = $layers ] || fail "the push broke off before its layers were there"
      say "  docker gave up at the end: $(tail -1 "$work/manifest.log" | cut -c1-120)"
      docker push "$image" >"$work/again.log" 2>&1 || { tail -3 "$work/again.log"; fail "the repeated push"; }
      [ "$(grep -c ': Layer already exists$' "$work/again.log")" = $layers ] || { cat "$work/again.log"; fail "a finished layer was sent again"; }
      say "  one repeat succeeded and sent no layer"
      return
    fi
  done
  fail "in $turn pushes the node never died in time"
}

## B14, T19 through both balancers, and their ways with bodies and claims.
through_balancers() {
  local place mark key
  key=$(portolan_in node-a cluster first-key -o json | jq -r '.user + ":" + .password')
  for place in balancer nginx; do
    mark=smuggled-$place-$version
    python3 "$here/tests/compose/smuggle.py" 127.0.0.1 "$(port_of $place)" "$mark" >"$work/smuggle.log" || { cat "$work/smuggle.log"; fail "smuggling through $place"; }
    # a client's claims about itself reach no node; what the balancer says does
    curl -s -o /dev/null -u "$key" -H 'X-Forwarded-For: 203.0.113.9' -H 'X-Forwarded-Proto: https' -H 'X-Forwarded-Host: evil.example' \
      -D "$work/head" "http://$(at $place)/v2/no/$mark/tags/list"
    [ "$(curl -s -o /dev/null -D - -H 'X-Forwarded-Proto: https' -H 'X-Forwarded-Host: evil.example' "http://$(at $place)/v2/" | tr -d '\r' |
      sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: Bearer realm="\([^"]*\)".*/\1/p')" = "http://$(at $place)/v2/token" ] || fail "$place: a client chose where tokens come from"
    # a body of unknown length streams through: as docker sends a layer
    stream_through "$place" "$key"
  done
  sleep 0.5; node_logs
  grep -q '/v2/no/smuggled-' "$work/nodes.log" || fail "the nodes' logs are not what this test reads"
  sed 's,/v2/no/smuggled-,,g' "$work/nodes.log" | grep 'smuggled-' >"$work/hidden" && { head -3 "$work/hidden"; fail "a hidden request reached a node"; }
  grep '203.0.113.9' "$work/nodes.log" && fail "a node believes a client's X-Forwarded-For"
  say "  no smuggled request and no client's claim gets through HAProxy or nginx"
}
node_logs() { local node; for node in node-a node-b node-c; do docker logs "$(container $node)" 2>&1; done >"$work/nodes.log"; }
stream_through() {
  local place=$1 key=$2 url location digest status
  head -c 64M /dev/urandom >"$work/layer"; digest=sha256:$(sha256sum "$work/layer" | cut -d' ' -f1); url=http://$(at "$place")
  location=$(curl -s -o /dev/null -D - -u "$key" -X POST "$url/v2/team/stream/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  location=$(curl -s -o /dev/null -D - -u "$key" -X PATCH -H 'Transfer-Encoding: chunked' -H 'Content-Type: application/octet-stream' -T - "$url$location" <"$work/layer" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  status=$(curl -s -o /dev/null -w '%{http_code}' -u "$key" -X PUT "$url$location?digest=$digest")
  [ "$status" = 201 ] || fail "$place: PUT answered $status"
  [ "sha256:$(curl -s -u "$key" "$url/v2/team/stream/blobs/$digest" | sha256sum | cut -d' ' -f1)" = "$digest" ] || fail "$place: other bytes came back"
}

## TLS by the certificates that were prepared: docker trusts them by certs.d, and nothing else.
over_tls() {
  local image address
  hosts=registry-$$.test
  PORTOLAN_PUBLIC_INSECURE=false PORTOLAN_PUBLIC_NAME=$hosts; export PORTOLAN_PUBLIC_INSECURE PORTOLAN_PUBLIC_NAME
  up
  address=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container node-a)")
  # beyond 127.0.0.0/8, where docker would not look at certificates
  echo "$address $hosts" >>/etc/hosts
  # dockerd, as any program in Go, believes what it has read there for five seconds
  sleep 6
  printf 'hello' >"$work/hello"; image=$hosts:7400/team/tls:1; tar -c -C "$work" hello | docker import - "$image" >/dev/null
  if portolan_in node-a cluster first-key --bare | docker login -u x --password-stdin "$hosts:7400" >"$work/login.log" 2>&1 || ! grep -q 'signed by unknown authority' "$work/login.log"; then
    cat "$work/login.log"; fail "docker trusts an unknown authority"
  fi
  mkdir -p "/etc/docker/certs.d/$hosts:7400"; docker cp "$(container node-a):/certs/ca.pem" "/etc/docker/certs.d/$hosts:7400/ca.crt" >/dev/null
  log_in node-a "$hosts:7400"; docker push -q "$image" >/dev/null || fail "push over TLS"
  forget_images "$image"; docker pull -q "$image" >/dev/null || fail "pull over TLS"
  forget_images "$image"; unset PORTOLAN_PUBLIC_INSECURE PORTOLAN_PUBLIC_NAME
  say "  TLS with the prepared certificates"
}

## The balancer as a container beside the nodes, by the second compose file.
balancer_in_compose() {
  local image; image=$(at balancer)/team/inside:1
  kill "$haproxy"; wait "$haproxy" 2>/dev/null || true; haproxy=
  make_haproxy_image portolan-test-haproxy:1
  # the network gets fixed addresses: compose makes no changes to one that is there
  compose down >/dev/null 2>&1
  override=(-f "$here/deploy/haproxy/docker-compose.yml")
  export PORTOLAN_HAPROXY_IMAGE=portolan-test-haproxy:1 PORTOLAN_PORT=$base
  up
  until_ok 30 "the balancer answers" answers_401 balancer
  printf 'inside' >"$work/hello"; tar -c -C "$work" hello | docker import - "$image" >/dev/null
  log_in node-a "$(at balancer)"; docker push -q "$image" >/dev/null || fail "push through the balancer in a container"
  kill_node node-b; forget_images "$image"; docker pull -q "$image" >/dev/null || fail "pull while a node is down"
  start_node node-b
  node_logs; grep -q '"client":"172.30.74.1","peer":"172.30.74.10' "$work/nodes.log" || fail "the nodes do not believe the balancer"
  compose down >/dev/null 2>&1; override=(); unset PORTOLAN_HAPROXY_IMAGE PORTOLAN_PORT
  forget_images "$image" portolan-test-haproxy:1
  say "  the balancer in a container of its own"
}

scenario() {
  version=$1 project=portolan-test-$1
  export PORTOLAN_PORT_A=$((base + 1)) PORTOLAN_PORT_B=$((base + 2)) PORTOLAN_PORT_C=$((base + 3)) PORTOLAN_TRUSTED_PROXIES=$trusted
  compose down -v --remove-orphans >/dev/null 2>&1 || true
  local step
  bring_up
  for step in ${STEPS:-push_and_pull kill_beside kill_under kill_at_the_end kill_at_manifest through_balancers balancer_in_compose over_tls}; do
    say " $step"; "$step"
  done
  kill $haproxy "$nginx"; wait $haproxy "$nginx" 2>/dev/null || true; haproxy='' nginx=''
  forget_images $(docker image ls --format '{{.Repository}}:{{.Tag}}' | grep "^127.0.0.1:$((base / 10))" || true)
  [ "${KEEP:-0}" = 1 ] || { compose down -v --remove-orphans >/dev/null 2>&1; project=''; }
}

install_tools
"$here/deploy/docker/image.sh" "$binary" 2>/dev/null
[ $# -gt 0 ] || set -- 1 2
for wanted; do
  started=$SECONDS; scenario "$wanted"; say "compose $wanted: passed in $((SECONDS - started)) s"
done
