# What the tests of compose files are made of: tools, the nodes, the balancers, images. Sourced, never run.

cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
binary=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
tools=$cache/tools/bin
export DOCKER_CLI_HINTS=false COMPOSE_PROJECT_NAME=; unset COMPOSE_FILE
work=$(mktemp -d); export DOCKER_CONFIG=$work/docker; mkdir -p "$DOCKER_CONFIG"
project='' version='' override=()

# The last project goes, unless KEEP=1; a failed one's last words are shown first
leave() { # EXIT-CODE
  local code=$1
  if [ -n "$project" ]; then
    [ $code = 0 ] || compose logs --tail 200 2>/dev/null | grep -v '"level":"INFO"' | tail -40 | cut -c1-300 || true
    [ "${KEEP:-0}" = 1 ] || compose down -v --remove-orphans >/dev/null 2>&1 || true
  fi
  [ "${KEEP:-0}" = 1 ] || rm -rf "$work"
  exit $code
}

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

# until SECONDS WHAT COMMAND…: repeats the command until it succeeds
until_ok() {
  local seconds=$1 what=$2 end; shift 2; end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "$what: not within $seconds s"; sleep 0.5; done
}

## Tools: Docker and the balancers from Debian, compose 2 from its Go module. What is there stays.
install_tools() {
  local missing=() package policy=
  for package in docker.io docker-compose haproxy nginx-light python3 jq openssl ca-certificates; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "apt: ${missing[*]}"; apt-get update -qq
    # apt starts no service: the test runs its own, on its own ports
    [ -e /usr/sbin/policy-rc.d ] || { policy=1; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    [ -z "$policy" ] || rm -f /usr/sbin/policy-rc.d
  fi
  if ! docker info >/dev/null 2>&1; then
    say "starting dockerd"; (setsid nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &)
    until_ok 40 "dockerd" docker info
  fi
  install_compose2
}

install_compose2() {
  local version=v2.40.3 module=github.com/docker/compose/v2 source build
  compose2=$tools/docker-compose-v2
  [ -x "$compose2" ] && "$compose2" version 2>/dev/null | grep -q "$version" && return
  command -v go >/dev/null || fail "Go is needed to build docker compose $version"
  say "building docker compose $version, some minutes, once"
  source=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
  build=$(mktemp -d); cp -r "$source/." "$build/"; chmod -R u+w "$build"; mkdir -p "$tools"
  (cd "$build" && CGO_ENABLED=0 GOWORK=off GOFLAGS='-buildvcs=false -trimpath -mod=mod' \
    go build -ldflags "-s -w -X $module/internal.Version=$version" -o "$compose2" ./cmd)
  rm -rf "$build"
}

## The nodes. `compose` is the version under test, with this test's file, project and ports.
compose() {
  case $version in
    1) docker-compose -p "$project" -f "$file" "${override[@]}" "$@" ;;
    2) "$compose2" -p "$project" -f "$file" "${override[@]}" "$@" ;;
  esac
}
container() { docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" | head -1; }
# -T: no terminal, also where one is at hand
portolan_in() { local node=$1; shift; compose exec -T "$node" portolan "$@" </dev/null; }
port_of() { case $1 in node-a) echo $((base + 1)) ;; node-b) echo $((base + 2)) ;; node-c) echo $((base + 3)) ;; balancer) echo "$base" ;; nginx) echo $((base + 4)) ;; esac; }
at() { echo "127.0.0.1:$(port_of "$1")"; }
is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }
wait_healthy() { local node; for node in "${@:-node-a node-b node-c}"; do for node in $node; do until_ok 90 "$node is healthy" is_healthy "$node"; done; done; }
has_formed() { [ "$(docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$(container "${1:-form}")")" = "exited 0" ]; }
kill_node() { say "  kill -9 $1"; docker kill -s KILL "$(container "$1")" >/dev/null; killed=$1; }
start_node() { docker start "$(container "$1")" >/dev/null; wait_healthy "$1"; }

up() {
  compose up -d >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "compose up"; }
  until_ok 120 "the cluster is formed" has_formed
  wait_healthy
}

log_in() { # NODE ADDRESS…: by the first key, as the node shows it
  local node=$1 place key_id; shift
  key_id=$(portolan_in "$node" cluster first-key -o json | jq -r .user)
  for place in "$@"; do
    portolan_in "$node" cluster first-key --bare | docker login -u "$key_id" --password-stdin "$place" >"$work/login.log" 2>&1 ||
      { cat "$work/login.log"; fail "login at $place"; }
  done
}

# Every blob of an image has three copies in three zones; waits for the repair
has_three_copies() {
  portolan_in node-a image copies "$1" -o json >"$work/copies.json" &&
    jq -e '.blobs | length > 0 and all(.count == 3 and (.zones | length) == 3 and (.wanted | length) == 0)' "$work/copies.json"
}

