# buildah: images from scratch, formats, and a build cache that lives in the registry.
. "$HERE/containers.sh"
buildah() { command buildah --root "$WORK/store" --runroot "$WORK/run" --storage-driver vfs "$@"; }
other() { command buildah --root "$WORK/other" --runroot "$WORK/other-run" --storage-driver vfs "$@"; }
login() { for node in "$@"; do secret | buildah login --tls-verify=$verify -u "$KEY_ID" --password-stdin "$node"; done; }

commit() {
  head -c 500000 /dev/urandom >data.bin
  local container; container=$(buildah from scratch)
  buildah copy "$container" data.bin /data.bin
  buildah config --label team=harbour --cmd /bin/true "$container"
  buildah commit -q "$container" made
  buildah rm "$container"
}
push_and_pull() {
  buildah push -q --tls-verify=$verify --digestfile digest made "docker://$A/buildah/made:1"
  same "$(cat digest)" "$(digest_at "$C" buildah/made 1)"
  other pull -q --tls-verify=$verify "docker://$B/buildah/made:1"
  local container at; container=$(other from --tls-verify=$verify "$B/buildah/made:1"); at=$(other mount "$container")
  cmp "$at/data.bin" data.bin; other rm "$container"
  same "$(other inspect --type image --format '{{.OCIv1.Config.Labels.team}}' "$B/buildah/made:1")" harbour
}
formats() {
  buildah push -q --tls-verify=$verify --format v2s2 made "docker://$B/buildah/made:v2s2"
  same "$(api GET "$C/v2/buildah/made/manifests/v2s2" | jq -r .mediaType)" application/vnd.docker.distribution.manifest.v2+json
}
context() {
  mkdir -p context; echo one >context/one; head -c 200000 /dev/urandom >context/two
  printf 'FROM scratch\nCOPY one /one\nCOPY two /two\nLABEL a=b\n' >context/Containerfile
}
cache_to() {
  context
  buildah build --layers --tls-verify=$verify --cache-to "$A/buildah/cache" --cache-from "$A/buildah/cache" -t "$A/buildah/cached:1" context >log 2>&1 || { cat log; return 1; }
  grep -q -i 'cache pushed\|pushing cache\|push' log || { cat log; return 1; }
  test "$(api GET "$B/v2/buildah/cache/tags/list" | jq '.tags | length')" -ge 2
}
cache_from() {
  other build --layers --tls-verify=$verify --cache-from "$B/buildah/cache" -t cached context >log 2>&1 || { cat log; return 1; }
  grep -q -i 'cache pulled\|using cache' log || { cat log; return 1; }
}
manifest_list() {
  buildah manifest create list; buildah manifest add list made --arch amd64
  buildah manifest push --tls-verify=$verify --all list "docker://$C/buildah/list:1"
  same "$(api GET "$A/v2/buildah/list/manifests/1" | jq '.manifests | length')" 1
}
check "login with the password from standard input" login "$A" "$B" "$C"
check "make an image from scratch" commit
check "push to one node, pull from another, the same files" push_and_pull
check "docker format" formats
check "build with --cache-to a repository" cache_to
check "another store builds with --cache-from another node" cache_from
check "manifest list" manifest_list
finish
