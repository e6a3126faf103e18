#!/usr/bin/env bash
# install.sh [DIR=~/.cache/portolan/tools/bin]: Prometheus and promtool at a pinned version, from the Go module proxy.
# Idempotent: what is there at the pinned version stays. Without service discovery, which the drills do not use: some
# minutes on two cores the first time, in place of half an hour.
set -euo pipefail
dir=${1:-${PORTOLAN_CACHE:-$HOME/.cache/portolan}/tools/bin}; mkdir -p "$dir/.pins"; dir=$(cd "$dir" && pwd)
module=github.com/prometheus/prometheus version=v0.313.5 # which is 3.13.5
missing=()
for tool in promtool prometheus; do
  [ -x "$dir/$tool" ] && [ "$(cat "$dir/.pins/$tool" 2>/dev/null)" = "$version" ] || missing+=("$tool")
done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v go >/dev/null || { echo "tests/ops: Go is needed to build ${missing[*]}" >&2; exit 1; }
# A copy of the module's source, so that its own replace directives count, which `go install` refuses.
source=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
build=$(mktemp -d); trap 'rm -rf "$build"' EXIT
cp -r "$source/." "$build/"; chmod -R u+w "$build"
for tool in "${missing[@]}"; do
  echo "tests/ops: building $tool $version, some minutes, once" >&2
  (cd "$build" && CGO_ENABLED=0 GOWORK=off GOFLAGS='-buildvcs=false -trimpath -mod=mod' nice -n 10 \
    go build -tags remove_all_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=3.13.5" \
    -o "$dir/$tool.new" "./cmd/$tool")
  mv -f "$dir/$tool.new" "$dir/$tool"; echo "$version" >"$dir/.pins/$tool"
done
