#!/usr/bin/env bash
# install.sh [DIR=~/.cache/portolan/tools/bin]: versitygw, an S3 server over a directory, at a pinned version, from the Go
# module proxy. Idempotent: what is there at the pinned version stays. About two minutes on two cores the first time.
set -euo pipefail
dir=${1:-${PORTOLAN_CACHE:-$HOME/.cache/portolan}/tools/bin}; mkdir -p "$dir/.pins"; dir=$(cd "$dir" && pwd)
module=github.com/versity/versitygw version=v1.8.0
[ -x "$dir/versitygw" ] && [ "$(cat "$dir/.pins/versitygw" 2>/dev/null)" = "$version" ] && exit 0
command -v go >/dev/null || { echo "tests/s3: Go is needed to build versitygw" >&2; exit 1; }
echo "tests/s3: building versitygw $version, some minutes, once" >&2
build=$(mktemp -d); trap 'rm -rf "$build"' EXIT
(cd / && CGO_ENABLED=0 GOWORK=off GOFLAGS='-buildvcs=false -trimpath -mod=mod' GOBIN="$build" nice -n 10 \
  go install -ldflags "-s -w -X main.Version=$version" "$module/cmd/versitygw@$version")
mv -f "$build/versitygw" "$dir/versitygw"; echo "$version" >"$dir/.pins/versitygw"
