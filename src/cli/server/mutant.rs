//! The fault that `PORTOLAN_MUTANT` names, in a build with the feature `mutants`.

use registry_core::mutants::{self, Mutant};

use crate::cli::error::CliError;

/// Switches it on, and says so on standard error: nobody takes such a process for a good one.
pub(super) fn choose() -> Result<(), CliError> {
    let Ok(name) = std::env::var("PORTOLAN_MUTANT") else {
        eprintln!("portolan: built with mutants; PORTOLAN_MUTANT names none");
        return Ok(());
    };
    let Some((_, mutant)) = mutants::ALL.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = mutants::ALL.iter().map(|(name, _)| *name).collect();
        return Err(CliError::usage(format!("PORTOLAN_MUTANT: '{name}' is none of {}", known.join(", "))));
    };
    eprintln!("portolan: THIS PROCESS IS BROKEN ON PURPOSE: {name}");
    mutants::choose(*mutant);
    match mutant {
        Mutant::SkipLogSync => raft::skip_syncs(),
        Mutant::AckAtSend => raft::acknowledge_at_send(),
        Mutant::SkipBlobSync
        | Mutant::SkipDirSync
        | Mutant::OneZone
        | Mutant::StaleReads
        | Mutant::CollectUsed
        | Mutant::ForgetNeeds
        | Mutant::DeletePending
        | Mutant::LinkFirst
        | Mutant::SkipUse
        | Mutant::DropChange
        | Mutant::EarlyCursor
        | Mutant::ForgetDeletes
        | Mutant::SkipCompare => {}
    }
    Ok(())
}
