//! Clients that talk to nodes directly, another one at each request, without a repeat: what one node says must fit what
//! any other has said.

use serde_json::Value;

use super::client::{Answer, Client, Credential, Trouble};
use crate::cluster::Seat;
use crate::fault::Fault;
use crate::history::{Certainty, Outcome};

/// A node as clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Where registry clients go.
    pub(crate) public: Client,
    /// Where operators go.
    pub(crate) admin: Client,
}

/// All nodes, through connections that are shared.
#[derive(Clone, Debug)]
pub(crate) struct Nodes(Vec<Node>);

impl Nodes {
    /// Clients of all of `seats`.
    pub(crate) fn new(seats: &[Seat], credential: &Credential) -> Result<Nodes, Fault> {
        let first = seats.first().ok_or_else(|| Fault::new("a cluster has nodes"))?;
        let client = Client::direct(first.public, credential)?;
        let nodes = seats.iter().map(|seat| {
            let (public, admin) = (client.towards(seat.public)?, client.towards(seat.admin)?);
            Ok(Node { name: seat.name.clone(), public, admin })
        });
        Ok(Nodes(nodes.collect::<Result<_, Fault>>()?))
    }

    /// Any of them.
    pub(crate) fn any(&self, random: &mut fastrand::Rng) -> &Node {
        &self.0[random.usize(0..self.0.len())]
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Nobody knows, or it did not happen.
pub(crate) fn failed(trouble: Trouble) -> Outcome {
    Outcome { error: Some(trouble.into_error()), ..Outcome::default() }
}

/// It did not happen, and the answer tells why: `value` is what the refusal shows of the state.
pub(crate) fn refused(answer: &Answer, value: Value) -> Outcome {
    let (text, _) = Trouble::of_answer(answer).into_error();
    Outcome { value, rev: answer.rev(), error: Some((text, Certainty::Never)) }
}
