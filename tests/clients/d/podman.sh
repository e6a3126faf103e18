# podman: build, push, pull, compression formats, manifest lists; two stores, so that a pull is one.
. "$HERE/containers.sh"
podman() { command podman --root "$WORK/store" --runroot "$WORK/run" --storage-driver vfs --events-backend none "$@"; }
other() { command podman --root "$WORK/other" --runroot "$WORK/other-run" --storage-driver vfs --events-backend none "$@"; }
login() { for node in "$@"; do secret | podman login --tls-verify=$verify -u "$KEY_ID" --password-stdin "$node"; done; }
wrong_password() { fails 'unauthorized|invalid username/password' -- podman login --tls-verify=$verify -u "$KEY_ID" -p wrong "$A"; }

build() {
  mkdir -p context; head -c 400000 /dev/urandom >context/data.bin; echo hello >context/hello.txt
  printf 'FROM scratch\nCOPY hello.txt /hello.txt\nCOPY data.bin /data/data.bin\nLABEL team=harbour\n' >context/Containerfile
  podman build --layers -t "$A/podman/app:1" context
}
push_and_pull() {
  podman push -q --tls-verify=$verify --digestfile digest "$A/podman/app:1"
  same "$(cat digest)" "$(digest_at "$C" podman/app 1)"
  other pull -q --tls-verify=$verify "$B/podman/app:1"
  local at; at=$(other image mount "$B/podman/app:1"); cmp "$at/data/data.bin" context/data.bin; cmp "$at/hello.txt" context/hello.txt
  other image unmount "$B/podman/app:1"
  same "$(other image inspect "$B/podman/app:1" --format '{{.Id}}')" "$(podman image inspect "$A/podman/app:1" --format '{{.Id}}')"
}
by_digest() {
  other rmi -f "$B/podman/app:1"
  other pull -q --tls-verify=$verify "$C/podman/app@$(cat digest)"
  same "$(other image inspect "$C/podman/app@$(cat digest)" --format '{{.Digest}}')" "$(cat digest)"
}
formats() {
  podman push -q --tls-verify=$verify --format v2s2 "$A/podman/app:1" "$B/podman/app:v2s2"
  same "$(api GET "$C/v2/podman/app/manifests/v2s2" | jq -r .mediaType)" application/vnd.docker.distribution.manifest.v2+json
  podman push -q --tls-verify=$verify --format oci --compression-format zstd "$A/podman/app:1" "$B/podman/zstd:1"
  prints 'tar\+(zstd|gzip)' -- api GET "$C/v2/podman/zstd/manifests/1"
  other pull -q --tls-verify=$verify "$C/podman/zstd:1"
}
again() {
  podman tag "$A/podman/app:1" "$C/podman/elsewhere:1"
  podman push --tls-verify=$verify "$C/podman/elsewhere:1"
  same "$(status_at "$A" podman/elsewhere 1)" 200
}
manifest_list() {
  podman pull -q --tls-verify=$verify "$A/podman/app:1"
  podman manifest create list
  podman manifest add --tls-verify=$verify --arch amd64 list "docker://$A/podman/app:1"
  podman manifest add --tls-verify=$verify --arch arm64 list "docker://$B/podman/app:v2s2"
  podman manifest push --tls-verify=$verify --all list "docker://$B/podman/list:1"
  same "$(api GET "$C/v2/podman/list/manifests/1" | jq '.manifests | length')" 2
  other pull -q --tls-verify=$verify --arch amd64 "$C/podman/list:1"
}
searches_tags() { prints '(^|[[:space:]])v2s2' -- podman search --tls-verify=$verify --list-tags "$C/podman/app"; }
denied() {
  podman logout "$B"
  fails 'unauthorized|authentication required' -- podman pull --tls-verify=$verify "$B/podman/app:1"
}
check "a wrong password is refused" wrong_password
check "login with the password from standard input" login "$A" "$B" "$C"
check "build without a network" build
check "push to one node, pull from another, the same files" push_and_pull
check "pull by digest" by_digest
check "docker format and zstd" formats
check "push to a second repository" again
check "manifest list over images of two nodes" manifest_list
check "search --list-tags" searches_tags
check "without a login nothing is pulled" denied
finish
