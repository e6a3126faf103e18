//! Configurations as people write them, and the exact texts they get back.

use registry_core::vocabulary::ids::{ClusterId, NodeId};

use super::*;
use crate::config::{Door, reference};
use crate::ground::certs::mint::Authority;
use crate::ground::certs::{Identity, Role};
use crate::ground::files;
use crate::ground::join_token::JoinToken;

fn load(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("portolan.toml");
    std::fs::write(&path, file).unwrap();
    let home = [("HOME", "/home/ann")];
    let environment = Environment::of(home.iter().chain(variables).copied());
    let flags = flags.iter().map(|(path, value)| (format!("--set {path}"), (*path).into(), (*value).into())).collect();
    let sources = Sources { file: Some(path.clone()), environment, flags };
    let shorten = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    sources.load().map_err(|mistakes| shorten(mistakes.to_string()))
}

fn mistakes(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
    let told = load(file, variables, flags).expect_err("this configuration has mistakes");
    told.lines().skip(1).map(|line| line.trim_start().to_owned()).collect()
}

// U6: each bad file gets exactly this text: file, line, key, and what to write instead.
#[test]
fn bad_files() {
    let table = [
        ("[node]\nzoen = \"b\"", "portolan.toml:2: no setting zoen in [node]; did you mean zone?"),
        ("[nodes]\nzone = \"b\"", "portolan.toml:1: no section [nodes]; did you mean [node]?"),
        (
            "[cache]\nsize = 1",
            "portolan.toml:1: no section [cache]; there are node, listen, tls, cluster, raft, blobs, s3, auth, http, gc, \
             repair, log, trace",
        ),
        ("zone = \"b\"", "portolan.toml:1: zone stands outside a section; write it below [node]"),
        ("node = 1", "portolan.toml:1: node is a section; write [node] and its settings below"),
        (
            "[raft]\npublic_url = \"https://a\"",
            "portolan.toml:2: no setting public_url in [raft]; it belongs below [http]",
        ),
        (
            "[gc]\ncolour = 1",
            "portolan.toml:2: no setting colour in [gc]; there are grace, fuse_percent, fuse_floor, untagged, orphaned",
        ),
        (
            "[raft]\nheartbeat = 100",
            "portolan.toml:2: raft.heartbeat = 100 has no unit; write a number with its unit in quotes, as \"100ms\", \
             \"30s\" or \"24h\"",
        ),
        (
            "[raft]\nheartbeat = \"fast\"",
            "portolan.toml:2: raft.heartbeat = \"fast\" is not understood; write a number with its unit in quotes, as \
             \"100ms\", \"30s\" or \"24h\"",
        ),
        (
            "[raft]\nheartbeat = \"1ms\"",
            "portolan.toml:2: raft.heartbeat = \"1ms\" is too small; the least is \"10ms\"",
        ),
        ("[blobs]\nfull_percent = 100", "portolan.toml:2: blobs.full_percent = 100 is too large; the most is 99"),
        (
            "[blobs]\nfull_percent = \"85\"",
            "portolan.toml:2: blobs.full_percent = \"85\" is no whole number from 0 to 255; write digits, without quotes",
        ),
        (
            "[blobs]\ncapacity = \"64MB/s\"",
            "portolan.toml:2: blobs.capacity = \"64MB/s\" is not understood; write a whole number with its unit in \
             quotes, as \"64MiB\" or \"500GB\"",
        ),
        (
            "[auth]\nanonymous = \"no\"",
            "portolan.toml:2: auth.anonymous = \"no\" is neither true nor false; write one of them, without quotes",
        ),
        (
            "[node]\nzone = 7",
            "portolan.toml:2: node.zone = 7 is not in quotes; write a name of lower-case letters, digits \
            and dashes, as \"zone-a\"",
        ),
        (
            "[node]\nzone = \"Zone A\"",
            "portolan.toml:2: node.zone = \"Zone A\" is not understood; write a name of lower-case letters, digits and \
             dashes, as \"zone-a\"",
        ),
        (
            "[http]\ntrusted_proxies = \"10.0.0.1\"",
            "portolan.toml:2: http.trusted_proxies = \"10.0.0.1\" is no list; write [\"one\", \"two\"]",
        ),
        (
            "[http]\ntrusted_proxies = [\"10.0.0.1/8\"]",
            "portolan.toml:2: http.trusted_proxies = [\"10.0.0.1/8\"] is not understood; write an IP address with or \
             without a prefix length, as \"10.0.0.0/8\"",
        ),
        (
            "[auth]\nroot_key = \"A:B\"",
            "portolan.toml:2: auth.root_key is a secret and may not stand here; put it into a file and name that in \
             auth.root_key_file, or into PORTOLAN_AUTH_ROOT_KEY",
        ),
        ("[node]\nzone = \"a\"\nzone = \"b\"", "portolan.toml:3: not TOML: duplicate key"),
        (
            "[raft]\nelection_min = \"200ms\"",
            "portolan.toml:2: raft.election_min = 200ms is below three heartbeats of 100ms; one lost packet would elect",
        ),
        (
            "[raft]\nelection_max = \"300ms\"",
            "portolan.toml:2: raft.election_max = 300ms is not above raft.election_min = 400ms; twice it is good",
        ),
        (
            "[blobs]\nrefuse_percent = 80",
            "portolan.toml:2: blobs.full_percent = 85, refuse_percent = 80 and urgent_percent = 95 must rise in this \
             order, as 85, 92, 95",
        ),
        (
            "[listen]\nraft = \"127.0.0.1:7400\"",
            "portolan.toml:2: listen.public and listen.raft both want 127.0.0.1:7400; give each its own port",
        ),
        (
            "[listen]\npublic = \"192.0.2.1:7400\"",
            "portolan.toml:2: listen.public = 192.0.2.1:7400 would speak in the clear beyond this machine; set tls.cert \
             and tls.key, or say listen.public_insecure = true",
        ),
        (
            "[listen]\nraft = \"192.0.2.1:7401\"",
            "portolan.toml:2: listen.raft = 192.0.2.1:7401 is beyond this machine and needs cluster.ca, cluster.cert and \
             cluster.key, or cluster.join_token_file; make them with `portolan certs`",
        ),
        (
            "[listen]\npublic = \"0.0.0.0:7400\"\npublic_insecure = true",
            "portolan.toml:2: listen.public = 0.0.0.0:7400 is every address of this machine, which tells others none; \
             set node.advertise to the name or address they reach it by",
        ),
        (
            "[listen]\nraft_advertise = \"host\"",
            "portolan.toml:2: listen.raft_advertise: \"host\" is not \"host:port\"",
        ),
        ("[tls]\ncert = \"/absent\"", "portolan.toml:2: tls.cert is set and tls.key is not; set both"),
        (
            "[cluster]\nca = \"/absent\"",
            "portolan.toml:2: [cluster] is incomplete; set cluster.cert and cluster.key as well",
        ),
        (
            "[tls]\ncert = \"/absent/c.pem\"\nkey = \"/absent/k.pem\"",
            "portolan.toml:2: /absent/c.pem: can't be read: No such file or directory (os error 2); check the path, and \
             that this user may read it",
        ),
        (
            "[auth]\nroot_key_file = \"/absent\"",
            "portolan.toml:2: auth.root_key_file: /absent can't be read: No such file or directory (os error 2)",
        ),
        (
            "[log]\nlevel = \"loud=loud\"",
            "portolan.toml:2: log.level = \"loud=loud\" is not understood; write \"error\", \"warn\", \"info\", \"debug\" or \
             \"trace\", or one for each part, as \"info,portolan::blob=debug\"",
        ),
    ];
    for (file, expected) in table {
        assert_eq!(mistakes(file, &[], &[]), [expected], "{file}");
    }
}

