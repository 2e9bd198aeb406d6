//! Properties that hold for all inputs: the targets of `fuzz/`. The unit tests run them with the inputs of
//! its corpus.
//!
//! A target panics if a property does not hold. No target uses sockets, or the time of other threads.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use crate::auth::nonces::Nonces;
use crate::auth::signature::{Digest, Secret, Signature, Signed};
use crate::cache::entry::Tier;
use crate::cache::key::{MAX_KEY_BYTES, MAX_NAME_BYTES};
use crate::cache::shards::Cache;
use crate::cluster::ring::{Member, Ring};
use crate::node::Node;
use crate::protocol::dialect::Dialect;
use crate::protocol::hash::hash_of_key;
use crate::protocol::http1::{
    BodyLength, Chunks, ResponseScan, Scan, field_room, parse, parse_response,
};
use crate::protocol::{
    Answer, BatchWriter, GroupCommand, Item, NodeCommand, Request, Status, Target, Terms,
    decode_batch, decode_marks, decode_set, encode_marks, encode_set, encoded_len, parse_target,
    target,
};
use crate::runtime::clock::Clock;
use crate::runtime::sync::{AtomicBool, OnceLock};
use crate::transport::peer::Peer;
use crate::value::Value;

/// A target: its name, and the function that checks an input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 11] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("path", path),
    ("percent", percent),
    ("messages", messages),
    ("batch", batch),
    ("auth", auth),
    ("peer_list", peer_list),
    ("ring", ring),
    ("cache", cache),
    ("node", node),
];

/// The end of a head is found at the same position however its bytes come, and an accepted head tells
/// exactly once where its request ends.
pub fn request_head(data: &[u8]) {
    let at_once = Scan::default().advance(data);
    let mut scan = Scan::default();
    let step = 1 + data.first().map_or(0, |byte| usize::from(byte % 7));
    let mut in_parts = Ok(None);
    for end in (0..=data.len()).step_by(step).chain([data.len()]) {
        in_parts = scan.advance(&data[..end]);
        if in_parts != Ok(None) {
            break;
        }
    }
    assert_eq!(in_parts.is_ok(), at_once.is_ok());
    let Ok(Some(length)) = at_once else { return };
    assert_eq!(in_parts, Ok(Some(length)));
    let mut room = field_room();
    let Ok(head) = parse(&data[..length], &mut room) else {
        return;
    };
    let named = |name: &str| {
        let fields = head.fields.iter();
        let named = fields.filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect::<Vec<_>>()
    };
    assert!(named("Transfer-Encoding").is_empty());
    match named("Content-Length")[..] {
        [] => assert_eq!(head.body_len, 0),
        [digits] => {
            assert!(digits.iter().all(u8::is_ascii_digit));
            let text = std::str::from_utf8(digits).unwrap();
            // A length that does not fit into 64 bits exceeds every limit.
            assert_eq!(text.parse().unwrap_or(u64::MAX), head.body_len);
        }
        _ => panic!("it has two lengths"),
    }
    assert!(head.target.starts_with('/') && head.target.is_ascii());
}

/// A response ends at the same position however its bytes come, and its body is no longer than allowed.
pub fn response_head(data: &[u8]) {
    const MAX: usize = 1 << 12;
    let at_once = ResponseScan::default().advance(data);
    let mut scan = ResponseScan::default();
    let mut parts = (0..=data.len()).map(|end| scan.advance(&data[..end]));
    let in_parts = parts.find(|found| *found != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(in_parts.is_ok(), at_once.is_ok());
    let Ok(Some(length)) = at_once else { return };
    assert_eq!(in_parts, Ok(Some(length)));
    let (head, rest) = data.split_at(length);
    // The parser has to see the same lines as the search for the end.
    assert!(
        head.split_inclusive(|&byte| byte == b'\n')
            .all(|line| line.ends_with(b"\r\n"))
    );
    let mut room = field_room();
    let Ok(head) = parse_response(head, &mut room) else {
        return;
    };
    assert!(
        head.fields
            .iter()
            .all(|field| !field.value.contains(&b'\n'))
    );
    if head.body != BodyLength::Chunked {
        return;
    }
    let (mut chunks, mut body) = (Chunks::Size, Vec::new());
    let at_once = chunks.advance(rest, &mut body, MAX);
    let (mut in_parts, mut used, mut parts) = (Chunks::Size, 0, Vec::new());
    for end in 0..=rest.len() {
        match in_parts.advance(&rest[used..end], &mut parts, MAX) {
            Ok(more) => used += more,
            Err(_) => {
                assert!(at_once.is_err());
                return;
            }
        }
    }
    assert!(parts.len() <= MAX);
    // With all bytes at once, an error may be found where a slow reader waits for more bytes.
    if let Ok(length) = at_once {
        assert_eq!((used, parts), (length, body));
        assert_eq!(chunks, in_parts);
    }
}

/// A parsed path that is written again names the same group and key.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for spelled in [text.to_owned(), format!("/_groupcache/{text}")] {
        for dialect in [Dialect::Native, Dialect::Golang] {
            if let Ok(Target::Key(group, key)) = parse_target(&spelled, dialect) {
                let again = target(&group, Some(&key));
                let found = parse_target(&again, Dialect::Native);
                assert_eq!(found, Ok(Target::Key(group, key)));
            }
        }
    }
}

