#!/usr/bin/env bash
# Prints the path of the program of an earlier release, built once from the commit that CHANGELOG.md names and kept.
#   jepsen/release.sh CACHE_DIR VERSION
set -euo pipefail
cache=${1:?usage: release.sh CACHE_DIR VERSION}; version=${2:?usage: release.sh CACHE_DIR VERSION}
here=$(cd "$(dirname "$0")/.." && pwd)
# no intervals in awk: not every one knows them
commit=$(awk -v version="## $version " 'index($0, version) == 1 {found = 1; next} /^## / {found = 0} found' "$here/CHANGELOG.md" | grep -oE '\b[0-9a-f]{40}\b' | head -1 || true)
[ -n "$commit" ] || { echo "release.sh: CHANGELOG.md names no commit of $version" >&2; exit 1; }
dir=$cache/releases/$version-${commit:0:12}
if [ -x "$dir/portolan" ]; then echo "$dir/portolan"; exit 0; fi

mkdir -p "$dir"
exec 9>"$dir/.lock"; flock 9
if [ -x "$dir/portolan" ]; then echo "$dir/portolan"; exit 0; fi
echo "release.sh: building $version ($commit), about six minutes on two cores, once" >&2
rm -rf "$dir/source"; mkdir -p "$dir/source"
git -C "$here" archive "$commit" | tar -x -C "$dir/source"
rocksdb=$("$dir/source/.ci/rocksdb.sh" "$cache")
(cd "$dir/source" && ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR=$rocksdb CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$dir/target" \
  CARGO_BUILD_BUILD_DIR="$dir/build" cargo build --locked -p portolan >&2)
mv "$dir/target/debug/portolan" "$dir/portolan"
rm -rf "$dir/source" "$dir/target" "$dir/build"
echo "$dir/portolan"