## The balancers, from the very files in deploy/ with this test's addresses.
start_haproxy() {
  cat >"$work/haproxy-test.cfg" <<CFG
global
    stats socket $work/haproxy.sock mode 600 level admin
CFG
  PORTOLAN_BIND=$(at balancer) PORTOLAN_ERRORS=$here/deploy/haproxy PORTOLAN_A=$(at node-a) PORTOLAN_B=$(at node-b) PORTOLAN_C=$(at node-c) \
    haproxy -db -f "$here/deploy/haproxy/haproxy.cfg" -f "$work/haproxy-test.cfg" >"$work/haproxy.log" 2>&1 &
  haproxy=$!
  until_ok 15 "haproxy sees three nodes" sees_nodes 3
}
# A line for each node: name, requests under way, transfers that the node broke off, state
stats() {
  python3 - "$work/haproxy.sock" <<'PY'
import csv, socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1]); s.sendall(b"show stat\n")
    text = b"".join(iter(lambda: s.recv(65536), b"")).decode().lstrip("# ")
for row in csv.DictReader(text.splitlines()):
    if row["pxname"] == "nodes" and row["svname"] != "BACKEND":
        broken = sum(int(row[name] or 0) for name in ("eresp", "srv_abrt"))
        print("node-" + row["svname"], row["scur"], broken, row["status"])
PY
}
tell_haproxy() {
  python3 - "$work/haproxy.sock" "$1" <<'PY'
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + b"\n")
    if answer := b"".join(iter(lambda: s.recv(65536), b"")).strip(): sys.exit(answer.decode())
PY
}
sees_nodes() { [ "$(stats | grep -c 'UP$')" = "$1" ]; }
broken_off() { stats | awk '{sum += $3} END {print sum + 0}'; }
# The node that most requests are under way at, if there is one
busiest() { stats | sort -k2,2nr | awk 'NR == 1 && $2 > 0 {print $1; found = 1} END {exit !found}'; }

# The balancer in a container: an image of Debian's HAProxy, made here, as nothing may be pulled.
make_haproxy_image() {
  local dir library; dir=$(mktemp -d "$work/haproxy.XXXX"); mkdir -p "$dir/files/usr/sbin"
  cp "$(command -v haproxy)" "$dir/files/usr/sbin/haproxy"
  for library in $(ldd "$(command -v haproxy)" | awk '$3 ~ /^\// {print $3} $1 ~ /^\// {print $1}'); do
    mkdir -p "$dir/files$(dirname "$library")"; cp -L "$library" "$dir/files$library"
  done
  printf 'FROM scratch\nCOPY files/ /\nUSER 65532\nENTRYPOINT ["/usr/sbin/haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]\n' >"$dir/Dockerfile"
  docker build -q -t "$1" "$dir" >/dev/null 2>&1 || fail "docker build of HAProxy"
  rm -rf "$dir"
}

start_nginx() {
  mkdir -p "$work/nginx"
  sed -e "s/server node-a:7400/server $(at node-a)/; s/server node-b:7400/server $(at node-b)/; s/server node-c:7400/server $(at node-c)/" \
    -e "s/listen 7410;/listen $(at nginx);/" "$here/deploy/nginx/portolan.conf" >"$work/nginx/portolan.conf"
  [ "$(grep -c '127.0.0.1' "$work/nginx/portolan.conf")" = 4 ] || fail "deploy/nginx/portolan.conf has other addresses than this test replaces"
  cat >"$work/nginx/nginx.conf" <<CFG
pid $work/nginx/pid; error_log $work/nginx/error.log; worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path $work/nginx/body; proxy_temp_path $work/nginx/proxy; fastcgi_temp_path $work/nginx/f;
    uwsgi_temp_path $work/nginx/u; scgi_temp_path $work/nginx/s;
    include $work/nginx/portolan.conf;
}
CFG
  nginx -c "$work/nginx/nginx.conf" -g 'daemon off;' 2>/dev/null &
  nginx=$!
  until_ok 15 "nginx answers" answers_401 nginx
}
answers_401() { [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' "http://$(at "$1")/v2/")" = 401 ]; }

## Images. Random bytes: nothing compresses, nothing was there before.
make_image() { # TAG LAYERS MIB-OF-EACH
  local dir layer; dir=$(mktemp -d "$work/image.XXXX")
  echo "FROM scratch" >"$dir/Dockerfile"
  for layer in $(seq "$2"); do
    head -c "${3}M" /dev/urandom >"$dir/layer$layer"; echo "COPY layer$layer /" >>"$dir/Dockerfile"
  done
  DOCKER_BUILDKIT=0 docker build -q -t "$1" "$dir" >/dev/null 2>&1 || fail "docker build of $1"
  rm -rf "$dir"
}
forget_images() { local image; for image in "$@"; do docker image rm -f "$image" >/dev/null 2>&1 || true; done; }
id_of() { docker image inspect -f '{{.Id}}' "$1"; }
