use std::time::Duration;

use super::dialect::Dialect;
use super::*;
use crate::cache::key::{MAX_KEY_BYTES, MAX_NAME_BYTES};
use crate::value::Value;

fn parse(target: &str) -> Result<Target<'_>, BadTarget> {
    parse_target(target, Dialect::Native)
}

fn round_trip(group: &str, key: &str) {
    let target = target(group, Some(key));
    let clean = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'.' | b'+');
    assert!(target.bytes().all(clean), "{target}");
    let parsed = parse(&target).unwrap();
    assert_eq!(parsed, Target::Key(group.into(), key.into()));
    assert_eq!(encoded_len(key), target.rsplit_once('/').unwrap().1.len());
}

#[test]
fn every_text_survives_the_path() {
    for key in [
        "",
        "/",
        "//",
        "..",
        "../..",
        ".",
        "%2F",
        "%",
        "%zz",
        "?",
        "#",
        "a+b",
        " ",
        "\0",
        "\r\n",
        "\u{1f600}",
        "e\u{301}",
        "\u{202e}x",
        "group/key",
        ";,:@&=$!*'()",
    ] {
        round_trip("g", key);
        round_trip("a group/with..odd%name", key);
    }
    let all: String = (0..=0x7f_u8).map(char::from).collect();
    round_trip("g", &all);
}

#[test]
fn bad_paths_are_told_apart() {
    assert_eq!(parse("/other"), Err(BadTarget::Elsewhere));
    assert_eq!(parse("/_groupcache/"), Ok(Target::Node));
    assert_eq!(parse("/_groupcache/g"), Ok(Target::Group("g".into())));
    let long_name = format!("{}/k", "g".repeat(MAX_NAME_BYTES + 1));
    for bad in [
        &long_name, "g/\u{e9}", "/k", "g/%zz", "g/%f", "g/%ff", "g/a?b", "g/a#b", "g/a\0",
    ] {
        let parsed = parse(&format!("{BASE}{bad}")).map(|_| ());
        assert!(matches!(parsed, Err(BadTarget::Malformed(_))), "{bad}");
    }
    for long in ["k".repeat(16_001), "!".repeat(5_334), "%6b".repeat(16_001)] {
        assert_eq!(parse(&format!("{BASE}g/{long}")), Err(BadTarget::TooLong));
    }
    for longest in ["!".repeat(5_333), "%6b".repeat(16_000)] {
        assert!(parse(&format!("{BASE}g/{longest}")).is_ok());
    }
}

#[test]
fn an_answer_survives_and_is_valid_for_a_go_peer() {
    let answer = Answer {
        value: Value::from("the value"),
        rate: Some(12.5),
        remaining: Some(Duration::from_micros(10)),
        key_hash: Some(42),
    };
    let (mut body, value) = answer.clone().encode();
    body.extend_from_slice(&value);
    let decoded = Answer::decode(body).unwrap();
    assert_eq!(
        decoded.remaining,
        Some(Duration::from_millis(1)),
        "a little is not none"
    );
    assert_eq!(decoded.value, answer.value);
    assert_eq!(decoded.rate, answer.rate);
    assert_eq!(decoded.key_hash, answer.key_hash);
}

#[test]
fn a_go_answer_is_understood() {
    // value "hi", no other field, as golang/groupcache encodes it.
    let decoded = Answer::decode(vec![0x0a, 2, b'h', b'i']).unwrap();
    assert_eq!(decoded.value.as_bytes(), b"hi");
    assert_eq!((decoded.rate, decoded.remaining), (None, None));
}

