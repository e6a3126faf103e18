# notation: signatures of a local key as referrers, in both envelopes.
export DOCKER_CONFIG=$WORK/docker
mkdir -p "$DOCKER_CONFIG" bin
# notation keeps a password only in a credential store: here, a helper in the protocol of docker's, over one file
cat >bin/docker-credential-samplefile <<'H'
#!/usr/bin/env bash
set -euo pipefail; umask 077; file=$WORK/credentials.json; [ -s "$file" ] || echo '{}' >"$file"; input=$(cat)
case $1 in
  store) jq --argjson one "$input" '.[$one.ServerURL] = $one' "$file" >"$file.new"; mv "$file.new" "$file";;
  get) jq -e --arg url "$input" '.[$url] // empty' "$file" || { echo 'credentials not found in native keychain'; exit 1; };;
  erase) jq --arg url "$input" 'del(.[$url])' "$file" >"$file.new"; mv "$file.new" "$file";;
  list) jq 'map_values(.Username)' "$file";;
esac
H
chmod +x bin/docker-credential-samplefile; export PATH=$WORK/bin:$PATH
echo '{"credsStore":"samplefile"}' >"$DOCKER_CONFIG/config.json"
login() { local node; for node in "$@"; do secret | notation login "${insecure[@]/%/-registry}" -u "$KEY_ID" --password-stdin "$node"; done; }
wrong_password() { echo wrong | fails 'unauthorized|401|failed to log in' -- notation login "${insecure[@]/%/-registry}" -u "$KEY_ID" --password-stdin "$A"; }
image() { # REPOSITORY
  secret | skopeo login --tls-verify=$verify --authfile auth.json -u "$KEY_ID" --password-stdin "$A"
  skopeo copy -q --dest-tls-verify=$verify --dest-authfile auth.json "oci:$IMAGES/busybox:latest" "docker://$A/$1:1"
}
of() { echo "$1/notation/app@$(layout_digest busybox latest)"; }
keys() {
  notation cert generate-test --default harbour.example
  cat >policy.json <<'P'
{"version":"1.0","trustPolicies":[{"name":"all","registryScopes":["*"],"signatureVerification":{"level":"strict"},"trustStores":["ca:harbour.example"],"trustedIdentities":["*"]}]}
P
  notation policy import policy.json
}
signs() {
  image notation/app
  notation sign "${insecure[@]/%/-registry}" --force-referrers-tag=false -m team=harbour "$(of "$A")"
  notation verify "${insecure[@]/%/-registry}" "$(of "$B")"
  notation verify "${insecure[@]/%/-registry}" -m team=harbour "$C/notation/app:1"
  fails -- notation verify "${insecure[@]/%/-registry}" -m team=other "$(of "$C")"
}
listed() {
  prints 'application/vnd.cncf.notary.signature' -- notation ls "${insecure[@]/%/-registry}" "$(of "$B")"
  api GET "$C/v2/notation/app/referrers/$(layout_digest busybox latest)?artifactType=application/vnd.cncf.notary.signature" |
    jq -e '.manifests | length == 1 and (.[0].annotations | has("io.cncf.notary.x509chain.thumbprint#S256"))'
  same "$(api GET "$B/v2/notation/app/tags/list" | jq -c .tags)" '["1"]'
}
cose() {
  notation sign "${insecure[@]/%/-registry}" --force-referrers-tag=false --signature-format cose "$(of "$B")"
  notation inspect "${insecure[@]/%/-registry}" -o json "$(of "$C")" >inspect.json
  same "$(jq '.Signatures | length' inspect.json)" 2
  notation verify "${insecure[@]/%/-registry}" "$(of "$A")"
}
by_tag() {
  notation sign "${insecure[@]/%/-registry}" --force-referrers-tag=true "$(of "$C")"
  same "$(status_at "$A" notation/app "$(layout_digest busybox latest | tr : -)")" 200
}
unsigned() { image notation/unsigned; fails 'no signature|not signed|associated' -- notation verify "${insecure[@]/%/-registry}" "$B/notation/unsigned@$(layout_digest busybox latest)"; }
stranger() {
  notation cert delete --type ca --store harbour.example --all -y
  fails -- notation verify "${insecure[@]/%/-registry}" "$(of "$A")"
}
check "a wrong password is refused" wrong_password
check "login with the password from standard input" login "$A" "$B" "$C"
check "make a key and a trust policy" keys
check "sign on one node, verify on others, by digest and tag" signs
check "list by the referrers API, without a fallback tag" listed
check "a second signature in a COSE envelope" cose
check "sign by the tag scheme" by_tag
check "an image without a signature does not verify" unsigned
check "an authority that is not trusted does not verify" stranger
finish
