#!/usr/bin/env bash
# Licences, sources, banned and doubled crates, and known advisories of everything in Cargo.lock (security case H11).
# cargo-deny is installed once, outside the clone. Advisories are checked against, in this order:
#   $PORTOLAN_ADVISORY_DB     a folder or .tar.gz of the RustSec database (crates/<name>/RUSTSEC-….md): for closed networks
#   the RustSec repository    if it can be reached
# If neither is to be had, everything else is still checked, and it says that advisories went unchecked.
#   .ci/deny.sh CACHE_DIR
set -euo pipefail
cache=${1:?usage: deny.sh CACHE_DIR}
cd "$(dirname "$0")/.."
today=$(date +%F)
while read -r exception; do
  until=$(sed -n 's/.*"until \([0-9-]\{10\}\):.*/\1/p' <<<"$exception")
  [ -n "$until" ] || { echo "deny.sh: an exception without \"until YYYY-MM-DD: …\": $exception" >&2; exit 1; }
  [[ ! $until < $today ]] || { echo "deny.sh: an exception is over since $until: $exception" >&2; exit 1; }
done < <(grep -E 'id *= *"RUSTSEC' deny.toml)
deny=$(command -v cargo-deny || echo "$cache/tools/deny/bin/cargo-deny")
if [ ! -x "$deny" ]; then
  echo "deny.sh: installing cargo-deny, a few minutes, once" >&2
  env -u CARGO_BUILD_BUILD_DIR -u CARGO_TARGET_DIR cargo install --quiet --locked cargo-deny --root "$cache/tools/deny"
fi
"$deny" --log-level error check --hide-inclusion-graph licenses bans sources

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
database=https://github.com/RustSec/advisory-db
if [ -n "${PORTOLAN_ADVISORY_DB:-}" ]; then
  mkdir "$work/given"
  if [ -d "$PORTOLAN_ADVISORY_DB" ]; then cp -r "$PORTOLAN_ADVISORY_DB/." "$work/given/"
  else tar xzf "$PORTOLAN_ADVISORY_DB" -C "$work/given"; fi
  [ -d "$work/given/crates" ] || { echo "deny.sh: $PORTOLAN_ADVISORY_DB holds no crates/ of the RustSec database" >&2; exit 1; }
  # cargo-deny takes a database from git only: make one of the files, and let git find it in the place of the real one
  rm -rf "$work/given/.git"
  git -C "$work/given" init -q -b main
  git -C "$work/given" add -A
  git -C "$work/given" -c user.name=deny -c user.email=deny@localhost commit -qm database
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$work/given.insteadOf" GIT_CONFIG_VALUE_0=$database
elif ! timeout 60 git ls-remote -q $database HEAD >/dev/null 2>&1; then
  echo "deny.sh: ADVISORIES WENT UNCHECKED: the RustSec database is out of reach; name one in PORTOLAN_ADVISORY_DB" >&2
  exit 0
fi
sed "s|^\[advisories\]|[advisories]\ndb-path = \"$work/db\"\ngit-fetch-with-cli = true|" deny.toml >"$work/deny.toml"
"$deny" --log-level error --config "$work/deny.toml" check --hide-inclusion-graph advisories
