#!/usr/bin/env bash
# Makes the container image portolan:VERSION from the built binary. Nothing is pulled and nothing is compiled here: the
# image holds the binary, the few shared libraries it needs and nothing else (no shell), and runs as user 65532.
#   deploy/docker/image.sh [BINARY]        needs a running Docker engine
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
binary=${1:-${CARGO_TARGET_DIR:-$HOME/.cache/portolan/target}/debug/portolan}
[ -x "$binary" ] || { echo "image.sh: $binary is missing; run 'make build' first" >&2; exit 1; }
docker info >/dev/null 2>&1 || { echo "image.sh: no Docker engine answers; start one (tests/clients/install.sh --core does)" >&2; exit 1; }
version=$("$binary" --version | awk '{print $2}')
root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
mkdir -p "$root/files/usr/bin" "$root/files/etc" "$root/owned/data" "$root/owned/certs" "$root/owned/setup/nodes/"{a,b,c}
cp "$binary" "$root/files/usr/bin/portolan"
strip --strip-debug "$root/files/usr/bin/portolan"
# the loader and the libraries, at the paths the binary asks for
ldd "$binary" | awk '$3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' | while read -r library; do
  mkdir -p "$root/files$(dirname "$library")"
  cp -L "$library" "$root/files$library"
done
printf 'portolan:x:65532:65532:portolan:/data:/usr/bin/portolan\n' >"$root/files/etc/passwd"
printf 'portolan:x:65532:\n' >"$root/files/etc/group"
cp "$here/Dockerfile" "$root/Dockerfile"
docker build -q --build-arg "VERSION=$version" -t "portolan:$version" -t portolan:latest "$root" >/dev/null
docker image inspect --format 'portolan:'"$version"' {{.Size}} bytes' "portolan:$version"
