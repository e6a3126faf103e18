# containerd of one's own, with ctr: nothing of it is left when the file that sources this ends.
cat >config.toml <<T
version = 2
root = "$WORK/root"
state = "$WORK/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "$WORK/containerd.sock"
T
containerd --config config.toml >containerd.log 2>&1 &
ends $!
ctr() { command ctr -a "$WORK/containerd.sock" "$@"; }
for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
digest_of() { ctr images ls "name==$1" | awk 'NR == 2 {print $3}'; }
forget() { ctr images rm --sync "$@"; }
