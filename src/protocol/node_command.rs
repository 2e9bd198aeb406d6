//! `NodeCommand`: the body of a `POST` to a node. It is read field by field, for the same reasons as a
//! [`GroupCommand`](super::GroupCommand).

use std::time::Duration;

use prost::Message;

use super::field::{Field, KEY_TOO_LONG, NO_MESSAGE, ProtocolError, read_field};
use super::target::is_too_long;
use super::terms::Stamp;
use crate::cache::key::{MAX_ID_BYTES, MAX_NAME_BYTES};

const _: () = assert!(MAX_ID_BYTES == 1_024, "as a message says");

/// The most removals of one request.
pub(crate) const MAX_REMOVALS: usize = 1_024;

/// The most peers that a node command names as having the removals already. Further ones get them again.
pub(crate) const MAX_TOLD: usize = 4_096;

/// The most marks of one answer: their bytes fit into 1 MiB, which every node takes as a body.
pub(crate) const MAX_MARKS: usize = 43_690;

const _: () = {
    let three_lists = MAX_MARKS * 3 * size_of::<u64>() + 3 * 4;
    assert!(three_lists <= 1 << 20);
};

/// The command of a `POST` to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeCommand {
    /// The peer with this id leaves the cluster.
    Departure(String),
    /// Answer the marks of recent removals.
    Marks,
    /// Remove all values of all groups.
    Clear,
    /// Deliver these removals to these peers.
    Deliver { to: Whom, removals: Vec<Removal> },
}

/// The peers that removals are delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The peer with this id.
    One(String),
    /// All present and future peers except those with these ids, which have the removals already.
    AllBut(Vec<String>),
}

/// A removal that one node delivers to another, or leaves to it to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    /// `None` for all groups.
    pub(crate) group: Option<String>,
    /// `None` for all keys.
    pub(crate) key: Option<String>,
    /// How long ago it was made.
    pub(crate) age: Duration,
}

const ID: u32 = 1;
const MARKS: u32 = 2;
const CLEAR: u32 = 3;
const PEER: u32 = 4;
const REMOVALS: u32 = 5;
const TOLD: u32 = 6;

/// A command as it is written. It is read by hand, which limits the number of its fields.
#[derive(Clone, PartialEq, Message)]
struct NodeCommandMessage {
    #[prost(string, optional, tag = "1")]
    id: Option<String>,
    #[prost(bool, optional, tag = "2")]
    marks: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    clear: Option<bool>,
    #[prost(string, optional, tag = "4")]
    peer: Option<String>,
    #[prost(message, repeated, tag = "5")]
    removals: Vec<RemovalMessage>,
    #[prost(string, repeated, tag = "6")]
    told: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RemovalMessage {
    #[prost(string, optional, tag = "1")]
    group: Option<String>,
    #[prost(string, optional, tag = "2")]
    key: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    age_ms: Option<u64>,
}

/// The answer to [`NodeCommand::Marks`].
#[derive(Clone, PartialEq, Message)]
struct MarksMessage {
    #[prost(fixed64, repeated, tag = "1")]
    places: Vec<u64>,
    #[prost(fixed64, repeated, tag = "2")]
    origins: Vec<u64>,
    #[prost(fixed64, repeated, tag = "3")]
    sequences: Vec<u64>,
    /// Whether there were too many marks to send any.
    #[prost(bool, optional, tag = "4")]
    is_cut: Option<bool>,
}

impl NodeCommand {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut message = NodeCommandMessage::default();
        match self {
            NodeCommand::Departure(id) => message.id = Some(id),
            NodeCommand::Marks => message.marks = Some(true),
            NodeCommand::Clear => message.clear = Some(true),
            NodeCommand::Deliver { to, removals } => {
                match to {
                    Whom::One(peer) => message.peer = Some(peer),
                    Whom::AllBut(told) => message.told = told,
                }
                message.removals = removals.into_iter().map(RemovalMessage::from).collect();
            }
        }
        message.encode_to_vec()
    }

