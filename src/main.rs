//! The `portolan` binary.

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let loaded = portolan::config::Sources::of_process().load().unwrap_or_else(|e| panic!("{e}"));
        let s = loaded.settings;
        portolan::ground::telemetry::start_logs(&portolan::ground::telemetry::Logging {
            format: s.log.format, filter: s.log.level.clone(), audit_file: s.log.audit_file.clone() }).unwrap();
        let shutdown = portolan::ground::Shutdown::on_signals().unwrap();
        if let Err(e) = portolan::node::run(s, shutdown).await { eprintln!("{e}"); std::process::exit(1); }
    });
}
