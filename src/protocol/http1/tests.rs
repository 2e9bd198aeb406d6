use super::*;

/// Reads a whole request; gives method, target, length of the body and persistence.
fn read(bytes: &[u8]) -> Result<(String, String, u64, Persistence), Refusal> {
    let length = Scan::default()
        .advance(bytes)?
        .expect("the head has no end");
    let mut room = field_room();
    let head = parse(&bytes[..length], &mut room)?;
    Ok((
        head.method.to_owned(),
        head.target.to_owned(),
        head.body_len,
        head.persistence,
    ))
}

fn status_of(bytes: &[u8]) -> u16 {
    read(bytes).map_or_else(|refusal| refusal.status, |_| 200)
}

#[test]
fn a_plain_request_is_read() {
    let bytes = b"PUT /a%20b?c HTTP/1.1\r\nHost: h\r\ncontent-length: 12\r\n\r\n";
    let expected = (
        "PUT".to_owned(),
        "/a%20b?c".to_owned(),
        12,
        Persistence::Implied,
    );
    assert_eq!(read(bytes), Ok(expected));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let heads: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
        b"GET / http/1.1\r\nHost: h\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / extra HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for head in heads {
        assert_eq!(status_of(head), 400, "{}", head.escape_ascii());
    }
}

#[test]
fn what_can_never_become_a_head_is_refused_before_its_end() {
    for bytes in [&b"\x16\x03\x01"[..], b"GET /\r\n", b"GET / HTTP/1.1\n"] {
        assert!(Scan::default().advance(bytes).is_err());
    }
}

#[test]
fn limits_have_their_own_statuses() {
    let head = |target: usize, fields: usize, length: usize| {
        let mut head = format!("GET /{} HTTP/1.1\r\nHost: h\r\n", "a".repeat(target));
        for _ in 0..fields {
            head.push_str(&format!("X: {}\r\n", "b".repeat(length)));
        }
        (head + "\r\n").into_bytes()
    };
    assert_eq!(status_of(&head(17_000, 99, 1)), 200);
    assert_eq!(status_of(&head(18_000, 0, 0)), 414);
    assert_eq!(status_of(&head(1, 100, 1)), 431);
    assert_eq!(status_of(&head(1, 40, 1_000)), 431);
    let endless = vec![b'a'; MAX_LINE + 1];
    let refusal = Scan::default().advance(&endless).unwrap_err();
    assert_eq!(refusal.status, 414);
}

#[test]
fn an_expectation_is_met_or_refused() {
    let expect = |what: &str| {
        format!("PUT / HTTP/1.1\r\nHost: h\r\nExpect: {what}\r\nContent-Length: 1\r\n\r\n")
    };
    assert_eq!(status_of(expect("100-Continue").as_bytes()), 200);
    assert_eq!(status_of(expect("miracles").as_bytes()), 417);
}

#[test]
fn a_length_beyond_all_numbers_is_huge() {
    let head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    assert_eq!(read(head).unwrap().2, u64::MAX);
}

#[test]
fn persistence_is_that_of_the_version_unless_stated() {
    let of = |version: &str, connection: &str| {
        let head = format!("GET / HTTP/1.{version}\r\nHost: h\r\n{connection}\r\n");
        read(head.as_bytes()).unwrap().3
    };
    assert_eq!(of("1", ""), Persistence::Implied);
    assert_eq!(of("1", "Connection: x, Close\r\n"), Persistence::Close);
    assert_eq!(of("0", ""), Persistence::Close);
    assert_eq!(of("0", "connection: keep-alive\r\n"), Persistence::Stated);
    let both = "Connection: keep-alive\r\nConnection: close\r\n";
    assert_eq!(of("0", both), Persistence::Close);
}

#[test]
fn a_head_is_found_in_the_same_place_however_it_is_cut() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\nGET /b";
    let whole = Scan::default().advance(bytes).unwrap();
    let mut scan = Scan::default();
    let found = (1..=bytes.len()).find_map(|end| scan.advance(&bytes[..end]).unwrap());
    assert_eq!(found, whole);
    assert_eq!(found, Some(bytes.len() - "GET /b".len()));
}