    pub(crate) fn decode(body: &[u8]) -> Result<NodeCommand, ProtocolError> {
        let (mut id, mut peer, mut told) = (None, None, Vec::new());
        let (mut marks, mut clear, mut removals) = (false, false, Vec::new());
        let mut rest = body;
        while !rest.is_empty() {
            match read_field(&mut rest)? {
                Field::Bytes(ID, bytes) => id = Some(name(bytes)?),
                Field::Bytes(PEER, bytes) => peer = Some(name(bytes)?),
                Field::Bytes(TOLD, bytes) => told.push(name(bytes)?),
                Field::Bytes(REMOVALS, message) => removals.push(Removal::decode(message)?),
                Field::Number(MARKS, number) => marks = number != 0,
                Field::Number(CLEAR, number) => clear = number != 0,
                _ => {}
            }
            if removals.len() > MAX_REMOVALS || told.len() > MAX_TOLD {
                return Err(ProtocolError(
                    "the body names too many removals or too many peers; send fewer at once",
                ));
            }
        }
        match id {
            Some(id) => Ok(NodeCommand::Departure(id)),
            None if clear => Ok(NodeCommand::Clear),
            None if marks => Ok(NodeCommand::Marks),
            None if removals.is_empty() => Err(ProtocolError(
                "the body holds no command that this node knows",
            )),
            None => Ok(NodeCommand::Deliver {
                to: peer.map_or(Whom::AllBut(told), Whom::One),
                removals,
            }),
        }
    }
}

impl From<Removal> for RemovalMessage {
    fn from(removal: Removal) -> RemovalMessage {
        RemovalMessage {
            group: removal.group,
            key: removal.key,
            age_ms: u64::try_from(removal.age.as_millis()).ok(),
        }
    }
}

/// The id of a peer.
fn name(bytes: &[u8]) -> Result<String, ProtocolError> {
    if bytes.len() > MAX_ID_BYTES {
        return Err(ProtocolError("the id of a peer is longer than 1024 bytes"));
    }
    let name = std::str::from_utf8(bytes).map_err(|_| NO_MESSAGE)?;
    Ok(name.to_owned())
}

impl Removal {
    /// Refuses a removal that no node could carry out, so that the journal does not keep it for delivery.
    fn decode(message: &[u8]) -> Result<Removal, ProtocolError> {
        let message = RemovalMessage::decode(message).map_err(|_| NO_MESSAGE)?;
        let is_name = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len());
        if !message.group.as_ref().is_none_or(is_name) {
            return Err(ProtocolError(
                "a removal names a group whose name is empty or too long",
            ));
        }
        if message.key.is_some() && message.group.is_none() {
            return Err(ProtocolError("a removal names a key but no group"));
        }
        if message.key.as_deref().is_some_and(is_too_long) {
            return Err(KEY_TOO_LONG);
        }
        Ok(Removal {
            group: message.group,
            key: message.key,
            age: Duration::from_millis(message.age_ms.unwrap_or(0)),
        })
    }
}

/// The answer to [`NodeCommand::Marks`]: places with the stamps of their last removals. `None` if there are
/// too many.
pub(crate) fn encode_marks(marks: Option<Vec<(u64, Stamp)>>) -> Vec<u8> {
    let is_cut = marks.is_none().then_some(true);
    let marks = marks.unwrap_or_default();
    MarksMessage {
        places: marks.iter().map(|(place, _)| *place).collect(),
        origins: marks.iter().map(|(_, stamp)| stamp.origin).collect(),
        sequences: marks.iter().map(|(_, stamp)| stamp.sequence).collect(),
        is_cut,
    }
    .encode_to_vec()
}