// All mistakes are told at once, those of the file in the order of its lines.
#[test]
fn all_at_once() {
    let file = "[node]\nzoen = \"b\"\n[raft]\nheartbeat = 5\n[tls]\ncert = \"/absent\"\n[listen]\nadmin = \"x\"\n";
    let told = load(file, &[("PORTOLAN_GC_GRACE", "soon")], &[("node.zone", "B")]).unwrap_err();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "the configuration has 6 mistakes:");
    let starts = [
        "portolan.toml:2:",
        "portolan.toml:4:",
        "portolan.toml:6:",
        "portolan.toml:8:",
        "PORTOLAN_GC_GRACE:",
        "--set node.zone:",
    ];
    for (line, start) in lines[1..].iter().zip(starts) {
        assert!(line.trim_start().starts_with(start), "{line}");
    }
}

// U6: bytes that are no TOML at all are told with their line, every one of them, and nothing panics.
#[test]
fn not_toml() {
    for file in
        ["[node", "= 1", "[node]\nzone = ", "\u{0}", "[[node]]", "node.zone.x.y = 1", "[node]\n\"\" = 1", "a = {"]
    {
        assert!(mistakes(file, &[], &[]).iter().all(|line| line.starts_with("portolan.toml:")), "{file:?}");
    }
    let both = mistakes("[node]\nzone = \n[raft]\nheartbeat = \n", &[], &[]);
    assert!(
        both[0].starts_with("portolan.toml:2:") && both.last().unwrap().starts_with("portolan.toml:4:"),
        "{both:?}"
    );
}

