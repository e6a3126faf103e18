#!/usr/bin/env bash
# Runs the OCI conformance program with authentication against each node of a three-node cluster that it starts itself:
# once with every option on, in repositories that take sparse manifests, and once with these refused, as is the default
# (src/docs/conformance.md). Fails unless nothing failed and nothing was skipped.
#   tests/conformance/run.sh            PORTOLAN=binary, RESULTS=folder for the reports,
#                                       REGION and PORT=where the nodes listen (127.REGION.x.1:PORT)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
binary=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
region=${REGION:-9} port=${PORT:-17400}
tools=$cache/tools/bin; mkdir -p "$tools"
version=v0.0.0-20260831232431-97274622c111
if [ "$(cat "$tools/.oci-conformance" 2>/dev/null)" != "$version" ] || [ ! -x "$tools/oci-conformance" ]; then
  command -v go >/dev/null || { echo "conformance: Go is needed to build the conformance program" >&2; exit 1; }
  module=github.com/opencontainers/distribution-spec/conformance
  source=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
  build=$(mktemp -d); cp -r "$source/." "$build/"; chmod -R u+w "$build"
  (cd "$build" && CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath' go build -o "$tools/oci-conformance" .)
  rm -rf "$build"; echo "$version" >"$tools/.oci-conformance"
fi

work=$(mktemp -d); : >"$work/dev.log"
# the nodes share this machine's disk with everything else on it: how full that is says nothing about conformance
"$binary" dev --dir "$work/dev" --region "$region" --port "$port" --set blobs.full_percent=97 \
  --set blobs.refuse_percent=98 --set blobs.urgent_percent=99 >"$work/dev.log" 2>&1 &
dev=$!
stop() { kill -INT "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
for _ in $(seq 240); do grep -q '^The cluster is ready' "$work/dev.log" && break; kill -0 "$dev" || break; sleep 0.25; done
grep -q '^The cluster is ready' "$work/dev.log" || { cat "$work/dev.log" >&2; exit 1; }
user=$(cut -d: -f1 "$work/dev/root-key"); password=$(cut -d: -f2 "$work/dev/root-key")

# The program's own repositories are made by its pushes and refuse sparse manifests; these two take them.
for name in sparse/one sparse/two; do
  "$binary" repo create "$name" --sparse true --admin "http://127.$region.1.1:$((port + 3))" \
    --credentials-file "$work/dev/root-key" >/dev/null
done

passed=0 failed=0
# conformance NODE LABEL LEAST [NAME=VALUE...]: LEAST is how many must pass at least: fewer means that some did not run.
conformance() {
  local node=$1 label=$2 least=$3 results code=0 summary good bad skipped; shift 3
  results=${RESULTS:-$work/results}/$node-$label; mkdir -p "$results"
  (cd "$results" && { [ $# = 0 ] || export "$@"; } && OCI_REGISTRY=$node:$port OCI_TLS=disabled OCI_VERSION=1.1 OCI_USERNAME="$user" OCI_PASSWORD="$password" \
    OCI_RESULTS_DIR="$results" OCI_API_BLOBS_UPLOAD_CANCEL=true OCI_API_BLOBS_DIGEST_HEADER=true \
    OCI_API_MANIFESTS_DIGEST_HEADER=true OCI_API_MANIFESTS_TAG_PARAM=true \
    timeout 300 "$tools/oci-conformance" >"$results/log" 2>&1) || code=$?
  summary=$(python3 "$here/deploy/bench/conformance_summary.py" --name "$node $label" "$results/junit.xml")
  read -r good bad skipped < <(awk -F'|' '/^\| total/ {print $3, $4, $5}' <<<"$summary")
  echo "conformance on $node, sparse $label: $good passed, $bad failed, $skipped skipped"
  if [ "$code" != 0 ] || [ "$bad" != 0 ] || [ "$skipped" != 0 ] || [ "$good" -lt "$least" ]; then
    echo "exit $code, at least $least must pass"; echo "$summary"; failed=$((failed + bad + skipped + 1))
  fi
  passed=$((passed + good))
}
for node in 127.$region.1.1 127.$region.2.1 127.$region.3.1; do
  conformance "$node" refused 793
  conformance "$node" taken 830 OCI_DATA_SPARSE=true OCI_REPO1=sparse/one OCI_REPO2=sparse/two
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