/// The marks of an answer; `None` if there were too many.
pub(crate) fn decode_marks(body: &[u8]) -> Result<Option<Vec<(u64, Stamp)>>, ProtocolError> {
    let message = MarksMessage::decode(body).map_err(|_| NO_MESSAGE)?;
    let count = message.places.len();
    if count > MAX_MARKS || message.origins.len() != count || message.sequences.len() != count {
        return Err(ProtocolError(
            "the lists of the marks differ in length or are too long",
        ));
    }
    let stamps = message.origins.into_iter().zip(message.sequences);
    let stamps = stamps.map(|(origin, sequence)| Stamp { origin, sequence });
    let marks = message.places.into_iter().zip(stamps).collect();
    Ok((message.is_cut != Some(true)).then_some(marks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::MAX_KEY_BYTES;

    #[test]
    fn a_node_command_survives() {
        let removal = |key: Option<&str>| Removal {
            group: Some("g".into()),
            key: key.map(str::to_owned),
            age: Duration::from_millis(7),
        };
        for command in [
            NodeCommand::Departure("http://a:1".into()),
            NodeCommand::Marks,
            NodeCommand::Clear,
            NodeCommand::Deliver {
                to: Whom::AllBut(vec!["http://a:1".into(), "http://b:1".into()]),
                removals: vec![removal(None), removal(Some(""))],
            },
            NodeCommand::Deliver {
                to: Whom::One("http://a:1".into()),
                removals: vec![removal(Some("k"))],
            },
        ] {
            assert_eq!(NodeCommand::decode(&command.clone().encode()), Ok(command));
        }
    }

    #[test]
    fn a_body_without_a_node_command_is_refused() {
        let removals = vec![RemovalMessage::default(); MAX_REMOVALS + 1];
        let too_many = NodeCommandMessage {
            removals,
            ..NodeCommandMessage::default()
        };
        let bodies: [&[u8]; 4] = [b"", b"\xff", b"\xa8\x06\x01", &too_many.encode_to_vec()];
        for body in bodies {
            assert!(
                NodeCommand::decode(body).is_err(),
                "{}",
                body.escape_ascii()
            );
        }
    }

    /// Each field takes two bytes of the body, and fifty times as much memory once it is read.
    #[test]
    fn no_more_is_read_than_is_allowed() {
        for tag in [REMOVALS, TOLD] {
            let empty = [(tag << 3 | 2) as u8, 0];
            // Nothing is read behind the last field that is allowed.
            let body = [&empty.repeat(MAX_TOLD + 1)[..], b"\xff"].concat();
            let refused = NodeCommand::decode(&body).unwrap_err();
            assert!(refused.0.contains("too many"), "{refused:?}");
        }
    }

    #[test]
    fn a_removal_that_no_node_could_carry_out_is_refused() {
        let body = |group: Option<&str>, key: Option<&str>| {
            let removal = RemovalMessage {
                group: group.map(str::to_owned),
                key: key.map(str::to_owned),
                age_ms: None,
            };
            let message = NodeCommandMessage {
                removals: vec![removal],
                ..NodeCommandMessage::default()
            };
            NodeCommand::decode(&message.encode_to_vec())
        };
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        assert!(body(Some(""), Some("key")).is_err());
        assert!(body(Some(&long[..=MAX_NAME_BYTES]), None).is_err());
        assert!(body(Some("g"), Some(&long)).is_err());
        assert!(body(None, Some("key")).is_err());
        assert!(body(None, None).is_ok());
        assert!(body(Some(&long[..MAX_NAME_BYTES]), Some(&long[1..])).is_ok());
    }

    #[test]
    fn marks_survive_and_belong_together() {
        let stamp = Stamp {
            origin: 7,
            sequence: 9,
        };
        for marks in [None, Some(Vec::new()), Some(vec![(1, stamp), (2, stamp)])] {
            assert_eq!(decode_marks(&encode_marks(marks.clone())), Ok(marks));
        }
        assert!(decode_marks(b"\xff").is_err());
        assert!(decode_marks(b"\x0a\x08\x01\x02\x03\x04\x05\x06\x07\x08").is_err());
    }
}