// Names of the environment: a slip is refused with a proposal, what an orchestrator makes is told and let be.
#[test]
fn environment_names() {
    let table = [
        ("PORTOLAN_NODE_ZOEN", "PORTOLAN_NODE_ZOEN: no such setting; did you mean PORTOLAN_NODE_ZONE?"),
        ("PORTOLAN_NOED_ZONE", "PORTOLAN_NOED_ZONE: no such setting; did you mean PORTOLAN_NODE_ZONE?"),
        ("PORTOLAN_NODE", "PORTOLAN_NODE: no such setting; see `portolan config reference` for all settings"),
    ];
    for (name, expected) in table {
        assert_eq!(mistakes("", &[(name, "b")], &[]), [expected]);
    }
    let variables = [("PORTOLAN_SERVICE_HOST", "10.0.0.1"), ("PORTOLAN_PORT_7400_TCP", "x"), ("PORTOLAN_CONFIG", "x")];
    let loaded = load("", &variables, &[]).unwrap();
    assert_eq!(
        loaded.warnings,
        ["PORTOLAN_PORT_7400_TCP is no setting and is ignored", "PORTOLAN_SERVICE_HOST is no setting and is ignored"]
    );
}

// A flag wins over the environment, the environment over the file, the file over the default; an empty variable is
// none.
#[test]
fn precedence() {
    let file = "[node]\nzone = \"file\"\nregion = \"file\"\nregion_number = 7\n";
    let variables =
        [("PORTOLAN_NODE_ZONE", "env"), ("PORTOLAN_NODE_REGION", "env"), ("PORTOLAN_NODE_REGION_NUMBER", "")];
    let loaded = load(file, &variables, &[("node.zone", "flag")]).unwrap();
    let node = &loaded.settings.node;
    assert_eq!((node.zone.as_str(), node.region.as_str(), node.region_number), ("flag", "env", 7));
    assert_eq!(loaded.origins[&("node", "zone")], Origin::Flag("--set node.zone".into()));
    assert_eq!(
        mistakes("", &[], &[("zone", "a")]),
        ["--set zone: \"zone\" is no setting; write section.key=value, as \
        node.zone=a"]
    );
}

// Without any configuration there is one node on loopback, whose data does not depend on the working directory.
#[test]
fn defaults() {
    let settings = load("", &[], &[]).unwrap().settings;
    assert_eq!(settings.node.data_dir, PathBuf::from("/home/ann/.local/state/portolan"));
    assert!(Door::ALL.iter().all(|door| settings.listen_address(*door).ip().is_loopback()));
    assert_eq!(settings.advertised(Door::Raft), "127.0.0.1:7401");
    assert_eq!(settings.blobs_dir(), PathBuf::from("/home/ann/.local/state/portolan/blobs"));
    assert!(settings.insecure().is_empty() && settings.public_tls().is_none() && settings.cluster_tls().is_none());
}

// H6: clear text beyond loopback is said for each listener, told at every start, and never possible between nodes.
#[test]
fn insecure_is_said() {
    let file = "[listen]\npublic = \"0.0.0.0:7400\"\npublic_insecure = true\n[node]\nadvertise = \"n1.example\"\n";
    let settings = load(file, &[], &[]).unwrap().settings;
    assert_eq!(
        settings.insecure(),
        ["listen.public 0.0.0.0:7400 speaks in the clear, because listen.public_insecure says so"]
    );
    assert_eq!(settings.advertised(Door::Public), "n1.example:7400");
    assert_eq!(mistakes("[listen]\nraft = \"0.0.0.0:7401\"\n[node]\nadvertise = \"a\"\n", &[], &[]).len(), 1);
}

