#!/usr/bin/env bash
# serve.sh ADDRESS DIR [PROXY-ADDRESS]: an S3 server on ADDRESS (ip:port) over DIR, each directory in it a bucket, and in
# front of it a proxy that breaks on demand (proxy.py). Ends when its input ends. Says "ready" once both answer. The key
# is portolan:portolan-secret. Needs extended attributes on DIR's file system.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) address=$1 dir=$2 proxy=${3:-}
tools=${PORTOLAN_CACHE:-$HOME/.cache/portolan}/tools
mkdir -p "$tools"
# tests run side by side: one of them installs
exec 9>"$tools/.s3.lock"; flock 9; "$here/install.sh" "$tools/bin"; flock -u 9; exec 9>&-
started=(); trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
ROOT_ACCESS_KEY=portolan ROOT_SECRET_KEY=portolan-secret \
  "$tools/bin/versitygw" --port "$address" --quiet posix "$dir" </dev/null >/dev/null 2>&1 & started+=($!)
[ -z "$proxy" ] || { python3 "$here/proxy.py" "$proxy" "$address" </dev/null & started+=($!); }
answers() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }
for one in "$address" ${proxy:+"$proxy"}; do
  for _ in $(seq 200); do ! answers "$one" || break; sleep 0.05; done
  answers "$one" || { echo "tests/s3: nothing listens on $one" >&2; exit 1; }
done
echo ready
while read -r _; do :; done