/// A path of any group and any key is parsed to that group and key.
pub fn percent(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (group, key) = text.split_once('|').unwrap_or(("g", &text));
    let is_name = (1..=MAX_NAME_BYTES).contains(&group.len());
    if !is_name || encoded_len(key) > MAX_KEY_BYTES {
        return;
    }
    let path = target(group, Some(key));
    assert!(path.is_ascii() && !path.contains(['.', '+', ' ', '?', '#']));
    assert_eq!(path.len() - target(group, None).len() - 1, encoded_len(key));
    let found = parse_target(&path, Dialect::Native);
    assert_eq!(found, Ok(Target::Key(group.into(), key.into())));
}

/// A message that can be read is the same after it is written and read again.
pub fn messages(data: &[u8]) {
    if let Ok(answer) = Answer::decode(data.to_vec()) {
        let mut writer = BatchWriter::new(usize::MAX);
        let hash = answer.key_hash.unwrap_or(7);
        let item = Item::Value(Answer {
            key_hash: Some(hash),
            ..answer
        });
        assert!(writer.push(hash, item.clone()));
        let items = decode_batch(writer.finish(), [hash].into_iter()).unwrap();
        assert_eq!(format!("{items:?}"), format!("{:?}", [item]));
    }
    if let Ok(command) = GroupCommand::decode(data) {
        assert_eq!(GroupCommand::decode(&command.encode()), Ok(command.clone()));
    }
    if let Ok(command) = NodeCommand::decode(data) {
        assert_eq!(NodeCommand::decode(&command.clone().encode()), Ok(command));
    }
    if let Ok(marks) = decode_marks(data) {
        assert_eq!(decode_marks(&encode_marks(marks.clone())), Ok(marks));
    }
    let (group, key) = ("things", "k");
    if let Ok((value, life)) = decode_set(group, key, data) {
        let body = encode_set(group, key, &value, life);
        assert_eq!(decode_set(group, key, &body), Ok((value, life)));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        // Times are rounded when they are first written.
        let terms = Terms::parse(&Terms::parse(text).to_header());
        assert_eq!(Terms::parse(&terms.to_header()), terms);
        let _ = Status::of(200, Some(text));
    }
}

/// An answer to a batch has items for the first keys, in their order, and for no others.
pub fn batch(data: &[u8]) {
    let hashes = |count: u64| (0..count).map(|key| hash_of_key("g", &key.to_string()));
    for count in [0, 1, 5] {
        if let Ok(items) = decode_batch(data.to_vec(), hashes(count)) {
            assert!(items.len() as u64 <= count);
        }
    }
    let mut writer = BatchWriter::new(64);
    let parts = data.chunks(9).zip(hashes(1_024));
    let mut pushed = 0;
    for (part, hash) in parts {
        let item = Item::Value(Answer {
            value: Value::copy_from(part),
            rate: None,
            remaining: Some(Duration::from_millis(part.len() as u64)),
            key_hash: Some(hash),
        });
        if !writer.push(hash, item) {
            break;
        }
        pushed += 1;
    }
    let items = decode_batch(writer.finish(), hashes(1_024)).unwrap();
    assert_eq!(items.len(), pushed);
    for (item, part) in items.iter().zip(data.chunks(9)) {
        assert!(matches!(item, Item::Value(answer) if answer.value.as_bytes() == part));
    }
}

