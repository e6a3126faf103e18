#!/usr/bin/env bash
# Real clients against a three-node, three-zone cluster that this script starts: each logs in, pushes to one node, pulls
# from another, compares digests and content, and does what only it does (src/docs/clients.md).
#   tests/clients/run.sh --quick      those that install in a few minutes, all but cosign and across; part of `make test`
#   tests/clients/run.sh --all        all of them
#   tests/clients/run.sh crane helm   these
# Three of them are several clients: `mirrors` (containerd with two regions), `nearest` (clients sent to another node) and
# `across` (clients sent to another region; not in --quick).
# PORTOLAN=binary, REGION and PORT=where the nodes listen (127.REGION.x.1:PORT), SETTINGS="auth.challenge=basic …"=settings
# of every node, TLS=1 for HTTPS with an authority of its own. Installs what is missing, as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
export PORTOLAN=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
region=${REGION:-61} port=${PORT:-23400}
quick=(docker podman skopeo buildah ctr crane oras regctl helm notation mirrors nearest)
all=("${quick[@]}" across cosign)
case ${1:---all} in
  --quick) clients=("${quick[@]}");;
  --all) clients=("${all[@]}");;
  -*) echo "clients: unknown option $1; give --quick, --all or names of clients" >&2; exit 2;;
  *) clients=("$@");;
esac
for client in "${clients[@]}"; do
  [ -f "$here/d/$client.sh" ] || { echo "clients: there is no client '$client'; there are: ${all[*]}" >&2; exit 2; }
done
[ -x "$PORTOLAN" ] || { echo "clients: $PORTOLAN is not there; run 'make build' first" >&2; exit 1; }

tools=$cache/tools/bin; mkdir -p "$tools"
# a Docker daemon that is started here is stopped here
has_docker=; ! docker info >/dev/null 2>&1 || has_docker=1
needed=("${clients[@]}" skopeo jq curl)
case " ${clients[*]} " in *' mirrors '*) needed+=(ctr);; esac
case " ${clients[*]} " in *' nearest '* | *' across '*) needed+=(docker podman ctr crane oras regctl ip);; esac
"$here/install.sh" "$tools" --only="$(IFS=,; echo "${needed[*]}")"
export PATH=$tools:$PATH

# Sample images, made once without a network and kept outside the clone; keyed by what makes them.
export IMAGES=$cache/tools/images
sum=$(sha256sum "$root/deploy/docker/base-images.sh" | cut -c1-16)
if [ "$(cat "$IMAGES/.made" 2>/dev/null)" != "$sum" ]; then
  echo "clients: making sample images" >&2
  rm -rf "$IMAGES"; "$root/deploy/docker/base-images.sh" "$IMAGES" --no-docker --no-debian >/dev/null
  echo "$sum" >"$IMAGES/.made"
fi

work=$(mktemp -d); : >"$work/dev.log"
# the nodes share this machine's disk with everything else on it: how full that is says nothing about clients
settings=(--set blobs.full_percent=97 --set blobs.refuse_percent=98 --set blobs.urgent_percent=99)
for setting in ${SETTINGS:-}; do settings+=(--set "$setting"); done
export NODE_SETTINGS="${settings[*]}"
"$PORTOLAN" dev --dir "$work/dev" --region "$region" --port "$port" "${settings[@]}" >"$work/dev.log" 2>&1 &
nodes=($!)
end_nodes() { kill -INT "${nodes[@]}" 2>/dev/null || true; wait "${nodes[@]}" 2>/dev/null || true; }
# the next run starts one of its own, which refuses to while this one is ending
end_docker() {
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 120); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.5; done
  echo "clients: dockerd (process $1) has not ended a minute after it was told to" >&2
}
stop() {
  end_nodes
  if [ -z "$has_docker" ] && [ -s /var/run/docker.pid ]; then end_docker "$(cat /var/run/docker.pid)"; fi
  if [ -n "${KEEP:-}" ]; then echo "clients: kept $work" >&2; else rm -rf "$work"; fi
}
trap stop EXIT
for _ in $(seq 240); do grep -q '^The cluster is ready' "$work/dev.log" && break; kill -0 "${nodes[0]}" || break; sleep 0.25; done
grep -q '^The cluster is ready' "$work/dev.log" || { cat "$work/dev.log" >&2; exit 1; }

export SCHEME=http CHALLENGE=bearer
[[ " ${SETTINGS:-} " != *" auth.challenge=basic "* ]] || export CHALLENGE=basic
if [ -n "${TLS:-}" ]; then
  # the cluster was made in the clear; its nodes start again with a certificate
  end_nodes; nodes=(); export SCHEME=https
  "$PORTOLAN" certs init --dir "$work/tls" >/dev/null
  "$PORTOLAN" certs public --dir "$work/tls" --address "127.$region.1.1" --address "127.$region.2.1" --address "127.$region.3.1" >/dev/null
  settings+=(--set "tls.cert=$work/tls/public/server/tls.pem" --set "tls.key=$work/tls/public/server/tls.key")
  for config in "$work"/dev/nodes/*/portolan.toml; do
    "$PORTOLAN" server --config "$config" "${settings[@]}" >"${config%/*}/tls.log" 2>&1 & nodes+=($!)
  done
  export CA=$work/tls/ca.pem; export SSL_CERT_FILE=$CA CURL_CA_BUNDLE=$CA
  for node in 1 2 3; do
    for _ in $(seq 240); do curl -sf "https://127.$region.$node.1:$((port + 3))/readyz" >/dev/null && continue 2; sleep 0.25; done
    tail -n 5 "$work"/dev/nodes/*/tls.log >&2; exit 1
  done
fi

export A=127.$region.1.1:$port B=127.$region.2.1:$port C=127.$region.3.1:$port
export ADMIN=$SCHEME://127.$region.1.1:$((port + 3)) CREDENTIALS=$work/dev/root-key COUNTS=$work/counts
KEY_ID=$(cut -d: -f1 "$CREDENTIALS"); export KEY_ID
export HERE=$here SECRET_FILE=$work/secret; (umask 077; cut -d: -f2 "$CREDENTIALS" | tr -d '\n' >"$SECRET_FILE")
: >"$COUNTS"

for client in "${clients[@]}"; do
  export CLIENT=$client WORK=$work/$client; mkdir -p "$WORK"; began=$SECONDS
  HOME=$WORK XDG_RUNTIME_DIR=$WORK timeout -k 10 "${CLIENT_SECONDS:-300}" bash -c '. "$1/lib.sh"; cd "$WORK"; . "$1/d/$CLIENT.sh"' clients "$here" || true
  if [ ! -e "$WORK/finished" ]; then echo "FAIL  $client: did not come to its end"; printf f >>"$COUNTS"; fi
  echo "      $client: $((SECONDS - began)) s"
done
passed=$(tr -cd p <"$COUNTS" | wc -c) failed=$(tr -cd f <"$COUNTS" | wc -c)
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -ge "${#clients[@]}" ]
