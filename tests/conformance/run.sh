#!/usr/bin/env bash
# Runs the OCI conformance program, every option on, with authentication, against each node of a three-node cluster it
# starts itself: once with sparse manifests refused (the default). Fails unless nothing failed and nothing was skipped.
#   tests/conformance/run.sh            PORTOLAN=binary, RESULTS=folder for the reports
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan}
binary=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
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

work=$(mktemp -d)
"$binary" dev --dir "$work/dev" --region 9 --port 17400 >"$work/dev.log" 2>&1 &
dev=$!
stop() { kill -INT "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
for _ in $(seq 240); do grep -q '^The cluster is ready' "$work/dev.log" && break; kill -0 "$dev" || break; sleep 0.25; done
grep -q '^The cluster is ready' "$work/dev.log" || { cat "$work/dev.log" >&2; exit 1; }
user=$(cut -d: -f1 "$work/dev/root-key"); password=$(cut -d: -f2 "$work/dev/root-key")

passed=0 failed=0
for node in 127.9.1.1 127.9.2.1 127.9.3.1; do
  results=${RESULTS:-$work/results}/$node; mkdir -p "$results"
  (cd "$results" && OCI_REGISTRY=$node:17400 OCI_TLS=disabled OCI_VERSION=1.1 OCI_USERNAME=$user OCI_PASSWORD=$password \
    OCI_RESULTS_DIR="$results" OCI_API_BLOBS_UPLOAD_CANCEL=true OCI_API_BLOBS_DIGEST_HEADER=true \
    OCI_API_MANIFESTS_DIGEST_HEADER=true OCI_API_MANIFESTS_TAG_PARAM=true \
    timeout 300 "$tools/oci-conformance" >"$results/log" 2>&1) || true
  summary=$(python3 "$here/deploy/bench/conformance_summary.py" --name "$node" "$results/junit.xml")
  read -r good bad skipped < <(awk -F'|' '/^\| total/ {print $3, $4, $5}' <<<"$summary")
  echo "conformance on $node: $good passed, $bad failed, $skipped skipped"
  if [ "$bad" != 0 ] || [ "$skipped" != 0 ] || [ "$good" -lt 700 ]; then echo "$summary"; failed=$((failed + bad + skipped + 1)); fi
  passed=$((passed + good))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
