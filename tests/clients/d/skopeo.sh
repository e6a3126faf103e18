# skopeo: copy of images and indexes in every form, sync, inspect, delete.
mkdir -p "$HOME/.config/containers"
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$HOME/.config/containers/policy.json"
export REGISTRY_AUTH_FILE=$WORK/auth.json
login() { for node in "$@"; do secret | skopeo login --tls-verify=$verify -u "$KEY_ID" --password-stdin "$node"; done; }
wrong_password() { fails 'unauthorized|invalid username/password' -- skopeo login --tls-verify=$verify -u "$KEY_ID" -p wrong "$A"; }
push() { skopeo copy -q --dest-tls-verify=$verify "${@:3}" "$1" "docker://$2"; }
pull() { skopeo copy -q --src-tls-verify=$verify "${@:3}" "docker://$1" "$2"; }
raw_digest() { skopeo inspect --tls-verify=$verify --raw "docker://$1" >raw.json; skopeo manifest-digest raw.json; }

push_and_pull() {
  push "oci:$IMAGES/busybox:latest" "$A/skopeo/busybox:1"
  pull "$B/skopeo/busybox:1" oci:pulled:1
  whole pulled
  same "$(raw_digest "$C/skopeo/busybox:1")" "$(layout_digest busybox latest)"
}
index() {
  push "oci:$IMAGES/multi:1" "$B/skopeo/multi:1" --all --preserve-digests
  local want; want=$(layout_digest multi 1)
  same "$(raw_digest "$C/skopeo/multi:1")" "$want"
  pull "$A/skopeo/multi@$want" oci:multi:1 --all --preserve-digests
  whole multi
  same "$(find "$IMAGES/multi/blobs" -type f -printf '%f\n' | sort)" "$(find multi/blobs -type f -printf '%f\n' | sort)"
}
platform() {
  skopeo --override-arch arm --override-variant v7 inspect --config --tls-verify=$verify "docker://$C/skopeo/multi:1" >config.json
  same "$(jq -r .architecture config.json)" arm
}
schema2() {
  push "dir:$IMAGES/schema2/dir-single" "$C/skopeo/schema2:single"
  same "$(raw_digest "$A/skopeo/schema2:single")" "$(layout_digest schema2 single)"
  push "dir:$IMAGES/schema2/dir-list" "$C/skopeo/schema2:list" --all
  same "$(raw_digest "$B/skopeo/schema2:list")" "$(layout_digest schema2 list)"
}
convert() {
  pull "$B/skopeo/busybox:1" "docker://$B/skopeo/converted:v2s2" --dest-tls-verify=$verify --format v2s2
  prints 'vnd.docker.distribution.manifest.v2' -- skopeo inspect --raw --tls-verify=$verify "docker://$A/skopeo/converted:v2s2"
}
compressions() {
  for name in zstd plain; do
    push "oci:$IMAGES/$name:1" "$A/skopeo/$name:1" --preserve-digests
    pull "$C/skopeo/$name:1" "oci:$name:1" --preserve-digests; whole "$name"
    same "$(raw_digest "$B/skopeo/$name:1")" "$(layout_digest "$name" 1)"
  done
}
hundred_layers() {
  push "oci:$IMAGES/layers100:1" "$B/skopeo/layers100:1"
  pull "$A/skopeo/layers100:1" oci:layers100:1; whole layers100
  same "$(raw_digest "$C/skopeo/layers100:1")" "$(layout_digest layers100 1)"
}
between_nodes() {
  pull "$A/skopeo/busybox:1" "docker://$C/skopeo/copied:1" --dest-tls-verify=$verify
  same "$(digest_at "$B" skopeo/copied 1)" "$(layout_digest busybox latest)"
}
inspect() {
  push "oci:$IMAGES/busybox:latest" "$A/skopeo/busybox:2"
  skopeo inspect --tls-verify=$verify "docker://$B/skopeo/busybox:1" >inspect.json
  same "$(jq -r .Digest inspect.json)" "$(layout_digest busybox latest)"
  same "$(jq -c .RepoTags inspect.json)" '["1","2"]'
  same "$(skopeo list-tags --tls-verify=$verify "docker://$C/skopeo/busybox" | jq -c .Tags)" '["1","2"]'
}
synchronise() {
  skopeo sync --src docker --dest dir --src-tls-verify=$verify --all --scoped "$A/skopeo/multi" tree
  skopeo sync --src dir --dest docker --dest-tls-verify=$verify --all "tree/$A/skopeo" "$B/skopeo/synced"
  same "$(digest_at "$C" skopeo/synced/multi 1)" "$(layout_digest multi 1)"
}
deletes_by_digest() {
  push "oci:$IMAGES/busybox:latest" "$A/skopeo/doomed:1"; push "oci:$IMAGES/busybox:latest" "$A/skopeo/doomed:2"
  skopeo delete --tls-verify=$verify "docker://$B/skopeo/doomed:1"
  same "$(status_at "$C" skopeo/doomed 1)$(status_at "$C" skopeo/doomed 2)" 404404
  fails 'manifest unknown' -- pull "$C/skopeo/doomed:2" oci:doomed:2
}
anonymous() {
  push "oci:$IMAGES/busybox:latest" "$A/skopeo-open/busybox:1"
  fails 'unauthorized|authentication required' -- pull "$B/skopeo-open/busybox:1" oci:open:0 --src-no-creds
  open_to_anyone 'skopeo-open/*'
  pull "$B/skopeo-open/busybox:1" oci:open:1 --src-no-creds; whole open
  fails 'unauthorized|authentication required' -- pull "$B/skopeo/busybox:1" oci:open:2 --src-no-creds
  fails 'unauthorized|denied|authentication required' -- push "oci:$IMAGES/busybox:latest" "$A/skopeo-open/busybox:2" --dest-no-creds
}
check "a wrong password is refused" wrong_password
check "login with the password from standard input" login "$A" "$B" "$C"
check "push an OCI image to one node, pull it whole from another" push_and_pull
check "push an index with an attestation (--all --preserve-digests), pull it by digest" index
check "the image of another platform is chosen from the index" platform
check "docker schema 2 manifest and manifest list keep their digests" schema2
check "convert to schema 2 on the way" convert
check "zstd and uncompressed layers" compressions
check "an image of 100 layers" hundred_layers
check "copy from one node to another" between_nodes
check "inspect and list-tags" inspect
check "sync to a directory and back, with indexes" synchronise
check "delete takes the manifest with all its tags" deletes_by_digest
check "anonymous pull where a policy says so, and nowhere else" anonymous
finish
