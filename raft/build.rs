//! Compiles the wire description without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/raft.proto");
    let described = protox::compile(["proto/raft.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(described)?;
    Ok(())
}
