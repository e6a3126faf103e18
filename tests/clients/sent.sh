# Clients that are sent on, for files in d: they ask the node behind the front `far`, and get large blobs from the one behind
# `near`. Fronts write down what each is asked, and with which credential. Over HTTPS clients are told of the authority, each in
# its way. A file that sources this says before: `number`, where fronts listen (127.NUMBER.8 or 198.18.NUMBER); `image`, which
# it makes of busybox; and `sent_by`, for which reason clients are sent on.
. "$HERE/containerd.sh"
. "$HERE/containers.sh"
echo '{}' >"$REGISTRY_AUTH_FILE"
. "$HERE/fronts.sh"
# what all clients trust in the other files; here each has to be told
unset SSL_CERT_FILE
port=${A##*:} client=127.0.0.1 other=127.0.0.2
network=127.$number.8
if [ "$SCHEME" = https ]; then
  # what dockerd is told of an authority does not count at 127.x, where it verifies nothing
  network=198.18.$number
  for host in 1 2 3; do ip address add "$network.$host/32" dev lo; done
  trap 'for host in 1 2 3; do ip address del "$network.$host/32" dev lo; rm -rf "/etc/docker/certs.d/$network.$host:$port"; done; end' EXIT
fi
# `masked` is far, where clients call themselves otherwise
far=$network.1:$port near=$network.2:$port masked=$network.3:$port
digest=$(layout_digest busybox latest) layer=$(layer_bytes busybox latest) whole=$(blob_bytes busybox latest)
clients=(docker podman skopeo containerd oras regctl)

tls_of_fronts=()
if [ "$SCHEME" = https ]; then
  "$PORTOLAN" certs public --dir "$(dirname "$CA")" --name "$CLIENT" --address "$network.1" --address "$network.2" --address "$network.3" >/dev/null
  tls_of_fronts=(--tls "$(dirname "$CA")/public/$CLIENT"/tls.{pem,key})
fi
# stand_before FAR NEAR SOURCE: the fronts, in place of those before; the node that is near is called from SOURCE
stand_before() {
  fronts "${tls_of_fronts[@]}" --agent masked=docker "masked=$masked=$1=$client" "far=$far=$1=$client" "near=$near=$2=$3"
}

## Each client, told of the authority and of the password. pull_CLIENT HOST IMAGE pulls what it does not have yet, and looks at it.
tell_docker() {
  [ "$SCHEME" = http ] || install -D -m 644 "$CA" "/etc/docker/certs.d/$1/ca.crt"
  secret | docker login -u "$KEY_ID" --password-stdin "$1"
}
pull_docker() {
  docker image rm -f "$1/$2" || true
  docker pull "$1/$2" || return
  docker image inspect --format '{{index .RepoDigests 0}}' "$1/$2" | grep -q "$digest"
  docker image rm -f "$1/$2"
}
# podman and skopeo look for an authority below their home, by host: there is none for the node they are sent to
tell_podman() {
  [ "$SCHEME" = http ] || install -D -m 644 "$CA" "$HOME/.config/containers/certs.d/$1/ca.crt"
  secret | podman login --tls-verify=$verify -u "$KEY_ID" --password-stdin "$1"
}
store() { podman --root "$WORK/store" --runroot "$WORK/run" --storage-driver vfs --events-backend none "$@"; }
pull_podman() {
  store image rm -af
  store pull -q --tls-verify=$verify "$1/$2"; same "$(store image inspect "$1/$2" --format '{{.Digest}}')" "$digest"
}
tell_skopeo() { tell_podman "$1"; }
pull_skopeo() { rm -rf skopeo; skopeo copy -q --preserve-digests --src-tls-verify=$verify "docker://$1/$2" oci:skopeo:1; whole skopeo; }
tell_containerd() {
  mkdir -p "hosts/$1"; printf 'server = "%s"\n[host."%s"]\n' "$SCHEME://$1" "$SCHEME://$1" >"hosts/$1/hosts.toml"
  [ "$SCHEME" = http ] || printf 'ca = "%s"\n' "$CA" >>"hosts/$1/hosts.toml"
}
pull_containerd() {
  local held; for held in $(ctr images ls -q); do forget "$held"; done
  ctr images pull --hosts-dir hosts --user "$KEY_ID:$(secret)" --snapshotter native "$1/$2"; same "$(digest_of "$1/$2")" "$digest"
  ctr images check "name==$1/$2" >checked; grep -q 'complete (.*/' checked
}
tell_crane() {
  [ "$SCHEME" = http ] || cp "$CA" crane.pem
  secret | SSL_CERT_FILE=$WORK/crane.pem crane auth login "$1" -u "$KEY_ID" --password-stdin
}
pull_crane() { rm -rf crane; SSL_CERT_FILE=$WORK/crane.pem crane pull "${insecure[@]}" "$1/$2" crane --format oci; whole crane; }
authority=(); [ "$SCHEME" = http ] || authority=(--ca-file "$CA")
tell_oras() { secret | oras login "${plain[@]}" "${authority[@]}" -u "$KEY_ID" --password-stdin "$1"; }
pull_oras() { rm -rf oras; oras copy "${plain[@]/#--/--from-}" "${authority[@]/#--/--from-}" --to-oci-layout "$1/$2" oras:1; whole oras; }
tell_regctl() {
  regctl registry set "$1" --tls "$tls" --skip-check
  [ "$SCHEME" = http ] || regctl registry set "$1" --cacert "$(cat "$CA")" --skip-check
  secret | regctl registry login "$1" -u "$KEY_ID" --pass-stdin
}
pull_regctl() { rm -rf regctl; regctl image copy "$1/$2" ocidir://regctl:1; whole regctl; }
untold() { authority=(); fails 'x509|certificate' -- "pull_$1" "$far" "$image"; }
log_in() {
  local one
  if [ "$SCHEME" = https ]; then
    for one in "${clients[@]}" crane; do check "$one refuses an authority that it was not told of" untold "$one"; done
  fi
  for one in "${clients[@]}" crane; do check "$one logs in" "tell_$one" "$far"; done
}

id_in_zone() { portolan cluster status -o json | jq -er --arg zone "$1" '.nodes[] | select(.zone == $zone) | .id'; }
# counted NAME LABEL VALUE: how often the node at ADMIN counted that
counted() {
  SCHEME=${ADMIN%%:*} api GET "${ADMIN#*://}/metrics" | sed -n "s/^$1{.*$2=\"$3\".*} //p" | grep . || echo 0
}
# decided REASON: how often the node that is asked decided so
decided() { counted portolan_nearest_decisions_total reason "$1"; }

# What was shown at `far` must not be known at `near`: neither the password nor any token, in a header or in a URL.
shows_nothing_near() {
  same "$(asked near '.headers | has("authorization") or has("cookie")')" 0
  test "$(asked far '.headers | has("authorization")')" -ge 1
  jq -r 'select(.front != "near") | .headers.authorization // empty' "$ASKED" | sed 's/^[A-Za-z]* //' | sort -u >shown
  { cat shown; secret; echo; printf '%s' "$KEY_ID:$(secret)" | base64 -w0; echo; } >secrets
  jq -c 'select(.front == "far")' "$ASKED" | grep -cFf secrets
  jq -c 'select(.front == "near")' "$ASKED" >near.json; test -s near.json
  if grep -Ff secrets near.json; then echo "near was shown a credential"; return 1; fi
}
# sent_on CLIENT IMAGE: large blobs from near; what is small from where it was asked, the configuration of the image
sent_on() {
  local before; before=$(decided "$sent_by"); unasked
  "pull_$1" "$far" "$2"
  same "$(gave near)" "$layer"; same "$(gave far)" $((whole - layer))
  same "$(asked far '.status == 307')" 1; same "$(($(decided "$sent_by") - before))" 1
  shows_nothing_near
}
# served_where_asked CLIENT REASON
served_where_asked() {
  local before; before=$(decided "$2"); unasked
  "pull_$1" "$far" "$image"
  same "$(gave far)" "$whole"; same "$(asked near)" 0; test "$(decided "$2")" -gt "$before"
}
# a private address is one at 127.x; to any other it goes, if a node sends it
masked_crane() {
  unasked; tell_crane "$masked"
  case $SCHEME in
    http) fails 'SSRF protection' -- pull_crane "$masked" "$image"; same "$(asked near)" 0;;
    https) pull_crane "$masked" "$image"; same "$(gave near)" "$layer"; same "$(asked near '.headers | has("authorization")')" 0;;
  esac
  test "$(asked masked '.status == 307')" -ge 1
}
# one that the other node sees by another address is sent back, and served by the same link
sent_back() {
  unasked
  "pull_$1" "$far" "$image"
  same "$(gave near)" 0; same "$(gave far)" "$whole"; same "$(asked near '.status == 307')" 1
  same "$(asked far '.status == 200 and (.query | startswith("portolan-link=")) and .query != "portolan-link=none"')" 1
  shows_nothing_near
}
