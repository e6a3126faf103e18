//! Compiles the node-to-node protocols to Rust, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const BLOB: &str = "src/blob/transfer/blob.proto";
    println!("cargo::rerun-if-changed={BLOB}");
    let files = protox::compile([BLOB], ["src/blob/transfer"])?;
    // `bytes`: a received block stays the buffer it arrived in.
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(files)?;
    Ok(())
}
