//! Programs of the system that the harness calls: mount, losetup, iptables and the like.

use std::process::{Command, Stdio};

use crate::fault::{Fault, told};

/// Runs a program to its end; what it said on standard output.
pub(super) fn call(program: &str, arguments: &[&str]) -> Result<String, Fault> {
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let ended = ended.map_err(told(&format!("{program} can't be started")))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(Fault::new(format!("{program} {}: {} {}", arguments.join(" "), ended.status, said.trim())))
}

/// Which of `programs` are not installed.
pub(super) fn missing(programs: &[&str]) -> Vec<String> {
    let paths: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let is_there = |name: &str| paths.iter().any(|path| path.join(name).is_file());
    programs.iter().filter(|name| !is_there(name)).map(|name| (*name).to_owned()).collect()
}

/// Why faults that need root and `programs` can't be had on this machine.
pub(super) fn why_not(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let missing = missing(programs);
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A program that fails is told with its words; one that is not there is missing.
    #[test]
    fn calls() {
        assert_eq!(call("echo", &["a", "b"]).unwrap(), "a b\n");
        let told = call("ls", &["/no/such/place"]).unwrap_err().to_string();
        assert!(told.contains("ls /no/such/place") && told.contains("No such file"), "{told}");
        assert!(call("no-such-program", &[]).is_err());
        assert_eq!(missing(&["ls", "no-such-program"]), ["no-such-program"]);
    }
}
