//! What a person reads when the cluster is up.

use super::plan::Plan;
use crate::cli::connection::Credential;
use crate::config::Door;

/// Endpoints, the first access key, and lines to paste. The secret is shown for a new cluster only.
pub(super) fn banner(plan: &Plan, credential: &Credential, is_new: bool) -> String {
    let width = plan.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    let line = |node: &super::PlannedNode| {
        let (public, admin) = (plan.address(node, Door::Public), plan.address(node, Door::Admin));
        format!("  {:width$}  zone {}  http://{public}  admin http://{admin}\n", node.name, node.zone)
    };
    let nodes: String = plan.nodes.iter().map(line).collect();
    let key_file = plan.root_key_file().display().to_string();
    let secret = if is_new { credential.secret.expose().as_str() } else { "(shown at the first start)" };
    let (first, last) = (&plan.nodes[0], &plan.nodes[plan.nodes.len() - 1]);
    let (push, pull) = (plan.address(first, Door::Public), plan.address(last, Door::Public));
    let (admin, key_id) = (plan.address(first, Door::Admin), &credential.key_id);
    let key = quoted(&key_file);
    format!(
        "\nThe cluster is ready: {count} nodes, data below {dir}\n\n{nodes}\n\
         First access key, also in {key_file}:\n\n  user      {key_id}\n  password  {secret}\n\n\
         Make a small image, push it to one node, pull it from another:\n\n  \
         cut -d: -f2 {key} | docker login -u {key_id} --password-stdin {push}\n  \
         cut -d: -f2 {key} | docker login -u {key_id} --password-stdin {pull}\n  \
         tar -c -C / etc/hostname | docker import - {push}/demo/hello:1\n  \
         docker push {push}/demo/hello:1\n  \
         docker pull {pull}/demo/hello:1\n\n\
         Look at it:\n\n  \
         portolan cluster status --admin http://{admin} --credentials-file {key}\n\n\
         ctrl-C stops the nodes; their data stays, and `portolan dev` goes on with it.",
        count = plan.nodes.len(),
        dir = plan.dir.display(),
    )
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@,".contains(&b));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::Secret;

    fn shown(is_new: bool) -> String {
        let plan = Plan::new("/d x".into(), 3, &["a".into(), "b".into(), "c".into()], 1, 7400).unwrap();
        let credential = Credential { key_id: "PTLNAAAAAAAAAAAAAAAA".into(), secret: Secret::new("hunter2".into()) };
        banner(&plan, &credential, is_new)
    }

    // The lines to paste push to one node and pull from another; none of them holds the secret (U8), which is shown
    // once.
    #[test]
    fn lines_to_paste() {
        let text = shown(true);
        assert!(text.contains("docker push 127.1.1.1:7400/demo/hello:1"), "{text}");
        assert!(text.contains("docker pull 127.1.3.1:7400/demo/hello:1"), "{text}");
        assert!(text.contains("cut -d: -f2 '/d x/root-key' | docker login"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("hunter2")).collect::<Vec<_>>(), ["  password  hunter2"]);
        assert!(!shown(false).contains("hunter2"));
    }
}
