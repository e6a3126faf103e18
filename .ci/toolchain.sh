#!/usr/bin/env bash
# Installs what build and tests need and the machine lacks: clang and libclang (RocksDB's bindings), mold (fast links),
# strace (what was synced before an answer left), libfaketime (clocks that jump in the fault harness).
# Costs nothing when all is there. Needs root or sudo only when something is missing.
set -euo pipefail
missing=()
command -v clang >/dev/null || missing+=(clang)
command -v mold >/dev/null || missing+=(mold)
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || missing+=(libclang-dev)
command -v g++ >/dev/null || missing+=(g++)
command -v strace >/dev/null || missing+=(strace)
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
command -v cargo >/dev/null || { echo "toolchain.sh: install Rust 1.94.1 or newer first (cargo is missing)" >&2; exit 1; }
[ ${#missing[@]} = 0 ] && exit 0
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
echo "toolchain.sh: installing ${missing[*]}" >&2
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
