//! Compiles the node-to-node protocols to Rust, without a system `protoc`; keeps mutants out of releases.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (profile, mutants) = (std::env::var("PROFILE")?, std::env::var("CARGO_FEATURE_MUTANTS").is_ok());
    if mutants && profile == "release" {
        return Err("a release can't be built with the feature `mutants`: its faults are put in on purpose".into());
    }
    const BLOB: &str = "src/blob/transfer/blob.proto";
    println!("cargo::rerun-if-changed={BLOB}");
    let files = protox::compile([BLOB], ["src/blob/transfer"])?;
    // `bytes`: a received block stays the buffer it arrived in.
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(files)?;
    Ok(())
}