/// Only a signature made with the secret is accepted.
pub fn auth(data: &[u8]) {
    static SECRET: OnceLock<Secret> = OnceLock::new();
    let secret = SECRET.get_or_init(|| Secret::new(b"a secret of many bytes").unwrap());
    let (header, body) = data.split_at(data.len().min(160));
    let text = String::from_utf8_lossy(header);
    let signed = Signed {
        method: "PUT",
        peer: "http://a:1",
        target: &text,
        header: "",
        boot: 7,
        body: Digest::of(body),
    };
    if let Some(signature) = Signature::parse(&text) {
        assert_eq!(Signature::parse(&signature.to_string()), Some(signature));
        assert!(!secret.verifies(&signed, &signature), "it was guessed");
        assert!(
            !secret.verifies_legacy(&signed, body, &signature),
            "it was guessed"
        );
        let mut nonces = Nonces::default();
        let now = signature.time;
        assert_eq!(nonces.take(&signature, now), Ok(()));
        assert!(nonces.take(&signature, now).is_err());
    }
    let own = secret.sign(&signed, Duration::from_secs(7), 7);
    let own = secret.sign_legacy(&signed, body, own);
    let read = Signature::parse(&own.to_string()).unwrap();
    assert!(secret.verifies(&signed, &read) && secret.verifies_legacy(&signed, body, &read));
}

/// The normal form of a peer's address is the address of the same peer.
pub fn peer_list(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        if let Ok(peer) = Peer::new(line) {
            let again = Peer::new(&peer.address()).unwrap();
            assert_eq!(again.address(), peer.address());
            assert!(peer.port() != 0 && !peer.host().contains(['/', '@', ' ', '?', '#']));
        }
    }
    let node = Node::builder("http://a:1").unwrap().allow_absent(true);
    let node = node.build().unwrap();
    if node.set_peers(text.lines()).is_ok() {
        let _ = node.owner(&text);
    }
}

/// Every key has an owner and a deputy, whatever the order of the list. If a member leaves, its keys go to
/// their deputies, no others move, and the table is the same as one that is made anew.
pub fn ring(data: &[u8]) {
    let members: Vec<Member> = data
        .chunks(3)
        .take(9)
        .enumerate()
        .map(|(at, bytes)| Member {
            id: format!("{at}{}", String::from_utf8_lossy(bytes)),
            weight: f64::from(bytes[0] % 5 + 1) / 4.0,
        })
        .collect();
    let keys = data.chunks(2).take(64);
    let ring = Ring::new(&members);
    let mut backwards = members.clone();
    backwards.reverse();
    let reversed = ring.changed(&backwards);
    assert_eq!(ring.fingerprint(), reversed.fingerprint());
    let others = &members[..members.len().saturating_sub(1)];
    let without_last = [Ring::new(others), ring.changed(others)];
    for key in keys {
        let Some((owner, deputy)) = ring.owner_and_deputy(key) else {
            assert!(members.is_empty());
            continue;
        };
        assert_eq!(deputy.is_some(), members.len() > 1);
        assert_eq!(ring.owner(key), Some(owner));
        assert_eq!(backwards[reversed.owner(key).unwrap()], members[owner]);
        let is_last = owner + 1 == members.len();
        let next = if is_last { deputy } else { Some(owner) };
        let owners = without_last.each_ref().map(|ring| ring.owner(key));
        assert_eq!(owners, [next; 2]);
        let deputies = without_last.each_ref().map(|ring| ring.deputy(key));
        assert_eq!(deputies[0], deputies[1]);
    }
    let shares: f64 = (0..members.len()).map(|at| ring.share(at)).sum();
    assert!(
        members.is_empty() || (shares - 1.0).abs() < 1e-6,
        "{shares}"
    );
}

