# crane (go-containerregistry): append, copy with mounts, index, tags, catalog, delete, validate.
crane() { command crane "${insecure[@]}" "$@"; }
login() { for node in "$@"; do secret | crane auth login "$node" -u "$KEY_ID" --password-stdin; done; }
layer() { mkdir -p "$1"; echo "$2" >"$1/$1.txt"; tar -cf "$1.tar" "$1"; }

append() {
  layer one first; layer two second
  crane append -f one.tar -t "$A/crane/app:base" --oci-empty-base
  crane append -f two.tar -b "$A/crane/app:base" -t "$B/crane/app:1"
  crane export "$C/crane/app:1" files.tar
  same "$(tar -xOf files.tar one/one.txt; tar -xOf files.tar two/two.txt)" "$(printf 'first\nsecond')"
}
push_and_pull() {
  crane push "$IMAGES/busybox" "$A/crane/busybox:1"
  crane pull "$B/crane/busybox:1" pulled --format oci; whole pulled
  same "$(crane digest "$C/crane/busybox:1")" "$(layout_digest busybox latest)"
  same "$(crane manifest "$B/crane/busybox:1" | sha256sum | cut -d' ' -f1)" "$(layout_digest busybox latest | cut -d: -f2)"
  prints '"architecture":"amd64"' -- crane config "$C/crane/busybox:1"
  crane pull "$C/crane/busybox:1" docker.tar
  tar -tf docker.tar | grep -q '^manifest.json$'
}
index() {
  crane push --index "$IMAGES/multi" "$B/crane/multi:1"
  # crane wraps a layout in its own index: what it holds is ours
  same "$(crane manifest "$C/crane/multi:1" | jq -r '.manifests[0].digest')" "$(layout_digest multi 1)"
  crane copy "$A/crane/multi@$(layout_digest multi 1)" "$A/crane/multi-copy:1"
  same "$(crane digest "$C/crane/multi-copy:1")" "$(layout_digest multi 1)"
  prints '^sha256:' -- crane digest --platform linux/arm/v7 "$B/crane/multi-copy:1"
}
mounts() {
  crane -v copy "$A/crane/busybox:1" "$A/crane/mounted:1" >log 2>&1
  grep -q 'mounted blob' log || { cat log; return 1; }
  if grep -q 'PATCH' log; then cat log; return 1; fi
  crane validate --remote "$B/crane/mounted:1"
}
between_nodes() {
  crane copy "$A/crane/app:1" "$C/crane/copied:1"
  same "$(crane digest "$B/crane/copied:1")" "$(crane digest "$A/crane/app:1")"
}
lists() {
  local tag; for tag in b a c; do crane tag "$A/crane/busybox:1" "$tag"; done
  same "$(crane ls "$B/crane/busybox" | tr '\n' ' ')" '1 a b c '
  crane catalog "$C" >catalog
  grep -qx crane/busybox catalog; LC_ALL=C sort -c catalog
}
pages() {
  local n; for n in $(seq 25); do printf 'crane/pages:t%02d\n' "$n"; done >wanted
  while read -r ref; do crane tag "$A/crane/busybox:1" "${ref#*:}" ; done <wanted
  # crane asks for 1000 a page; the API itself is asked for 10
  local url="$B/v2/crane/busybox/tags/list?n=10" pages=0; : >tags
  while [ -n "$url" ]; do
    api GET "$url" -D headers | jq -r '.tags[]' >>tags; pages=$((pages + 1))
    url=$(tr -d '\r' <headers | sed -n 's/^link: <\(.*\)>; rel="next"$/\1/pI'); [ -z "$url" ] || url=$B$url
  done
  same "$pages $(cat tags | wc -l)" '3 29'
  same "$(cat tags)" "$(crane ls "$C/crane/busybox")"
}
mutate() {
  crane mutate "$A/crane/busybox:1" --label team=harbour -t "$B/crane/busybox:labelled"
  same "$(crane config "$C/crane/busybox:labelled" | jq -r '.config.Labels.team')" harbour
  crane flatten "$A/crane/app:1" -t "$A/crane/app:flat"
  same "$(crane manifest "$B/crane/app:flat" | jq '.layers | length')" 1
}
index_append() {
  crane index append -t "$A/crane/set:1" -m "$A/crane/app:1" -m "$A/crane/app:base"
  same "$(crane manifest "$C/crane/set:1" | jq '.manifests | length')" 2
  crane validate --remote "$B/crane/set:1"
}
deletes() {
  local digest; digest=$(crane digest "$A/crane/busybox:1")
  crane delete "$B/crane/busybox:a"
  fails 'MANIFEST_UNKNOWN' -- crane manifest "$C/crane/busybox:a"
  same "$(crane digest "$C/crane/busybox:b")" "$digest"
  crane delete "$B/crane/busybox@$digest"
  fails 'MANIFEST_UNKNOWN' -- crane manifest "$C/crane/busybox:b"
  same "$(crane ls "$A/crane/busybox")" labelled
}
validates() {
  crane push "$IMAGES/layers100" "$C/crane/layers100:1"
  crane validate --remote "$A/crane/layers100:1"
}
no_such() {
  fails 'NAME_UNKNOWN|MANIFEST_UNKNOWN' -- crane manifest "$B/crane/nowhere:1"
  fails 'UNAUTHORIZED' -- env HOME="$WORK/nobody" crane "${insecure[@]}" manifest "$B/crane/app:1"
}
check "login with the password from standard input" login "$A" "$B" "$C"
check "append layers on one node, export from another" append
check "push an OCI layout to one node, pull it whole from another" push_and_pull
check "push an index, copy it by digest" index
check "copy within the registry mounts and sends no byte" mounts
check "copy from one node to another" between_nodes
check "ls and catalog are whole and in order" lists
check "tag lists in pages" pages
check "mutate and flatten" mutate
check "index append" index_append
check "delete of a tag keeps the manifest, delete of a digest takes its tags" deletes
check "validate re-hashes an image of 100 layers" validates
check "errors are told by their codes" no_such
finish
