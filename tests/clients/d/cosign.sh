# cosign: signatures and attestations as bundles (referrers), as tags (sha256-….sig) and as referrers of the first kind.
export COSIGN_PASSWORD=sample DOCKER_CONFIG=$WORK/docker
cosign() { command cosign "$@"; }
http=(); [ "$SCHEME" = https ] || http=(--allow-http-registry --allow-insecure-registry)
A0=$A B0=$B
if [ "$SCHEME" = http ]; then
  # In its oci-1-1 mode cosign forgets --allow-http-registry; at 127.0.0.1 it speaks HTTP by itself, so two ports there
  # lead to the first and the second node.
  cat >relay.py <<'P'
import asyncio, sys
async def pour(reader, writer):
    try:
        while data := await reader.read(65536): writer.write(data); await writer.drain()
    except OSError: pass
    finally: writer.close()
async def main(host, port):
    async def relay(reader, writer):
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pour(reader, back), pour(there, writer))
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main(*sys.argv[1].split(":")))
P
  python3 relay.py "$A" >relay-a & relays=$!
  python3 relay.py "$B" >relay-b & relays="$relays $!"
  trap 'kill $relays' EXIT
  for _ in $(seq 50); do [ -s relay-a ] && [ -s relay-b ] && break; sleep 0.1; done
  A0=127.0.0.1:$(cat relay-a) B0=127.0.0.1:$(cat relay-b)
fi
login() { local node; for node in "$@"; do secret | cosign login "$node" -u "$KEY_ID" --password-stdin; done; }
image() { # REPOSITORY: an image of the samples at the first node; its reference by digest
  skopeo copy -q --dest-tls-verify=$verify --dest-authfile "$DOCKER_CONFIG/config.json" "oci:$IMAGES/busybox:latest" "docker://$A/$1:1"
}
of() { echo "$1/$2@$(layout_digest busybox latest)"; }
tag_of() { layout_digest busybox latest | tr : -; }
keys() {
  cosign generate-key-pair
  mkdir other; (cd other; cosign generate-key-pair)
  # neither a log nor an authority: key and registry only
  cosign signing-config create --no-default-fulcio --no-default-rekor --no-default-oidc --no-default-tsa --out signing.json
  cosign trusted-root create --no-default-fulcio --no-default-rekor --no-default-ctfe --no-default-tsa --out root.json
}
sign() { cosign sign "${http[@]}" -y --key cosign.key "$@"; }
verify() { cosign verify "${http[@]}" --insecure-ignore-tlog "$@"; }
local=(--signing-config signing.json --trusted-root root.json)
bundle=(--new-bundle-format --trusted-root root.json)
older=(--new-bundle-format=false)

bundles() {
  image cosign/bundle
  sign "${local[@]}" -a team=harbour "$(of "$A" cosign/bundle)"
  verify "${bundle[@]}" --key cosign.pub "$(of "$B" cosign/bundle)"
  fails -- verify "${bundle[@]}" --key other/cosign.pub "$(of "$C" cosign/bundle)"
  api GET "$C/v2/cosign/bundle/referrers/$(layout_digest busybox latest)" |
    jq -e '.manifests | length == 1 and (.[0].artifactType | test("sigstore.bundle"))'
  # resolved from its tag as well
  verify "${bundle[@]}" --key cosign.pub "$C/cosign/bundle:1"
  same "$(api GET "$B/v2/cosign/bundle/tags/list" | jq -c .tags)" '["1"]'
}
attests() {
  echo '{"built":"here"}' >predicate.json
  cosign attest "${http[@]}" -y --key cosign.key "${local[@]}" --type custom --predicate predicate.json "$(of "$B" cosign/bundle)"
  cosign verify-attestation "${http[@]}" --insecure-ignore-tlog "${bundle[@]}" --key cosign.pub --type custom "$(of "$C" cosign/bundle)" >attested.json
  same "$(jq -r .payload attested.json | base64 -d | jq -r .predicate.Data | jq -r .built)" here
}
tags() {
  image cosign/tags
  sign --use-signing-config=false --tlog-upload=false "${older[@]}" "$(of "$A" cosign/tags)"
  verify "${older[@]}" --key cosign.pub "$(of "$B" cosign/tags)"
  same "$(status_at "$C" cosign/tags "$(tag_of).sig")" 200
  # a second signature rewrites the tag, and both verify
  cosign sign "${http[@]}" -y --key other/cosign.key --use-signing-config=false --tlog-upload=false "${older[@]}" "$(of "$B" cosign/tags)"
  verify "${older[@]}" --key cosign.pub "$(of "$C" cosign/tags)"
  verify "${older[@]}" --key other/cosign.pub "$(of "$A" cosign/tags)"
  same "$(api GET "$C/v2/cosign/tags/manifests/$(tag_of).sig" | jq '.layers | length')" 2
}
older_attestation() {
  cosign attest "${http[@]}" -y --key cosign.key --use-signing-config=false --tlog-upload=false "${older[@]}" --type custom --predicate predicate.json "$(of "$A" cosign/tags)"
  cosign verify-attestation "${http[@]}" --insecure-ignore-tlog "${older[@]}" --key cosign.pub --type custom "$(of "$B" cosign/tags)"
  same "$(status_at "$C" cosign/tags "$(tag_of).att")" 200
}
referrers() {
  image cosign/referrers
  COSIGN_EXPERIMENTAL=1 sign --registry-referrers-mode=oci-1-1 --use-signing-config=false --tlog-upload=false "${older[@]}" "$(of "$A0" cosign/referrers)"
  COSIGN_EXPERIMENTAL=1 verify --experimental-oci11 "${older[@]}" --key cosign.pub "$(of "$B0" cosign/referrers)"
  api GET "$C/v2/cosign/referrers/referrers/$(layout_digest busybox latest)" | jq -e '.manifests | length == 1 and .[0].artifactType == "application/vnd.dev.cosign.artifact.sig.v1+json"'
}
tree() { prints '\.sig' -- cosign tree "${http[@]}" "$(of "$C" cosign/tags)"; }
saves() {
  cosign save "${http[@]}" --dir saved "$(of "$B" cosign/tags)"
  cosign load "${http[@]}" --dir saved "$C/cosign/loaded:1"
  same "$(digest_at "$A" cosign/loaded 1)" "$(layout_digest busybox latest)"
  verify "${older[@]}" --key cosign.pub "$A/cosign/loaded:1"
}
cleans() {
  cosign clean "${http[@]}" -f "$(of "$B" cosign/tags)"
  same "$(status_at "$C" cosign/tags "$(tag_of).sig")" 404
  fails -- verify "${older[@]}" --key cosign.pub "$(of "$C" cosign/tags)"
  same "$(status_at "$C" cosign/tags 1)" 200
}
check "login with the password from standard input" login "$A" "$B" "$C" "$A0" "$B0"
check "make keys" keys
check "sign as a bundle on one node, verify on others; another key does not verify" bundles
check "attest and verify the attestation" attests
check "sign by the tag scheme, twice; both verify on every node" tags
check "attest by the tag scheme" older_attestation
check "sign and verify with oci-1-1 referrers" referrers
check "tree" tree
check "save and load with signatures" saves
check "clean takes the signatures and leaves the image" cleans
finish
