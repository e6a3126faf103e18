# Every client's pull is sent to another region: it asks a node of dev-1, and gets large blobs from one of its own region, dev-2.
# Fronts before both write down what each is asked, and with which credential, and end TLS. Then the link between them is cut.
number=$(($(cut -d. -f2 <<<"$A") + 1)) image=team/app:1 sent_by=region
. "$HERE/sent.sh"
. "$HERE/regions.sh"
[ "$SCHEME" = http ] || tls_of_fronts+=(--say-https)
asked_node=127.$number.1.1 own_node=127.$((number + 1)).2.1

# keys N: the id of a region's key; its secret into a file
keys() { (umask 077; cut -d: -f2 "regions/dev-$1/root-key" | tr -d '\n' >"secret-$1"); cut -d: -f1 "regions/dev-$1/root-key"; }
# second COMMAND...: what goes to the first region otherwise goes to the other one
second() {
  ADMIN=http://$own_node:$((port + 3)) CREDENTIALS=$WORK/regions/dev-2/root-key KEY_ID=$second_id SECRET_FILE=$WORK/secret-2 "$@"
}

# place ZONE FRONT: a region is told that the address that fronts come from is of dev-2, and how clients reach its node of a zone
place() {
  local id; id=$(id_in_zone "$1")
  portolan nearest set - <<J
{ "clients": [ { "network": "$client/32", "region": "dev-2", "zone": "b" } ], "redirect_bytes_min": 65536,
  "addresses": [ { "node": "$id", "network": "127.0.0.0/8", "url": "$SCHEME://$2" } ] }
J
}
# becomes REASON: waits until the asked node says so of the layer; whom it sends to dev-2 it sends to `near`
becomes() {
  for _ in $(seq 240); do explained "$1" && return; sleep 0.25; done
  cat explained.json; return 1
}
explained() {
  portolan nearest explain "$client" team/app 1 -o json >explained.json
  jq -e --arg reason "$1" --arg near "$SCHEME://$near" \
    '.blobs | any(.reason == $reason and (.address // $near) == $near)' explained.json
}
copied() {
  portolan replication set - <<'RULES'
{ "rules": [ { "destinations": [ { "region": "dev-2", "registryId": "000000000000" } ],
               "repositoryFilters": [ { "filter": "team/", "filterType": "PREFIX_MATCH" } ] } ] }
RULES
  skopeo copy -q --preserve-digests --dest-tls-verify=false --dest-creds "$KEY_ID:$(secret)" "oci:$IMAGES/busybox:latest" "docker://$asked_node:$port/$image"
  place a "$far"; second place b "$near"
  becomes region
}

# went_there RESULT COMMAND...: meanwhile dev-2 says so once of a client that was sent there
went_there() {
  local result=$1 before; shift; becomes region
  before=$(second counted portolan_nearest_links_total result "$result")
  "$@"
  same "$(($(second counted portolan_nearest_links_total result "$result") - before))" 1
}
cut_off() { links cut; becomes region_silent; }
mended() { links up; becomes region; }

regions "$number" --set http.trusted_proxies=127.0.0.0/30
check "two regions run" regions_run
ADMIN=http://$asked_node:$((port + 3)) CREDENTIALS=$WORK/regions/dev-1/root-key SECRET_FILE=$WORK/secret-1
KEY_ID=$(keys 1) second_id=$(keys 2)
stand_before "$asked_node:$port" "$own_node:$port" "$client"
check "what is pushed to one region has a copy near the client in the other" copied
log_in
for one in "${clients[@]}"; do check "$one is sent to its region, without its credential" went_there served sent_on "$one" "$image"; done
for one in "${clients[@]}"; do check "$one by digest" went_there served sent_on "$one" "team/app@$digest"; done
check "crane is served where it asks" served_where_asked crane client
check "crane that a node does not know refuses a private address" masked_crane
stand_before "$asked_node:$port" "$own_node:$port" "$other"
for one in "${clients[@]}"; do check "$one with another address there is sent back, and served" went_there back sent_back "$one"; done
stand_before "$asked_node:$port" "$own_node:$port" "$client"
check "the link between the regions is cut" cut_off
for one in "${clients[@]}"; do check "$one is served where it asks, without the other region" served_where_asked "$one" region_silent; done
check "crane as well" served_where_asked crane client
check "the link is mended" mended
check "skopeo is sent to its region again" went_there served sent_on skopeo "$image"
finish
