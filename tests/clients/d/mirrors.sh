# containerd's mirrors (hosts.toml) in two regions that copy to each other, each behind a front that ends TLS. The region
# `us` is the nearest here, `eu` is where images are pushed; each has keys of its own.
. "$HERE/containerd.sh"
. "$HERE/fronts.sh"
. "$HERE/regions.sh"
number=$(cut -d. -f2 <<<"$A") port=${A##*:} namespace=registry.example.test
eu_node=127.$((number + 1)).1.1 us_node=127.$((number + 2)).1.1
eu=127.$((number + 1)).9.1:$port us=127.$((number + 2)).9.1:$port nobody=127.$((number + 2)).9.2:$port
operate() { "$PORTOLAN" "$@" --admin "http://$eu_node:$((port + 3))" --credentials-file regions/dev-1/root-key; }

authority() {
  "$PORTOLAN" certs init --dir tls
  "$PORTOLAN" certs public --dir tls --address "${eu%:*}" --address "${us%:*}"
}

# mirror HOST KEY: what hosts.toml says of one host
mirror() {
  printf '[host."https://%s"]\ncapabilities = ["pull", "resolve"]\nca = "%s"\n' "$1" "$WORK/tls/ca.pem"
  printf '[host."https://%s".header]\nauthorization = ["Basic %s"]\n' "$1" "$(printf %s "$2" | base64 -w0)"
}
# hosts MIRROR...: the mirrors in this order, then the region where images are pushed
hosts() {
  mkdir -p "hosts/$namespace"
  { printf 'server = "https://%s"\nca = "%s"\n[header]\nauthorization = ["Basic %s"]\n' "$eu" "$WORK/tls/ca.pem" "$(printf %s "$eu_key" | base64 -w0)"
    printf '%s\n' "$@"; } >"hosts/$namespace/hosts.toml"
}
pull() { ctr images pull --hosts-dir hosts --snapshotter native "$@"; }
push() { skopeo copy -q --preserve-digests --dest-tls-verify=false --dest-creds "$eu_key" "oci:$IMAGES/$1" "docker://$eu_node:$port/$2"; }

# pulled IMAGE LAYOUT TAG BY: pulls what is not here yet, whole, its blobs from one region and nothing of them from another
pulled() {
  local image=$1 digest bytes other=eu; [ "$4" = us ] || other=us
  digest=$(layout_digest "$2" "$3"); bytes=$(blob_bytes "$2" "$3")
  local held; for held in $(ctr images ls -q); do forget "$held"; done; same "$(ctr content ls -q | wc -l)" 0
  unasked; pull "$namespace/$image"
  same "$(digest_of "$namespace/$image")" "$digest"
  ctr images check "name==$namespace/$image" >checked; grep -q 'complete (.*/' checked
  same "$(gave "$4")" "$bytes"; same "$(gave $other)" 0
}
only_us_is_asked() {
  test "$(asked us)" -ge 3; same "$(asked eu)" 0
  same "$(asked us '.query == "ns=registry.example.test"')" "$(asked us)"
}

copied() {
  operate replication set - <<'RULES'
{ "rules": [ { "destinations": [ { "region": "dev-2", "registryId": "000000000000" } ], "readThrough": "full",
               "repositoryFilters": [ { "filter": "team/", "filterType": "PREFIX_MATCH" } ] } ] }
RULES
  push busybox:latest team/app:1; push zstd:1 only/eu:1
  for _ in $(seq 120); do operate replication image team/app 1 | tee status | grep -q COMPLETE && break; sleep 0.5; done
  grep COMPLETE status
}
nearest_by_tag() { hosts "$(mirror "$us" "$us_key")"; pulled team/app:1 busybox latest us; only_us_is_asked; }
nearest_by_digest() { pulled "team/app@$(layout_digest busybox latest)" busybox latest us; only_us_is_asked; }
# each region is shown its own key, and never the other's
keys_apart() {
  pulled only/eu:1 zstd 1 eu
  knows us "$(printf %s "$us_key" | base64 -w0)"; knows eu "$(printf %s "$eu_key" | base64 -w0)"
  if knows us "$(printf %s "$eu_key" | base64 -w0)" "${eu_key#*:}"; then return 1; fi
  if knows eu "$(printf %s "$us_key" | base64 -w0)" "${us_key#*:}"; then return 1; fi
}
in_one_region() {
  pulled only/eu:1 zstd 1 eu; test "$(asked us '.status == 404')" -ge 1
  pulled "only/eu@$(layout_digest zstd 1)" zstd 1 eu; test "$(asked us '.status == 404')" -ge 1
}
refused() {
  hosts "$(mirror "$us" "${us_key%:*}:wrong")"; pulled team/app:1 busybox latest eu; test "$(asked us '.status == 401')" -ge 1
}
down() {
  hosts "$(mirror "$nobody" x:y)" "$(mirror "$us" "$us_key")"; pulled team/app:1 busybox latest us; same "$(asked eu)" 0
  pulled "team/app@$(layout_digest busybox latest)" busybox latest us
}
# what has not arrived and can't be fetched is a 503 there, never a 404 (readThrough)
unavailable() {
  links cut; sleep 1.5; push plain:1 team/late:1
  for _ in $(seq 40); do is_503 && break; sleep 0.25; done; is_503
  pulled team/late:1 plain 1 eu; test "$(asked us '.status == 503')" -ge 1
  pulled "team/late@$(layout_digest plain 1)" plain 1 eu; test "$(asked us '.status == 503')" -ge 1
}
is_503() {
  local code; code=$(curl -s -o /dev/null -D headers -w '%{http_code}' -u "$us_key" "http://$us_node:$port/v2/team/late/manifests/1")
  [ "$code" = 503 ] && grep -qi '^retry-after: ' headers
}
nowhere() { fails 'not found' -- pull "$namespace/team/app:nothing"; }
untrusted() {
  hosts "$(mirror "$us" "$us_key" | grep -v '^ca = ')"; pulled team/app:1 busybox latest eu; same "$(asked us)" 0
  hosts "$(mirror "$us" "$us_key")"
}
pushes() {
  pulled team/app:1 busybox latest us
  ctr images tag "$namespace/team/app:1" "$namespace/only/pushed:1"; unasked
  ctr images push --hosts-dir hosts "$namespace/only/pushed:1"
  same "$(asked us)" 0; test "$(asked eu '.method == "PUT" and (.path | contains("/manifests/"))')" -ge 1
  same "$(curl -s -u "$eu_key" "http://$eu_node:$port/v2/only/pushed/manifests/1" | sha256sum | cut -d' ' -f1)" "$(layout_digest busybox latest | cut -d: -f2)"
}
# `ns` says under which name a client knows an image. It changes no answer, and nobody is called by it.
other_names() {
  local ns path kinds=0 url=http://$us_node:$port/v2
  python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); s.accept(); print("called", flush=True)' >canary &
  local canary=$! at; for _ in $(seq 50); do [ -s canary ] && break; sleep 0.1; done; at=127.0.0.1:$(head -1 canary)
  local layer; layer=$(curl -s -u "$us_key" "$url/team/app/manifests/1" | jq -r '.layers[0].digest')
  for path in team/app/manifests/1 "team/app/blobs/$layer" team/app/tags/list team/app/manifests/nothing nowhere/at/all/manifests/1 ''; do
    curl -s -u "$us_key" "$url/$path" -o wanted -w '%{http_code}' >wanted-code
    for ns in "$at" "http://$at" "http%3A%2F%2F$at%2Fv2%2F" "user:password@$at" docker.io '../../..' '%00%0d%0aHost:%20x' '%ff%fe' '' \
      "a&ns=$at" "$(head -c 6000 /dev/zero | tr '\0' a)"; do
      curl -s -u "$us_key" "$url/$path?ns=$ns" -o got -w '%{http_code}' >got-code
      cmp wanted-code got-code; cmp wanted got; kinds=$((kinds + 1))
    done
  done
  same "$(cat canary)" "${at#*:}"; same "$kinds" 66
  # the canary would have told
  curl -s -m 1 "http://$at/" || true; for _ in $(seq 20); do grep -q called canary && break; sleep 0.1; done
  wait $canary; grep -q called canary
}

regions $((number + 1)) --set http.trusted_proxies=127.0.0.1
check "two regions run" regions_run
check "an authority for the fronts" authority
fronts --tls tls/public/server/tls.pem tls/public/server/tls.key --say-https "eu=$eu=$eu_node:$port" "us=$us=$us_node:$port"
eu_key=$(cat regions/dev-1/root-key) us_key=$(cat regions/dev-2/root-key)
check "what is pushed to one region is copied to the other" copied
check "the nearest region answers, by tag, with its own key" nearest_by_tag
check "the nearest region answers, by digest" nearest_by_digest
check "an image that only the other region has" in_one_region
check "each region is shown its own key" keys_apart
check "a mirror that refuses the key is passed over" refused
check "a mirror that is down is passed over" down
check "a mirror whose authority nobody told of is passed over" untrusted
check "what no region has is not found" nowhere
check "a push goes past the mirrors" pushes
check "ns= that names another host changes nothing, and calls nobody" other_names
# the link stays cut
check "a mirror that answers 503 is passed over" unavailable
finish