#[test]
fn truncated_answers_are_refused() {
    let answer = Answer {
        value: Value::from("the value"),
        rate: Some(1.0),
        remaining: None,
        key_hash: Some(1),
    };
    let (mut body, value) = answer.encode();
    body.extend_from_slice(&value);
    for cut in body.len() - value.len()..body.len() {
        assert!(
            Answer::decode(body[..cut].to_vec()).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn terms_survive_and_unknown_ones_are_ignored() {
    let terms = Terms {
        native: true,
        hits: 3,
        patience: Some(Duration::from_millis(500)),
        remaining: Some(Duration::from_millis(900)),
        ring: Some(0xabc),
        max_body: Some(1 << 20),
        peeks: true,
        falls_back: true,
        as_deputy: true,
        copies: true,
        stamp: Some(Stamp {
            origin: u64::MAX,
            sequence: 7,
        }),
    };
    assert_eq!(Terms::parse(&terms.to_header()), terms);
    let newer = format!("{};x=1;;y;w=oops", terms.to_header());
    assert_eq!(Terms::parse(&newer), terms);
    for half in ["v=1;i=7", "v=1;q=7", "v=1;i=0;q=7", "v=1;i=x;q=7"] {
        assert_eq!(Terms::parse(half).stamp, None, "{half}");
    }
}

#[test]
fn every_status_survives() {
    for (status, code, _) in status::STATUSES {
        let response = Response::new(status, 7);
        assert_eq!(response.status(), code);
        assert!(!status.is_refusal() || matches!(code, 401 | 403 | 421));
        assert_eq!(Status::of(code, Some(&response.header)), Some(status));
    }
    assert_eq!(
        Status::of(200, Some("s=not-found")),
        None,
        "they contradict each other"
    );
    assert_eq!(Status::of(404, None), Some(Status::NotFound));
    assert_eq!(Status::of(401, Some("s=newer")), Some(Status::Unauthorized));
    assert_eq!(Status::of(302, None), None);
}

#[test]
fn a_set_that_names_another_key_is_refused() {
    let life = Some(Duration::from_secs(1));
    let body = encode_set("g", "k", &Value::from("v"), life);
    assert_eq!(decode_set("g", "k", &body), Ok((Value::from("v"), life)));
    assert!(decode_set("g", "other", &body).is_err());
    assert!(decode_set("g", "k", b"\xff").is_err());
}

#[test]
fn only_paths_of_the_protocol_are_for_the_node() {
    for ours in ["/_groupcache/", "/_groupcache/g", "/_groupcache/g/k"] {
        assert!(is_ours(ours), "{ours}");
    }
    for other in ["", "/", "/_groupcache", "/other", "/x/_groupcache/g"] {
        assert!(!is_ours(other), "{other}");
    }
}

#[test]
fn an_encoded_key_may_be_as_long_as_the_limit() {
    let key = "k".repeat(MAX_KEY_BYTES);
    let path = target("g", Some(&key));
    assert_eq!(
        parse(&path),
        Ok(Target::Key("g".into(), key.as_str().into()))
    );
}

#[test]
fn terms_that_are_not_set_are_not_sent() {
    assert_eq!(Terms::default().to_header(), "v=1");
}

/// All headers of `response`, and its body in one piece, whose length must be the declared one.
fn sent(response: &Response) -> (Vec<(&'static str, &str)>, Vec<u8>) {
    let body = response.body().concat();
    assert_eq!(response.body_len(), body.len());
    (response.headers().collect(), body)
}

#[test]
fn a_response_with_a_value_is_a_message_that_ends_with_it() {
    let answer = Answer {
        value: Value::from("the value"),
        rate: Some(2.0),
        remaining: None,
        key_hash: Some(42),
    };
    let response = Response::value(0xabc, answer.clone());
    let (headers, body) = sent(&response);
    let expected = [
        ("Content-Type", "application/x-protobuf"),
        (HEADER, "v=1;s=ok;r=abc"),
    ];
    assert_eq!(headers, expected);
    assert!(body.ends_with(b"the value"));
    assert_eq!(Answer::decode(body), Ok(answer));
}

#[test]
fn a_response_without_a_value_is_a_text_for_people() {
    let kind = ("Content-Type", "text/plain; charset=utf-8");
    let response = Response::text(Status::NotFound, 1, "no such value");
    let (headers, body) = sent(&response);
    assert_eq!(headers, [kind, (HEADER, "v=1;s=not-found;r=1")]);
    assert_eq!(body, b"no such value\n");

    let response = Response::wrong_method(1, "GET, PUT, DELETE");
    let (headers, _) = sent(&response);
    let allow = ("Allow", "GET, PUT, DELETE");
    assert_eq!(headers, [kind, (HEADER, "v=1;s=wrong-method;r=1"), allow]);
}

#[test]
fn a_bare_value_of_any_length_survives() {
    // The length of the length changes at 128.
    for length in [0, 1, 127, 128, 20_000] {
        let answer = Answer {
            value: Value::from(vec![7; length]),
            rate: None,
            remaining: None,
            key_hash: None,
        };
        let (_, body) = sent(&Response::value(1, answer.clone()));
        assert_eq!(Answer::decode(body), Ok(answer), "{length} bytes");
    }
}

#[test]
fn the_requester_learns_the_ring_and_the_length_of_what_is_too_large() {
    let header = Response::too_large(0xabc, 70_000).header;
    assert_eq!(ring_of(&header), Some(0xabc));
    assert_eq!(length_of(&header), Some(70_000));
    for silent in ["", "v=1", "r=zz;n=-1"] {
        assert_eq!(ring_of(silent), None, "{silent}");
        assert_eq!(length_of(silent), None, "{silent}");
    }
}
