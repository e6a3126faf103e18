# regctl (regclient): chunked uploads with Content-Range, artifacts, copy with referrers and digest tags, deletes.
export REGCTL_CONFIG=$WORK/config.json
login() {
  local node
  for node in "$@"; do
    regctl registry set "$node" --tls "$tls" --skip-check
    secret | regctl registry login "$node" -u "$KEY_ID" --pass-stdin
  done
}
# everything above 64 KiB goes in chunks of 64 KiB: the smallest that the registry's OCI-Chunk-Min-Length allows
chunks() { local node; for node in "$@"; do regctl registry set "$node" --blob-max 65536 --blob-chunk 65536; done; }
push_and_pull() {
  regctl image copy "ocidir://$IMAGES/busybox:latest" "$A/regctl/busybox:1"
  regctl image copy "$B/regctl/busybox:1" ocidir://pulled:1; whole pulled
  same "$(regctl image digest "$C/regctl/busybox:1")" "$(layout_digest busybox latest)"
}
large_blob() {
  head -c 3000001 /dev/urandom >large.bin
  local digest; digest=$(regctl -v trace blob put "$A/regctl/blobs" <large.bin 2>log)
  same "$(grep -c 'req-method=PATCH.*Content-Range:' log)" 46
  same "$digest" "sha256:$(sha256sum large.bin | cut -d' ' -f1)"
  regctl blob get "$B/regctl/blobs" "$digest" >got.bin; cmp large.bin got.bin
  prints '3000001' -- regctl blob head "$C/regctl/blobs" "$digest"
  regctl blob delete "$C/regctl/blobs" "$digest"
  fails -- regctl blob head "$A/regctl/blobs" "$digest"
}
indexes() {
  regctl image copy "ocidir://$IMAGES/multi:1" "$B/regctl/multi:1"
  same "$(regctl image digest "$C/regctl/multi:1")" "$(layout_digest multi 1)"
  regctl manifest get "$A/regctl/multi:1" --format raw-body | sha256sum | grep -q "$(layout_digest multi 1 | cut -d: -f2)"
  prints 'amd64' -- regctl manifest get "$A/regctl/multi:1" --platform linux/amd64 --format '{{jsonPretty .}}'  || regctl image config "$A/regctl/multi:1" --platform linux/amd64 | grep -q amd64
}
copies() {
  regctl image copy "$A/regctl/busybox:1" "$A/regctl/copied:1"
  regctl image copy "$A/regctl/busybox:1" "$C/regctl/copied:2"
  same "$(regctl image digest "$B/regctl/copied:1")" "$(regctl image digest "$B/regctl/copied:2")"
  same "$(regctl tag ls "$B/regctl/copied" | tr '\n' ' ')" '1 2 '
}
artifacts() {
  echo '{"spdx":1}' | regctl artifact put --artifact-type application/spdx+json --subject "$A/regctl/busybox:1"
  echo note | regctl artifact put --artifact-type application/vnd.example.note --subject "$B/regctl/busybox:1" --annotation kind=note
  regctl artifact list "$C/regctl/busybox:1" --format '{{json .Manifest}}' >list.json
  same "$(jq -r '.manifests[].artifactType' list.json | sort | tr '\n' ' ')" 'application/spdx+json application/vnd.example.note '
  same "$(regctl artifact list "$C/regctl/busybox:1" --filter-artifact-type application/spdx+json --format '{{json .Manifest}}' | jq '.manifests | length')" 1
  same "$(regctl artifact get --subject "$B/regctl/busybox:1" --filter-artifact-type application/spdx+json)" '{"spdx":1}'
  prints 'application/vnd.example.note' -- regctl artifact tree "$A/regctl/busybox:1"
}
with_referrers() {
  regctl image copy --referrers --digest-tags "$A/regctl/busybox:1" "$B/regctl/all:1"
  same "$(regctl artifact list "$C/regctl/all:1" --format '{{json .Manifest}}' | jq '.manifests | length')" 2
}
tags() {
  regctl image copy "$A/regctl/busybox:1" "$A/regctl/busybox:2"
  regctl tag rm "$B/regctl/busybox:2"
  same "$(regctl tag ls "$C/regctl/busybox" | tr '\n' ' ')" '1 '
  same "$(status_at "$A" regctl/busybox "$(layout_digest busybox latest)")" 200
  prints '^regctl/busybox$' -- regctl repo ls "$C"
}
modifies() {
  regctl image mod "$A/regctl/busybox:1" --create "$B/regctl/modified:1" --label team=harbour --time 'set=2024-01-01T00:00:00Z'
  prints 'harbour' -- regctl image config "$C/regctl/modified:1"
}
deletes() {
  regctl manifest delete "$B/regctl/modified@$(regctl image digest "$A/regctl/modified:1")"
  same "$(status_at "$C" regctl/modified 1)" 404
}
exported() {
  regctl image export "$B/regctl/busybox:1" image.tar
  regctl image import "$C/regctl/imported:1" image.tar
  same "$(regctl image digest "$A/regctl/imported:1")" "$(layout_digest busybox latest)"
}
check "login with the password from standard input" login "$A" "$B" "$C"
check "chunks of 64 KiB are configured" chunks "$A" "$B" "$C"
check "push an image to one node, pull it whole from another" push_and_pull
check "a blob in 46 chunks with Content-Range; get, head, delete" large_blob
check "an index keeps its digest" indexes
check "copy within one node and to another" copies
check "artifacts of a subject: put, list, filter, get, tree" artifacts
check "copy with referrers and digest tags" with_referrers
check "tag rm keeps the manifest" tags
check "image mod" modifies
check "manifest delete by digest" deletes
check "export and import" exported
finish
