# Every client's pull is sent on: it asks a node of zone a, and gets large blobs from one of zone b. Fronts before both
# write down what each is asked, and with which credential. Over HTTPS clients are told of the authority, each in its way.
number=$(cut -d. -f2 <<<"$A") image=nearest/app:1 sent_by=zone
. "$HERE/sent.sh"
[ "$SCHEME" = http ] || tls_of_fronts+=(--ca "$CA")

# clients at the address that fronts come from are in zone b
places() {
  local region a b; a=$(id_in_zone a) b=$(id_in_zone b); region=$(portolan cluster status -o json | jq -er .cluster.region)
  cat >places.json <<J
{ "clients": [ { "network": "$client/32", "region": "$region", "zone": "b" } ], "redirect_bytes_min": 65536,
  "addresses": [ { "node": "$a", "network": "127.0.0.0/8", "url": "$SCHEME://$far" },
                 { "node": "$b", "network": "127.0.0.0/8", "url": "$SCHEME://$near" } ] }
J
  portolan nearest set places.json
}
forgotten() { echo '{ "clients": [], "addresses": [] }' >none.json; portolan nearest set none.json; fails -- has_copy_near; }
has_copy_near() { portolan nearest explain "$client" nearest/app 1 -o json | jq -e '.blobs | any(.reason == "zone")'; }
pushed() {
  SSL_CERT_FILE=${CA:-} skopeo copy -q --dest-tls-verify=$verify --dest-creds "$KEY_ID:$(secret)" "oci:$IMAGES/busybox:latest" "docker://$A/$image"
  places
  for _ in $(seq 120); do has_copy_near && return; sleep 0.25; done; return 1
}

stand_before "$A" "$B" "$client"
check "an image has a copy near the client" pushed
log_in
for one in "${clients[@]}"; do check "$one is sent on, without its credential" sent_on "$one" "$image"; done
for one in "${clients[@]}"; do check "$one by digest" sent_on "$one" "nearest/app@$digest"; done
# crane is known by what it calls itself
check "crane is served where it asks" served_where_asked crane client
check "crane that a node does not know refuses a private address" masked_crane
# from now on `near` is reached from another address than `far`
stand_before "$A" "$B" "$other"
for one in "${clients[@]}"; do check "$one with another address there is sent back, and served" sent_back "$one"; done
check "nobody is sent on any more" forgotten
finish