#[test]
fn a_response_says_how_long_it_is_and_whether_the_connection_stays() {
    let write = |status, persistence| {
        let mut out = Vec::new();
        write_head(&mut out, status, [("A", "b")].into_iter(), 3, persistence);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        write(200, Persistence::Implied),
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\n"
    );
    assert_eq!(
        write(204, Persistence::Close),
        "HTTP/1.1 204 No Content\r\nA: b\r\nConnection: close\r\n\r\n"
    );
    assert!(write(200, Persistence::Stated).contains("Connection: keep-alive\r\n"));
}

#[test]
fn a_request_line_may_be_as_long_as_its_limit() {
    let head = |line: usize| {
        let frame = "GET / HTTP/1.1\r\n".len();
        let path = "a".repeat(line - frame);
        format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
    };
    assert_eq!(status_of(&head(MAX_LINE)), 200);
    assert_eq!(status_of(&head(MAX_LINE + 1)), 414);
    let unfinished = vec![b'a'; MAX_LINE];
    assert_eq!(Scan::default().advance(&unfinished), Ok(None));
}

#[test]
fn headers_may_be_as_long_as_their_limit() {
    let head = |path: usize, length: usize| {
        let line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(path));
        let start = "Host: h\r\nX: ";
        let value = "b".repeat(length - start.len() - "\r\n\r\n".len());
        format!("{line}{start}{value}\r\n\r\n").into_bytes()
    };
    for path in [0, 16_000] {
        assert_eq!(status_of(&head(path, MAX_HEADERS)), 200);
        assert_eq!(status_of(&head(path, MAX_HEADERS + 1)), 431);
        let unfinished = &head(path, MAX_HEADERS + 2);
        let unfinished = &unfinished[..unfinished.len() - 2];
        assert_eq!(Scan::default().advance(unfinished), Ok(None));
    }
}

#[test]
fn bytes_beyond_the_head_are_not_taken_for_part_of_it() {
    let bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /b";
    let refusal = parse(bytes, &mut field_room()).map(|_| ()).unwrap_err();
    assert_eq!(refusal.status, 400);
}

#[test]
fn only_a_client_of_the_newer_version_is_told_to_continue() {
    let expects = |version: &str, expect: &str| {
        let head = format!("PUT / HTTP/1.{version}\r\nHost: h\r\n{expect}\r\n");
        parse(head.as_bytes(), &mut field_room())
            .unwrap()
            .expects_continue
    };
    assert!(expects("1", "Expect: 100-continue\r\n"));
    assert!(!expects("0", "Expect: 100-continue\r\n"));
    assert!(!expects("1", ""));
    assert!(!expects("0", ""));
}

#[test]
fn headers_that_say_nothing_about_the_message_are_ignored() {
    // Each as long as one that matters, with a value that would matter there.
    let others = "From: other\r\nCookie: miracles\r\nUser-Agent: close\r\n\
         Accept-Charset: utf-8\r\nIf-Modified-Since: chunked\r\nX: a\tb\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{others}\r\n");
    let expected = ("GET".to_owned(), "/".to_owned(), 0, Persistence::Implied);
    assert_eq!(read(head.as_bytes()), Ok(expected));
}

#[test]
fn every_status_in_use_has_the_reason_of_the_standard() {
    let reasons = [
        (200, "OK"),
        (201, "Created"),
        (202, "Accepted"),
        (204, "No Content"),
        (207, "Multi-Status"),
        (301, "Moved Permanently"),
        (302, "Found"),
        (304, "Not Modified"),
        (400, "Bad Request"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "Not Found"),
        (405, "Method Not Allowed"),
        (408, "Request Timeout"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (417, "Expectation Failed"),
        (429, "Too Many Requests"),
        (431, "Request Header Fields Too Large"),
        (500, "Internal Server Error"),
        (502, "Bad Gateway"),
        (503, "Service Unavailable"),
        (504, "Gateway Timeout"),
        (299, "Other"),
    ];
    for (status, expected) in reasons {
        assert_eq!(reason(status), expected);
    }
}
