//! Black-box fault harness.

fn main() {}