/// A cache returns the value that was stored last, not after its expiry, and keeps within its budget.
pub fn cache(data: &[u8]) {
    const CAPACITY: usize = 4_000;
    let clock = Clock::manual();
    let cache: Cache<u64> = Cache::new(CAPACITY, CAPACITY / 4, Some(2), clock.clone());
    let mut model: [Option<(u64, Option<Instant>)>; 32] = [None; 32];
    let fresh = AtomicBool::new(false);
    for (number, operation) in data.chunks_exact(3).enumerate() {
        let (number, slot) = (number as u64, usize::from(operation[1] % 32));
        let text = slot.to_string();
        let key = cache.hash(&text);
        match operation[0] % 8 {
            0..3 => {
                let tier = if operation[1] < 200 {
                    Tier::Main
                } else {
                    Tier::Hot
                };
                let weight = usize::from(operation[2]) * 8 + 1;
                let life = Duration::from_millis(u64::from(operation[2]));
                let expires = (operation[0] > 128).then(|| clock.now() + life);
                let is_kept = cache.insert(tier, key, number, weight, expires, &fresh);
                if is_kept {
                    model[slot] = Some((number, expires));
                }
            }
            3..6 => {
                if let Ok(found) = cache.get(key) {
                    let (value, expires) = model[slot].expect("it was removed");
                    assert_eq!(found.value.get(), Some(&value));
                    assert!(expires.is_none_or(|at| at > clock.now()), "it has expired");
                }
            }
            6 => {
                cache.remove(key);
                model[slot] = None;
                assert!(cache.get(key).is_err());
            }
            _ => match operation[1] {
                0 => {
                    cache.clear();
                    model = [None; 32];
                }
                1..64 => cache.sweep(),
                _ => clock.advance(Duration::from_millis(u64::from(operation[2]))),
            },
        }
        let counts = cache.counts();
        assert!(
            counts.main_bytes + counts.hot_bytes <= CAPACITY,
            "{counts:?}"
        );
        assert!(counts.main_items + counts.hot_items <= 32, "{counts:?}");
    }
    cache.clear();
    let counts = cache.counts();
    let left = (
        counts.main_bytes,
        counts.hot_bytes,
        counts.main_items,
        counts.hot_items,
    );
    assert_eq!(left, (0, 0, 0, 0));
}

/// A node answers every request.
pub fn node(data: &[u8]) {
    static NODE: OnceLock<Node> = OnceLock::new();
    let node = NODE.get_or_init(|| {
        let node = Node::new("http://a:1").unwrap();
        let group = node.group_builder("g", 1 << 16);
        group.build(|key| Ok(Value::from(key))).unwrap();
        node
    });
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default());
    let (target, header) = (text(), text());
    let body = parts.next().unwrap_or_default();
    for method in ["GET", "PUT", "DELETE", "POST", "HEAD"] {
        let request = Request::new(method, &target).header("X-Groupcache", &header);
        let response = node.answer(&request.body(body));
        assert!((200..=503).contains(&response.status()));
        assert_eq!(response.body().concat().len(), response.body_len());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The inputs in the corpus of a target.
    fn kept(name: &str) -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|_| panic!("{name} has no inputs"));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// A generator of numbers, the same each time (xorshift: Marsaglia, 2003).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % limit.max(1)
        }
    }

    /// Changes a byte, removes a part, or inserts a copy of another part.
    fn change(input: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(input.len() + 1);
        match random.below(4) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.below(256) as u8,
            2 => drop(input.drain(at..(at + random.below(8)).min(input.len()))),
            _ => {
                let from = random.below(input.len() + 1);
                let part = input[from..(from + random.below(16)).min(input.len())].to_vec();
                input.splice(at..at, part);
            }
        }
    }

    #[test]
    fn the_properties_hold_for_the_corpus_and_for_mutations_of_it() {
        for (name, target) in TARGETS {
            let kept = kept(name);
            assert!(kept.len() > 2, "{name}");
            kept.iter().for_each(|input| target(input));
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            // Each input of this one makes five tables of all slots.
            let rounds = if name == "ring" { 10 } else { 200 };
            for round in 0..rounds {
                let mut input = kept[round % kept.len()].clone();
                for _ in 0..=random.below(4) {
                    change(&mut input, &mut random);
                }
                if std::panic::catch_unwind(|| target(&input)).is_err() {
                    panic!("{name}: {:?}", input.escape_ascii().to_string());
                }
            }
        }
    }
}
