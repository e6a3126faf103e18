# What every file in tests/clients/d begins with. run.sh gives each client its own HOME ($WORK) and these:
#   A B C        host:port of the three nodes       KEY_ID, SECRET_FILE   the root user's access key
#   ADMIN        admin URL of the first node        CREDENTIALS           both, as `portolan` reads them
#   IMAGES       sample images (OCI layouts)        COUNTS                one letter a check: p or f
#   SCHEME       http or https                      CA                    whom to trust, if https
#   CHALLENGE    bearer or basic
# A client's file pushes to one node and pulls from another, and prints one line a check.
set -uo pipefail

# What tells clients that the nodes speak HTTP, or nothing if they speak HTTPS.
plain=(--plain-http) insecure=(--insecure) verify=false tls=disabled
if [ "$SCHEME" = https ]; then plain=() insecure=() verify=true tls=enabled; fi

# check NAME COMMAND...: runs the command under `set -e`; what it printed is shown when it failed.
check() {
  local name=$1 code; shift
  (set -e; "$@") >"$WORK/output" 2>&1 </dev/null; code=$?
  if [ $code = 0 ]; then echo "ok    $CLIENT: $name"; printf p >>"$COUNTS"; return; fi
  echo "FAIL  $CLIENT: $name (exit $code)"; printf f >>"$COUNTS"
  tail -n 25 "$WORK/output" | cut -c1-400 | sed 's/^/        /'
}

# finish: a file that never gets here has failed, whatever its checks said.
finish() { touch "$WORK/finished"; }

# ends PID: what a client's file starts ends with it.
started=()
ends() { started+=("$1"); }
end() { [ ${#started[@]} = 0 ] || { kill "${started[@]}"; wait "${started[@]}"; } 2>/dev/null; }
trap end EXIT

secret() { cat "$SECRET_FILE"; }

# fails [TEXT] -- COMMAND...: the command must fail, and say TEXT if one is given.
fails() {
  local text=; [ "$1" = -- ] || { text=$1; shift; }; shift
  local said; if said=$("$@" 2>&1); then echo "$said"; echo "must have failed: $*"; return 1; fi
  [ -z "$text" ] || grep -qiE -e "$text" <<<"$said" || { echo "$said"; echo "failed, but without a word of: $text"; return 1; }
}

# prints PATTERN -- COMMAND...: the command must succeed and print a line that matches.
prints() {
  local text=$1 said; shift 2
  said=$("$@" 2>&1) || { echo "$said"; echo "failed: $*"; return 1; }
  grep -qE -e "$text" <<<"$said" || { echo "$said"; echo "has no line of: $text"; return 1; }
}

# same A B: both are the same text, and not empty.
same() { [ -n "$1" ] && [ "$1" = "$2" ] || { printf 'not the same:\n%s\n%s\n' "$1" "$2"; return 1; }; }

# api METHOD URL-WITHOUT-SCHEME [curl options]: as root; the secret is in no command line.
api() {
  local method=$1 url=$2; shift 2
  (umask 077; printf 'user = "%s:%s"\n' "$KEY_ID" "$(secret)" >"$WORK/curlrc")
  curl -sS -K "$WORK/curlrc" -X "$method" --max-time 60 "$@" "$SCHEME://$url"
}

# digest_at NODE REPOSITORY REFERENCE: what the node says the digest of a manifest is.
digest_at() {
  (umask 077; printf 'user = "%s:%s"\n' "$KEY_ID" "$(secret)" >"$WORK/curlrc")
  curl -sS -f -K "$WORK/curlrc" -I --max-time 60 "$SCHEME://$1/v2/$2/manifests/$3" |
    tr -d '\r' | sed -n 's/^docker-content-digest: //pI'
}

status_at() { api GET "$1/v2/$2/manifests/$3" -o /dev/null -w '%{http_code}'; }

# layout_digest LAYOUT TAG: the digest of a sample image.
layout_digest() {
  jq -er --arg tag "$2" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $tag) | .digest' \
    "$IMAGES/$1/index.json"
}

# whole LAYOUT-DIRECTORY: every blob of an OCI layout hashes to its name.
whole() {
  local blobs; blobs=$(find "$1/blobs/sha256" -type f); [ -n "$blobs" ]
  (cd "$1/blobs/sha256" && for blob in *; do echo "$blob  $blob"; done | sha256sum -c --quiet)
}

# portolan ARGUMENTS: an operator at the first node.
portolan() { "$PORTOLAN" "$@" ${CA:+--ca "$CA"} --admin "$ADMIN" --credentials-file "$CREDENTIALS"; }

# open_to_anyone PATTERN: everybody may pull what matches, without a key; replaces what was so before.
open_to_anyone() { portolan user grant anonymous "read:$1"; }
