# A region is lost for good: what src/docs/operations.md says of that, step by step, with docker as the client that goes on
# by a name that is no region's own. Sourced by two-regions.sh, never run.

name_port=$((base + 20)) name_pid=''
named() { echo "127.0.0.1:$name_port/team/$1:1"; }

# From now on the name leads to a region, as a record in DNS would.
lead_name() { # REGION
  end_name
  cat >"$work/name.cfg" <<CFG
defaults
    mode tcp
    timeout connect 2s
    timeout client 60s
    timeout server 60s
listen name
    bind 127.0.0.1:$name_port
    server region $(door "$1")
CFG
  haproxy -db -f "$work/name.cfg" >"$work/name.log" 2>&1 &
  name_pid=$!
  until_ok 15 "the name leads to $1" answers "127.0.0.1:$name_port"
  # users and keys are a region's own
  log_in "$1-a" "127.0.0.1:$name_port"
}
end_name() {
  [ -z "$name_pid" ] || { kill "$name_pid" 2>/dev/null; wait "$name_pid" 2>/dev/null || true; }
  name_pid=''
}

# asks REGION PATH CURL-OPTION…, with its first key
asks() {
  local region=$1 path=$2 key; shift 2
  key=$(portolan_in "$region-a" cluster first-key -o json | jq -r .user):$(portolan_in "$region-a" cluster first-key --bare)
  curl -s -m 20 -u "$key" -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$@" "http://$(door "$region")/v2/$path"
}
# What a region answers to the pull of a manifest
answered() { asks "$1" "team/$2/manifests/1" -o /dev/null -w '%{http_code}'; } # REGION NAME
# By itself: lists tell only what is here, and a tag is the last to arrive
has_arrived() { asks us "team/$1/tags/list" | jq -e '.tags | index("1") != null'; }
pulls_named() { # NAME: the very image that was pushed
  local image; image=$(named "$1")
  until_ok 90 "$1 comes by the name" docker pull -q "$image"
  [ "$(id_of "$image")" = "$(cat "$work/id-$1")" ] || fail "$1 came as another image"
  forget_images "$image"
}
push_named() { # NAME
  push_to "127.0.0.1:$name_port" "$1"; cp "$work/id" "$work/id-$1"
}

# Nodes, disks, certificates: all of it
destroy_eu() {
  local volume
  compose rm -sfv prepare-eu form-eu eu-a eu-b eu-c >/dev/null 2>&1
  for volume in setup-eu certs-eu-a certs-eu-b certs-eu-c data-eu-a data-eu-b data-eu-c; do
    docker volume rm "${project}_$volume" >/dev/null || fail "a disk of eu is still there: $volume"
  done
}
has_filled() { portolan_in "$(leader eu)" region list -o json | jq -e '.regions[] | select(.region == "us") | .backfill.ended_at != null'; }

lose_region() {
  local told both='"readThrough": "full", "deleteReplication": { "enabled": true }'
  set_rule eu us "$both"; set_rule us eu "$both"
  lead_name eu
  push_named before
  until_ok 60 "it has arrived in us" has_arrived before
  disconnect_us
  push_named late
  destroy_eu
  say "  eu is gone, with its disks; what was pushed last is not in us"
  [ "$(answered us late)" = 503 ] || fail "what may be on its way is not 503"
  told=$(portolan_in "$(leader us)" region take-over eu 2>&1) && fail "taken over without --accept-loss"
  grep -q 'acknowledged before' <<<"$told" || fail "nothing is said of what may be lost: $told"
  say "  $told"
  portolan_in "$(leader us)" region take-over eu --accept-loss >"$work/taken" || fail "not taken over"
  [ "$(answered us late)" = 404 ] || fail "what is lost is not absent"
  lead_name us
  pulls_named before; push_named since; pulls_named since
  say "  clients go on in us, by the same name"

  # in its place, with a number that no region had
  export PORTOLAN_REGION_NUMBER_EU=3
  up_regions; connect_us
  compose exec -T us-a portolan replication set - <<<'{ "rules": [] }' >/dev/null
  portolan_in us-a region remove eu >/dev/null
  introduce eu us; introduce us eu
  set_rule us eu '"backfill": { "enabled": true }, "transitive": { "enabled": true }, "readThrough": "full", "deleteReplication": { "enabled": true }'
  until_ok 120 "all that us has is in the new eu" has_filled
  set_rule eu us "$both"
  until_ok 120 "eu is equal to us" is_equal eu us; until_ok 120 "us is equal to eu" is_equal us eu
  lead_name eu
  pulls_named before; pulls_named since; push_named back; pulls_named back
  say "  a new eu has it all, and the name leads there again"
  end_name; unset PORTOLAN_REGION_NUMBER_EU
}
