//! Several regions: each is given the others' cards.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::found::client;
use super::plan::Plan;
use super::wire::Wires;
use crate::cli::connection::read_credential;
use crate::cli::error::CliError;
use crate::config::Door;

/// Makes every region known to every other one, which reaches it through a wire; what to read about it.
pub(super) async fn link(plans: &[Plan], wires: &Wires) -> Result<String, CliError> {
    let mut clients = Vec::new();
    for plan in plans {
        let node = plan.nodes.first().ok_or_else(|| CliError::usage("there is no node to ask"))?;
        clients.push(client(plan, node, &read_credential(&plan.root_key_file())?)?);
    }
    for (at, from) in clients.iter().enumerate() {
        let card = from.get("/v1/regions/own/card").await?;
        for (other, to) in clients.iter().enumerate().filter(|(other, _)| *other != at) {
            let doors = card["endpoints"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
            let mut laid = Vec::new();
            for door in doors {
                laid.push(wires.lay(&plans[other].name, &plans[at].name, door).await?);
            }
            let mut card = card.clone();
            card["endpoints"] = json!(laid);
            to.call(Method::POST, "/v1/regions", Some(&card)).await?;
        }
    }
    Ok(told(plans, wires.file()))
}

fn told(plans: &[Plan], links: &Path) -> String {
    let [first, second, ..] = plans else { return String::new() };
    let admin = |plan: &Plan| {
        let at = plan.address(&plan.nodes[0], Door::Admin);
        format!("--admin http://{at} --credentials-file {}", plan.root_key_file().display())
    };
    let rule =
        format!(r#"{{"rules":[{{"destinations":[{{"region":"{}","registryId":"000000000000"}}]}}]}}"#, second.name);
    format!(
        "The regions know each other. Copy everything that is pushed to {first} from now on to {second}, and look:\n\n  \
         echo '{rule}' | portolan replication set - {from}\n  \
         portolan region list {to}\n  \
         portolan replication verify {first} {to}\n\nMake the link slow, cut it, and mend it in {links}.\n",
        links = links.display(),
        first = first.name,
        second = second.name,
        from = admin(first),
        to = admin(second),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // The lines can be pasted: they name the rule's region, and a node of each.
    #[test]
    fn lines_to_paste() {
        let plan = |number: u8| {
            let name = format!("dev-{number}");
            Plan::new(format!("/d/{name}").into(), 1, &["a".into()], number, 7400).unwrap().named(name)
        };
        let text = told(&[plan(1), plan(2)], Path::new("/d/links.toml"));
        assert!(text.contains(r#""region":"dev-2""#), "{text}");
        assert!(text.contains("replication set - --admin http://127.1.1.1:7403 --credentials-file /d/dev-1/root-key"));
        assert!(text.contains("region list --admin http://127.2.1.1:7403"), "{text}");
    }
}
