#!/usr/bin/env bash
# Builds RocksDB's static library once from the sources of the locked librocksdb-sys crate and keeps it outside the
# clone, because its C++ costs two to three times all our Rust together. Prints the folder to give as ROCKSDB_LIB_DIR.
# Keyed by crate version, compiler and flags; a second call with the same key costs nothing.
#   .ci/rocksdb.sh CACHE_DIR
set -euo pipefail
cache=${1:?usage: rocksdb.sh CACHE_DIR}
here=$(cd "$(dirname "$0")/.." && pwd)
version=$(awk '/^name = "librocksdb-sys"$/ {getline; gsub(/[" ]/, ""); sub(/^version=/, ""); print; exit}' "$here/Cargo.lock")
[ -n "$version" ] || { echo "rocksdb.sh: no librocksdb-sys in Cargo.lock" >&2; exit 1; }
# clang++ compiles these sources in two thirds of g++'s time; it is installed for libclang anyway
cxx=clang++; cc=clang
command -v $cxx >/dev/null || { cxx=g++; cc=gcc; }
flags="-Ctarget-cpu=x86-64-v2"; [ "$(uname -m)" = x86_64 ] || flags=""
key=$(printf '%s|%s|%s|O2|lz4,zstd' "$version" "$($cxx --version | head -n 1)" "$flags" | sha256sum | cut -c1-16)
dir=$cache/rocksdb-$key
if [ -s "$dir/librocksdb.a" ]; then echo "$dir"; exit 0; fi

mkdir -p "$dir"
exec 9>"$dir/.lock"; flock 9
if [ -s "$dir/librocksdb.a" ]; then echo "$dir"; exit 0; fi
echo "rocksdb.sh: compiling RocksDB ($version) with $cxx, about 15 minutes on two cores, once" >&2
build=$dir/build; mkdir -p "$build/src"; : >"$build/src/lib.rs"
cat >"$build/Cargo.toml" <<EOF
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2021"
[dependencies]
librocksdb-sys = { version = "=${version%%+*}", default-features = false, features = ["static", "lz4", "zstd", "bindgen-runtime"] }
[profile.release]
opt-level = 2
[workspace]
EOF
(cd "$build" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_BUILD_DIR CC=$cc CXX=$cxx RUSTFLAGS="$flags" \
  CARGO_TARGET_DIR="$build/target" cargo build --release >&2)
lib=$(find "$build/target/release/build" -name librocksdb.a | head -n 1)
[ -s "$lib" ] || { echo "rocksdb.sh: the build left no librocksdb.a" >&2; exit 1; }
strip --strip-debug "$lib"
cp "$lib" "$dir/librocksdb.a.new" && mv "$dir/librocksdb.a.new" "$dir/librocksdb.a"
rm -rf "$build"
echo "$dir"
