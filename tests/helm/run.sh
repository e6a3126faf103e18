#!/usr/bin/env bash
# Renders the chart deploy/helm/portolan with each file of values/ and decodes what comes out strictly into Kubernetes'
# own types; checks what must hold between them; has the product itself check each node's configuration and make the
# certificates that the chart asks for; and sees each file of refused/ refused. No cluster is needed, and none is asked.
# With --pods, the pods of a region and the Job run as containers of a Docker engine, with the names, variables, files
# and users that Kubernetes would give them: a cluster is founded, a node restarted, two are added. That needs root and
# the image (make image), and pulls nothing.
#   tests/helm/run.sh [--pods]   PORTOLAN_BIN=binary; without one the product's part is left out, and that is told
#                                PORTOLAN_IMAGE=portolan:latest
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
cache=${CACHE:-${PORTOLAN_CACHE:-$HOME/.cache/portolan}}
tools=$cache/tools/bin; mkdir -p "$tools"
binary=${PORTOLAN_BIN:-${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}}
if [ -x "$binary" ]; then export PORTOLAN_BIN=$binary; else unset PORTOLAN_BIN; fi
command -v go >/dev/null || { echo "helm: Go is needed to build the check" >&2; exit 1; }
# Go's own cache knows what has changed; the first build takes some minutes
(cd "$here/tests/helm" && CGO_ENABLED=0 GOWORK=off GOFLAGS='-buildvcs=false -trimpath -mod=readonly' \
  go build -o "$tools/helm-check" .)
pods=(); [ "${1:-}" != --pods ] || pods=(--pods "${PORTOLAN_IMAGE:-portolan:latest}")
exec "$tools/helm-check" "${pods[@]}" "$here/deploy/helm/portolan" "$here/tests/helm"
