# oras: artifacts, attach and discover through the referrers API, copy with referrers, blobs.
oras() { command oras "$@" "${plain[@]}"; }
copy() { command oras cp "$@" "${plain[@]/#--/--from-}" "${plain[@]/#--/--to-}"; }
login() { for node in "$@"; do secret | oras login "$node" -u "$KEY_ID" --password-stdin; done; }

push_and_pull() {
  echo '{"weights":1}' >model.json; head -c 300000 /dev/urandom >data.bin
  oras push "$A/oras/model:1,latest" --artifact-type application/vnd.example.model.v1 \
    model.json:application/json data.bin:application/octet-stream
  oras pull "$B/oras/model:1" -o pulled
  cmp model.json pulled/model.json; cmp data.bin pulled/data.bin
  same "$(oras resolve "$C/oras/model:latest")" "$(digest_at "$B" oras/model 1)"
  same "$(oras manifest fetch "$C/oras/model:1" | jq -r .artifactType)" application/vnd.example.model.v1
}
pushed_again() {
  oras push --debug "$B/oras/model:2" --artifact-type application/vnd.example.model.v1 -a again=yes \
    model.json:application/json data.bin:application/octet-stream >log 2>&1 || { tail log; return 1; }
  # the manifest is new; every blob was found by HEAD
  same "$(grep -c 'Request method: "PUT"' log)" 1
  if grep -q 'Request method: "POST"' log; then return 1; fi
}
attach() {
  echo '{"bomFormat":"CycloneDX"}' >sbom.json; echo ok >report.txt
  oras attach "$A/oras/model:1" --artifact-type application/vnd.cyclonedx+json -a kind=sbom sbom.json
  oras attach "$B/oras/model:1" --artifact-type application/vnd.example.report report.txt
}
discover() {
  oras discover "$C/oras/model:1" --format json >found.json
  same "$(jq -r '.referrers[].artifactType' found.json | sort | tr '\n' ' ')" \
    'application/vnd.cyclonedx+json application/vnd.example.report '
  oras discover "$C/oras/model:1" --artifact-type application/vnd.cyclonedx+json --format json >filtered.json
  same "$(jq -r '.referrers | length' filtered.json)" 1
  same "$(jq -r '.referrers[0].annotations.kind' filtered.json)" sbom
}
no_fallback_tag() {
  # the answer had OCI-Subject, so no tag sha256-… was made
  same "$(oras repo tags "$B/oras/model" | tr '\n' ' ')" '1 2 latest '
}
by_tag_scheme() {
  oras attach "$A/oras/model:1" --distribution-spec v1.1-referrers-tag --artifact-type application/vnd.example.old report.txt
  prints 'vnd.example.old' -- oras discover "$C/oras/model:1" --distribution-spec v1.1-referrers-tag
}
copies() {
  copy -r "$A/oras/model:1" "$B/oras/copied:1"
  same "$(oras resolve "$C/oras/copied:1")" "$(oras resolve "$A/oras/model:1")"
  prints 'vnd.cyclonedx' -- oras discover "$C/oras/copied:1"
}
images() {
  command oras cp --from-oci-layout "$IMAGES/multi:1" "${plain[@]/#--/--to-}" "$A/oras/multi:1"
  command oras cp "${plain[@]/#--/--from-}" "$C/oras/multi:1" --to-oci-layout layout:1
  whole layout
  same "$(oras resolve "$B/oras/multi:1")" "$(layout_digest multi 1)"
  same "$(oras resolve "$B/oras/multi:1" --platform linux/arm64/v8)" \
    "$(jq -r '.manifests[] | select(.platform.architecture == "arm64") | .digest' "$IMAGES/multi/blobs/sha256/$(layout_digest multi 1 | cut -d: -f2)")"
}
blobs() {
  head -c 5000 /dev/urandom >blob.bin; local digest; digest=sha256:$(sha256sum blob.bin | cut -d' ' -f1)
  oras blob push "$A/oras/blobs" blob.bin
  oras blob fetch "$B/oras/blobs@$digest" --output fetched.bin; cmp blob.bin fetched.bin
  oras blob delete "$C/oras/blobs@$digest" --force
  fails 'not found' -- oras blob fetch "$B/oras/blobs@$digest" --output gone.bin
}
empties() {
  # every artifact needs the same two bytes: eight at once, over three nodes
  local n pids=() nodes=("$A" "$B" "$C")
  for n in 1 2 3 4 5 6 7 8; do
    oras attach "${nodes[$((n % 3))]}/oras/model:2" --artifact-type "application/vnd.example.n$n" -a "n=$n" & pids+=($!)
  done
  for n in "${pids[@]}"; do wait "$n"; done
  same "$(oras discover "$A/oras/model:2" --format json | jq '.referrers | map(select(.artifactType | startswith("application/vnd.example.n"))) | length')" 8
}
manifests() {
  oras manifest fetch "$A/oras/model:1" >manifest.json
  oras manifest push "$B/oras/model:pushed" manifest.json
  same "$(oras resolve "$C/oras/model:pushed")" "$(oras resolve "$A/oras/model:1")"
  oras tag "$C/oras/model:1" stable
  oras manifest delete "$B/oras/model@$(oras resolve "$A/oras/model:2")" --force
  same "$(status_at "$C" oras/model 2)" 404
  same "$(status_at "$C" oras/model stable)" 200
  prints '^oras/model$' -- oras repo ls "$C"
}
check "login with the password from standard input" login "$A" "$B" "$C"
check "push an artifact to one node, pull it from another" push_and_pull
check "a second push skips what is there" pushed_again
check "attach on two nodes" attach
check "discover on the third, with and without filter" discover
check "no fallback tag beside the referrers API" no_fallback_tag
check "referrers by the tag scheme" by_tag_scheme
check "copy with all referrers" copies
check "copy an index from a layout and back" images
check "blob push, fetch, delete" blobs
check "eight artifacts at once share the empty blob" empties
check "manifest push, tag, delete; repository list" manifests
finish
