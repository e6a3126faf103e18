# containerd by ctr: whole-body uploads, a mirror whose requests carry ?ns=, manifests by digest.
. "$HERE/containerd.sh"

# at 127.x ctr speaks HTTP unless a hosts.toml says otherwise
reach=("${plain[@]}")
if [ "$SCHEME" = https ]; then
  reach=(--hosts-dir hosts)
  for node in "$A" "$B" "$C"; do mkdir -p "hosts/$node"; printf 'server = "https://%s"\n[host."https://%s"]\n' "$node" "$node" >"hosts/$node/hosts.toml"; done
fi
# ctr has no login and asks a terminal for a password: it gets it with each command
pull() { ctr images pull "${reach[@]}" --user "$KEY_ID:$(secret)" --snapshotter native "$@"; }
push() { ctr images push "${reach[@]}" --user "$KEY_ID:$(secret)" "$@"; }

import() {
  tar -C "$IMAGES/busybox" -cf busybox.tar .
  ctr images import --snapshotter native --digests --base-name import busybox.tar
  ctr images ls -q
}
name() { ctr images ls -q >names; grep -m 1 '^import' names; }
push_and_pull() {
  local image; image=$(name); ctr images tag "$image" "$A/ctr/busybox:1"
  push "$A/ctr/busybox:1"
  forget "$image" "$A/ctr/busybox:1" $(ctr images ls -q)
  same "$(ctr content ls -q | wc -l)" 0
  pull "$B/ctr/busybox:1"
  same "$(digest_of "$B/ctr/busybox:1")" "$(layout_digest busybox latest)"
  ctr images mount --snapshotter native "$B/ctr/busybox:1" "$(mkdir -p mnt; echo "$PWD/mnt")"
  cmp mnt/bin/busybox "$(command -v busybox || echo /bin/busybox)"
  ctr images unmount --snapshotter native "$PWD/mnt" || umount mnt
}
by_digest() {
  pull "$C/ctr/busybox@$(layout_digest busybox latest)"
  # a pipe that grep closes at its first match would end ctr by a signal
  ctr images check >checked; grep -q complete checked
}
second_repository() {
  # the content remembers where it came from, so the push asks for a mount
  ctr images tag "$B/ctr/busybox:1" "$B/ctr/mounted:1"
  push --http-dump "$B/ctr/mounted:1" >log 2>&1 || { tail log; return 1; }
  grep -q 'mount=sha256' log; grep -q 'PUT /v2/ctr/mounted/manifests' log
  if grep -q 'PUT /v2/ctr/mounted/blobs' log; then return 1; fi
  same "$(digest_at "$C" ctr/mounted 1)" "$(layout_digest busybox latest)"
}
index() {
  tar -C "$IMAGES/multi" -cf multi.tar .
  ctr images import --snapshotter native --all-platforms --no-unpack --base-name multi multi.tar
  local image; ctr images ls -q >names; image=$(grep -m 1 '^multi' names)
  ctr images tag "$image" "$C/ctr/multi:1"; push "$C/ctr/multi:1"
  same "$(digest_at "$A" ctr/multi 1)" "$(layout_digest multi 1)"
  # pull would unpack every platform, the attestation as well; fetch takes what is there as it is
  ctr content fetch "${reach[@]}" --user "$KEY_ID:$(secret)" --all-platforms "$A/ctr/multi:1"
  ctr images check "name==$A/ctr/multi:1" >checked; grep -q 'complete (.*/' checked
}
mirror() {
  mkdir -p hosts/registry.example.test
  printf 'server = "%s"\n[host."%s"]\n  capabilities = ["pull", "resolve"]\n' "$SCHEME://$C" "$SCHEME://$B" >hosts/registry.example.test/hosts.toml
  ctr images pull --hosts-dir hosts --user "$KEY_ID:$(secret)" --snapshotter native --http-dump registry.example.test/ctr/busybox:1 >log 2>&1 || { tail -n 20 log; return 1; }
  grep -q 'ns=registry.example.test' log
  same "$(digest_of registry.example.test/ctr/busybox:1)" "$(layout_digest busybox latest)"
}
wrong_password() { fails 'unauthorized|401|authorization failed' -- ctr images pull "${reach[@]}" --user "$KEY_ID:wrong" "$A/ctr/busybox:1"; }
no_such() { fails 'not found' -- pull "$B/ctr/busybox:nothing"; }
check "import an image without a network" import
check "push to one node, pull from another, the same files" push_and_pull
check "a wrong password is refused" wrong_password
check "pull by digest" by_digest
check "push to a second repository, by mount" second_repository
check "an index keeps its digest" index
check "a mirror by hosts.toml, with ?ns=" mirror
check "what is not there is not found" no_such
finish
