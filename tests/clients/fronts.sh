# Fronts between clients and nodes, which write down what clients ask and show (front.py); sourced by files in d.
ASKED=$WORK/asked

# fronts OPTION... FRONT...: starts them, in place of those before; what they are is said in front.py.
fronts_pid=
fronts() {
  [ -z "$fronts_pid" ] || { kill "$fronts_pid"; wait "$fronts_pid"; } 2>/dev/null
  # at once, not by who comes: the ones before have said that they are ready
  : >"$WORK/fronts.log"
  python3 "$HERE/front.py" "$ASKED" "$@" >>"$WORK/fronts.log" 2>&1 &
  fronts_pid=$!; ends $fronts_pid
  for _ in $(seq 100); do grep -q '^ready' "$WORK/fronts.log" && return; sleep 0.1; done
  tail -n 5 "$WORK/fronts.log"; return 1
}
unasked() { : >"$ASKED"; }

# asked FRONT [CONDITION]: how many requests it had that meet a condition of jq's.
asked() { jq -s --arg front "$1" "map(select(.front == \$front and (${2:-true}))) | length" "$ASKED"; }

# gave FRONT: how many bytes of blobs came from there.
gave() { jq -s --arg front "$1" 'map(select(.front == $front and .method == "GET" and .status < 300 and (.path | contains("/blobs/"))) | .bytes) | add // 0' "$ASKED"; }

# blob_bytes and layer_bytes LAYOUT TAG: bytes of all blobs of a sample image, or of its layers only.
blob_bytes() { jq '[.config.size, .layers[].size] | add' "$IMAGES/$1/blobs/sha256/$(layout_digest "$1" "$2" | cut -d: -f2)"; }
layer_bytes() { jq '[.layers[].size] | add' "$IMAGES/$1/blobs/sha256/$(layout_digest "$1" "$2" | cut -d: -f2)"; }

# knows FRONT TEXT...: a request there carried one of the texts, anywhere in its headers or its URL.
knows() {
  local front=$1 text; shift
  for text in "$@"; do
    [ "$(jq -s --arg front "$front" --arg text "$text" \
      'map(select(.front == $front) | select([.query, .headers[]] | any(contains($text)))) | length' "$ASKED")" = 0 ] || return 0
  done
  return 1
}