// T10: a secret comes from the environment only, is never printed, and not together with its file.
#[test]
fn secrets() {
    let loaded = load("", &[("PORTOLAN_AUTH_ROOT_KEY", "PTLN:hunter2")], &[]).unwrap();
    assert_eq!(loaded.settings.auth.root_key.as_ref().unwrap().expose(), "PTLN:hunter2");
    let effective = loaded.effective();
    assert!(effective.contains("root_key = \"***\" # PORTOLAN_AUTH_ROOT_KEY"), "{effective}");
    assert!(!format!("{effective}{loaded:?}").contains("hunter2"));
    let told = mistakes("", &[], &[("auth.root_key", "PTLN:hunter2")]);
    assert!(told[0].contains("may not stand here") && !told[0].contains("hunter2"), "{told:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    std::fs::write(&path, "PTLN:x").unwrap();
    let file = format!("[auth]\nroot_key_file = {:?}\n", path.display().to_string());
    let told = mistakes(&file, &[("PORTOLAN_AUTH_ROOT_KEY", "PTLN:hunter2")], &[]);
    assert_eq!(told, ["portolan.toml:2: auth.root_key and auth.root_key_file are both set; set one"]);
    assert!(load(&file, &[], &[]).unwrap().warnings[0].contains("chmod 600"));
}

// What is printed as effective, and the reference with its defaults, are configurations themselves: nothing is changed.
#[test]
fn printed_reads_back() {
    let file = "[node]\nzone = \"b\"\n[http]\ntrusted_proxies = [\"10.0.0.0/8\"]\n[gc]\ngrace = \"90m\"\n";
    let first = load(file, &[], &[]).unwrap();
    let effective = first.effective();
    for line in [
        "zone = \"b\" # ",
        "trusted_proxies = [\"10.0.0.0/8\"] # ",
        "heartbeat = \"100ms\" # default",
        "# bind_source is left out",
    ] {
        assert!(effective.contains(line), "{line} in {effective}");
    }
    let second = load(&effective, &[], &[]).unwrap();
    let bare = |loaded: &Loaded| -> Vec<String> {
        loaded.effective().lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(bare(&first), bare(&second));
    let defaults = load(&reference(), &[], &[]).unwrap();
    assert_eq!(bare(&defaults), bare(&load("", &[], &[]).unwrap()));
}

/// A join token for a node.
fn token(node: u64) -> JoinToken {
    let (authority, ca) = Authority::create(ClusterId(7)).unwrap();
    let identity = Identity { cluster: ClusterId(7), role: Role::Node(NodeId(node)) };
    let pair = authority.issue(&identity, &["127.0.0.1".to_owned()], 30).unwrap();
    let seeds = vec!["127.0.0.1:7401".to_owned()];
    JoinToken { ca_pem: ca.cert_pem, cert_pem: pair.cert_pem, key_pem: pair.key_pem, seeds }
}

// A token stands in for the three files: before it is unpacked it must be good, afterwards it may be gone, and so may
// the setting. It is for one data directory, and not together with other files.
#[test]
fn join_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (path, data) = (dir.path().join("token"), dir.path().join("data"));
    let (path_text, data_text) = (path.display().to_string(), data.display().to_string());
    let file = format!("[cluster]\njoin_token_file = {path_text:?}\n[node]\ndata_dir = {data_text:?}\n");
    let told = || mistakes(&file, &[], &[]).join("\n").replace(&format!("{}/", dir.path().display()), "");
    let start = "portolan.toml:2: cluster.join_token_file: token";
    let write = |text: &str| files::write_atomic(&path, text.as_bytes(), files::PRIVATE_FILE_MODE).unwrap();

    assert!(told().starts_with(&format!("{start} can't be read")) && told().contains("`portolan certs invite`"));
    write("-----BEGIN CERTIFICATE-----\n");
    assert!(told().starts_with(&format!("{start} holds no join token")), "{}", told());
    let text = token(9).encode().unwrap().expose().clone();
    write(&text[..text.len() - 1]);
    assert!(told().starts_with(&format!("{start} was cut off or changed")), "{}", told());
    write(&text.replace("ptln-join-1.", "ptln-join-2."));
    assert!(told().starts_with(&format!("{start} holds a join token of version 2")), "{}", told());
    let mixed = JoinToken { ca_pem: token(9).ca_pem, ..token(9) };
    write(mixed.encode().unwrap().expose());
    assert!(told().starts_with(&format!("{start} (certificate): is not accepted under")), "{}", told());

    write(&text);
    let loaded = load(&file, &[], &[]).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.settings.unpacked_dir(), Some(data.join("cluster")));
    assert_eq!(loaded.settings.cluster_tls().unwrap().cert, data.join("cluster/node.pem"));
    load(&loaded.effective(), &[], &[]).unwrap();
    let both = mistakes(&file, &[("PORTOLAN_CLUSTER_CERT", "/absent")], &[]);
    assert!(both[0].contains("is set together with cluster.ca, cert or key"), "{both:?}");
    assert_eq!(mistakes(&file, &[("PORTOLAN_NODE_ID", "0000000000000008")], &[]).len(), 1);

    JoinToken::parse(&text).unwrap().unpack(&data.join("cluster")).unwrap();
    load(&file, &[], &[]).unwrap();
    write(token(8).encode().unwrap().expose());
    assert!(told().contains("leave the setting out to go on as that node"), "{}", told());
    std::fs::remove_file(&path).unwrap();
    load(&file, &[], &[]).unwrap();
    let bare = load(&format!("[node]\ndata_dir = {data_text:?}\n"), &[], &[]).unwrap();
    assert_eq!(bare.settings.unpacked_dir(), Some(data.join("cluster")));
}

// A named file that is not there is a mistake, not an empty configuration.
#[test]
fn absent_file() {
    let sources = Sources {
        file: Some("/absent/p.toml".into()),
        environment: Environment::of([("HOME", "/h")]),
        flags: Vec::new(),
    };
    let told = sources.load().unwrap_err().to_string();
    assert!(told.contains("/absent/p.toml can't be read") && told.contains("--config"), "{told}");
}
