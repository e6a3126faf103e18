# Two regions that know each other, dev-1 and dev-2 of `portolan dev`, which speak HTTP; sourced by files in d.
# regions NUMBER OPTION...: starts them at 127.NUMBER and the next one, below `regions`; they end with the file.
regions() {
  local number=$1; shift
  "$PORTOLAN" dev --dir regions --regions 2 --region "$number" --port "${A##*:}" $NODE_SETTINGS "$@" >regions.log 2>&1 &
  regions_pid=$!; ends $regions_pid
}
regions_run() {
  for _ in $(seq 240); do grep -q '^The regions know each other' regions.log && break; kill -0 "$regions_pid"; sleep 0.25; done
  grep -q '^The regions know each other' regions.log || { cat regions.log; return 1; }
}
# links up|cut|hang: how they reach each other from now on
links() { sed -i "s/^state = .*/state = \"$1\"/" regions/links.toml; }
