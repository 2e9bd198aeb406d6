//! `Many`: many values in one answer, as JSON. What all such answers take at once is bounded.

use std::collections::BTreeSet;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use groupcache_sync::{Deadline, Error, Group, HttpResponse};
use serde_json::{Value as Json, json};

use crate::room::{Part, Room};

/// The longest list of keys, in bytes.
pub(crate) const MAX_LIST: usize = 1 << 20;

/// About how long an answer may be, in bytes. One at a time is longer than a small one.
const MAX_ANSWER: usize = 96 << 20;
const SMALL: usize = 1 << 20;

/// About how many bytes of values are asked for at once, and how many keys.
const AT_ONCE: usize = 4 << 20;
const KEYS_AT_ONCE: usize = 64;

const FULL: &str = "the answer is full: ask for this key again";

pub(crate) struct Many {
    room: Room,
}

impl Many {
    pub(crate) fn new() -> Many {
        Many {
            room: Room::new(MAX_ANSWER as u64),
        }
    }

    /// The values of these keys. Keys whose values do not fit into one answer have an error that says
    /// so.
    pub(crate) fn answer(
        &self,
        group: &Group,
        keys: &BTreeSet<String>,
        deadline: Deadline,
    ) -> HttpResponse {
        let mut answer = Answer {
            json: "{".to_owned(),
            room: &self.room,
            part: None,
            end: deadline.instant(),
        };
        let keys: Vec<&String> = keys.iter().collect();
        let mut rest = &keys[..];
        // Nothing is known of their lengths yet: by what is seen of the first, many come at once.
        let mut count = 1;
        while !rest.is_empty() && answer.json.len() < MAX_ANSWER {
            let (some, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            let before = answer.json.len();
            for (key, got) in some.iter().zip(group.get_many_entries(some, deadline)) {
                match got {
                    Ok(got) => answer.add_value(key, &got.value),
                    Err(Error::NotFound) => answer.add(key, &json!({ "missing": true })),
                    Err(error) => answer.add_error(key, &error.to_string()),
                }
            }
            let length = (answer.json.len() - before) / some.len();
            let most = KEYS_AT_ONCE.min(2 * count);
            count = (AT_ONCE / (length + 1)).clamp(1, most);
        }
        for key in rest {
            answer.add_error(key, FULL);
        }
        answer.json.push_str("}\n");
        HttpResponse::new(200)
            .header("Content-Type", "application/json")
            .body(answer.json)
    }
}

struct Answer<'a> {
    json: String,
    room: &'a Room,
    /// Its part of the room, once it is not small any more.
    part: Option<Part<'a>>,
    /// Until when it may wait for that.
    end: Option<Instant>,
}

impl Answer<'_> {
    fn add_value(&mut self, key: &str, value: &[u8]) {
        if self.json.len() >= MAX_ANSWER {
            return self.add_error(key, FULL);
        }
        if self.part.is_none() && self.json.len() + value.len() > SMALL {
            self.part = self.room.take(MAX_ANSWER as u64, self.end);
            if self.part.is_none() {
                return self.add_error(
                    key,
                    "other large answers took too long: ask for this key again",
                );
            }
        }
        self.begin(key);
        self.json.push_str(r#"{"value":""#);
        BASE64.encode_string(value, &mut self.json);
        self.json.push_str(r#""}"#);
    }

    fn add_error(&mut self, key: &str, error: &str) {
        self.add(key, &json!({ "error": error }));
    }

    fn add(&mut self, key: &str, item: &Json) {
        self.begin(key);
        self.json.push_str(&item.to_string());
    }

    fn begin(&mut self, key: &str) {
        if self.json.len() > 1 {
            self.json.push(',');
        }
        self.json.push_str(&json!(key).to_string());
        self.json.push(':');
    }
}
