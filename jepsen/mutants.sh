#!/usr/bin/env bash
# Builds the server with faults put in on purpose and runs the fault harness on each: every one must end in a bad verdict.
# Prints which judge said so, and after how long. Some need root (power cuts, partitions); without it they are told as not tested.
# Not among them unless named: skip-dir-sync. The journal of ext4 takes names along with the next sync of the log, so that
# no cut shows it there; tests/it/durability/syscalls.rs sees that the call is missing (src/docs/durability.md).
#   jepsen/mutants.sh CACHE_DIR JEPSEN [MUTANT …]
set -euo pipefail
cache=${1:?usage: mutants.sh CACHE_DIR JEPSEN}; jepsen=${2:?usage: mutants.sh CACHE_DIR JEPSEN}; shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
store=$cache/store/mutants; mkdir -p "$store"
(cd "$here" && CARGO_TARGET_DIR="$cache/mutants" cargo build --locked -p portolan --features mutants)
binary=$cache/mutants/debug/portolan

cuts=(--workload push-set --nemesis powercut-all --cuts 3 --clients 20 --layer-bytes-max 65536)
kills=(--workload push-set --nemesis kill-any --clients 20 --layer-bytes-max 65536)
# what each is looked for with
run_of() {
  case $1 in
    skip-log-sync | skip-blob-sync | skip-dir-sync) echo "${cuts[@]}" ;;
    forget-needs) echo "${kills[@]}" --kills 4 ;;
    # second copies follow soon: a node has to die just after it acknowledged
    one-zone) echo "${kills[@]}" --kills 10 ;;
    stale-reads) echo --workload tag-register --nemesis kill-any --kills 2 --clients 20 ;;
    ack-at-send) echo --workload mixed --nemesis mix --only isolate-leader --minutes 2.5 --clients 20 --layer-bytes-max 65536 ;;
    drop-change | skip-compare) echo --workload region --minutes 0.4 --clients 12 ;;
    # a leader has to die while changes wait, as they do on a long link
    early-cursor) echo --workload region --minutes 0.6 --clients 12 --link-delay-ms 100 --only kill-leader,kill-both-leaders ;;
    forget-deletes)
      echo --workload region --minutes 1 --clients 16 --seed 5 --only cut-links,cut-one-link,hang-one-link,kill-leader,kill-both-leaders ;;
    collect-used) echo --workload gc --clients 12 --minutes 0.5 ;;
    *) echo "mutants.sh: no mutant $1" >&2; exit 2 ;;
  esac
}

failed=0
for mutant in "${@:-skip-log-sync skip-blob-sync one-zone ack-at-send forget-needs stale-reads collect-used drop-change early-cursor forget-deletes skip-compare}"; do
  for name in $mutant; do
    case $name in
      skip-* | ack-*) [ "$(id -u)" = 0 ] || { echo "$name: NOT TESTED: power cuts and partitions need root"; continue; } ;;
    esac
    log=$store/$name.log began=$SECONDS
    # shellcheck disable=SC2046
    if PORTOLAN_MUTANT=$name "$jepsen" run --store "$store" --binary "$binary" $(run_of "$name") >"$log" 2>&1; then
      echo "$name: NOT CAUGHT after $((SECONDS - began)) s"; failed=1
    elif grep -q '^BAD ' "$log"; then
      echo "$name: caught after $((SECONDS - began)) s by $(sed -n 's/^BAD  *\([a-z]*\) .*/\1/p' "$log" | paste -sd' ')"
    else
      echo "$name: NOT TESTED: $(tail -1 "$log")"; failed=1
    fi
  done
done
exit $failed
