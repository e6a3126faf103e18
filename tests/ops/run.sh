#!/usr/bin/env bash
# tests/ops/run.sh [--check | --drills=ALERT,… | --all]
#   --check   rules and their tests, runbooks, the board, the unit: half a minute, nothing is started
#   else also a cluster and a real Prometheus (stage.sh), and a node with a bucket (one.sh): every panel of the board
#   must show data under load; and drills from the runbooks alone: what stands there provokes the alert, the alert
#   fires, the commands to look at it work, what stands there clears it. Three drills without a word, those named, or
#   all (half an hour).
#   PORTOLAN=binary, STAGE=directory of the stage, REGION=where its nodes listen (127.REGION.x.1)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd); cd "$here"
cache=${PORTOLAN_CACHE:-$HOME/.cache/portolan} tools=${PORTOLAN_CACHE:-$HOME/.cache/portolan}/tools/bin
export PORTOLAN=${PORTOLAN:-${CARGO_TARGET_DIR:-$cache/target}/debug/portolan}
export STAGE=${STAGE:-/tmp/portolan-stage-$$}
ops=tests/ops drills="PortolanNodeDown PortolanNoQuorum PortolanBlobVolumeRefuses" only_check=
case ${1:-} in
  --check) only_check=1 ;;
  --drills=*) drills=$(tr , ' ' <<<"${1#--drills=}") ;;
  --all) drills=$($ops/runbook.py alerts) ;;
  "") ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \?//' >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"; [ -z "${KEEP_STAGE:-}" ] && [ -n "${is_up:-}" ] && $ops/stage.sh down || true' EXIT
say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

check_unit() {
  local line
  command -v systemd-analyze >/dev/null || { say "unit: systemd is not installed, so the unit is not verified"; return 0; }
  # the unit as it is, but for the place of the program
  sed "s|/usr/bin/portolan|$PORTOLAN|" deploy/systemd/portolan.service >"$work/portolan.service"
  systemd-analyze verify --man=no "$work/portolan.service" 2>&1 | tee "$work/verify"
  [ ! -s "$work/verify" ] || return 1
  line=$(systemd-analyze security --offline=true --threshold=20 "$work/portolan.service" | tail -1)
  say "unit:$line"
}

say "rules"
$ops/install.sh
(cd deploy/prometheus && "$tools/promtool" check rules alerts.yml && "$tools/promtool" test rules alerts_test.yml &&
  "$tools/promtool" check config --syntax-only prometheus.yml)
for file in $ops/*.sh; do bash -n "$file"; done
$ops/runbook.py check "$PORTOLAN"
$ops/board.py check "$tools/promtool" "$work/board.json"
check_unit
[ -z "$only_check" ] || exit 0

say "a cluster and a Prometheus"
is_up=1
$ops/stage.sh up
eval "$($ops/stage.sh env)"
# what was pushed is verified once, so that the board has that to show as well
$ops/stage.sh load 10
for node in a b c; do $ops/stage.sh on $node 'portolan scrub run' >/dev/null; done
$ops/stage.sh load 20
failed=0
$ops/board.py ask "$PROMETHEUS" portolan || { say "FAILED: the board"; failed=$((failed + 1)); }
say "a node with a bucket"
$ops/one.sh bucket || { say "FAILED: the board's panels of buckets"; failed=$((failed + 1)); }

quiet() { [ -z "$(alerts)" ]; }
drill() {
  local alert=$1 began=$SECONDS fired
  for _ in $(seq 120); do quiet && break; sleep 1; done
  quiet || { say "  before it, these fire: $(alerts)"; return 1; }
  run_block "$alert" provoke || return 1
  $ops/stage.sh wait "$alert" firing 120 || return 1
  fired=$((SECONDS - began))
  run_block "$alert" look || return 1
  run_block "$alert" clear || return 1
  $ops/stage.sh wait "$alert" gone 180 || return 1
  say "  fired after $fired s, cleared after $((SECONDS - began)) s"
}
# A block is run line by line as it stands, in a shell as on node a.
run_block() {
  $ops/runbook.py block "$1" "$2" >"$work/block"
  (cd "$here" && bash -euo pipefail "$work/block") >"$work/said" 2>&1 && return
  say "  $1, to $2: failed"; sed 's/^/    /' "$work/block"; tail -n 20 "$work/said" | sed 's/^/    | /'
  return 1
}
for alert in $drills; do
  say "drill: $alert"
  drill "$alert" || { say "FAILED: $alert"; failed=$((failed + 1)); run_block "$alert" clear || true; }
done
$ops/one.sh calls || { say "FAILED: the unit"; failed=$((failed + 1)); }
say "$(wc -w <<<"$drills") drills, the board and the unit, $failed failed"
[ "$failed" = 0 ]
