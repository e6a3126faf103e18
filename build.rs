//! Compiles the node-to-node protocols to Rust, without a system `protoc`; keeps what is for tests out of releases.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (profile, has) = (std::env::var("PROFILE")?, |feature: &str| std::env::var(feature).is_ok());
    if profile == "release" && (has("CARGO_FEATURE_MUTANTS") || has("CARGO_FEATURE_SIM")) {
        return Err(
            "a release can't be built with `mutants` or `sim`: faults and made-up randomness are for tests".into()
        );
    }
    for (folder, file) in [("src/blob/transfer", "blob.proto"), ("src/replication", "region.proto")] {
        let path = format!("{folder}/{file}");
        println!("cargo::rerun-if-changed={path}");
        let files = protox::compile([&path], [folder])?;
        // `bytes`: a received block stays the buffer it arrived in.
        tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(files)?;
    }
    Ok(())
}
