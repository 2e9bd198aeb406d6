use super::*;

const NOW: Duration = Duration::from_secs(1_763_900_000);

fn request() -> Signed<'static> {
    Signed {
        method: "PUT",
        peer: "http://a:1",
        target: "/_groupcache/g/k",
        header: "v=1;r=ff",
        boot: 7,
        body: Digest::of(b"value"),
    }
}

fn secret() -> Secret {
    Secret::new(b"0123456789abcdef").unwrap()
}

#[test]
fn a_signature_is_read_as_written_and_fits_its_request_only() {
    let signature = secret().sign(&request(), NOW, 77);
    let read = Signature::parse(&signature.to_string()).unwrap();
    assert_eq!(read, signature);
    assert!(secret().verifies(&request(), &read));
    let mut others = vec![
        Signed {
            method: "GET",
            ..request()
        },
        Signed {
            peer: "http://b:1",
            ..request()
        },
        Signed {
            target: "/_groupcache/g/l",
            ..request()
        },
        Signed {
            header: "v=1",
            ..request()
        },
        Signed {
            boot: 8,
            ..request()
        },
        Signed {
            body: Digest::of(b"valuf"),
            ..request()
        },
        Signed {
            body: Digest::of(b""),
            ..request()
        },
        Signed {
            body: Digest {
                length: 6,
                ..Digest::of(b"value")
            },
            ..request()
        },
    ];
    // The same bytes, divided in another way.
    others.push(Signed {
        target: "/_groupcache/g/kv",
        header: "=1;r=ff",
        ..request()
    });
    for other in others {
        assert!(!secret().verifies(&other, &read), "{other:?}");
    }
    let other = Secret::new(b"0123456789abcdeg").unwrap();
    assert!(!other.verifies(&request(), &read));
    for changed in [
        Signature {
            time: NOW + Duration::from_millis(1),
            ..read
        },
        Signature { nonce: 78, ..read },
    ] {
        assert!(!secret().verifies(&request(), &changed));
    }
}

#[test]
fn an_older_node_finds_its_code_where_it_expects_it() {
    let new = secret().sign(&request(), NOW, 77);
    let both = secret().sign_legacy(&request(), b"value", new);
    let read = Signature::parse(&both.to_string()).unwrap();
    assert_eq!(read, both);
    assert!(secret().verifies(&request(), &read));
    assert!(secret().verifies_legacy(&request(), b"value", &read));
    assert!(!secret().verifies_legacy(&request(), b"valuf", &read));
    // What an older node sends, and reads: a version and a code, and nothing else that it knows.
    let text = both.to_string();
    let legacy = text.split(";b=").next().unwrap();
    assert!(
        legacy.starts_with("v=1;t=") && !legacy.contains(";c="),
        "{legacy}"
    );
    let legacy = Signature::parse(legacy).unwrap();
    assert_eq!(legacy.code, None);
    assert!(!secret().verifies(&request(), &legacy));
    assert!(secret().verifies_legacy(&request(), b"value", &legacy));
    assert!(!secret().verifies_legacy(&request(), b"value", &new));
    assert_eq!(Signature::parse(&legacy.to_string()), Some(legacy));
}

#[test]
fn an_invalid_signature_is_refused() {
    let good = secret().sign(&request(), NOW, 77).to_string();
    assert!(Signature::parse(&format!("{good};x=new")).is_some());
    for bad in [
        String::new(),
        "v=2".into(),
        format!("{good};t=1"),
        good.replace("v=2", "v=3"),
        good.replace("v=2;", ""),
        good.replace(";b=", ";b=0"),
        good.replace(";b=", ";x="),
        good.replace(";h=", ";h=0"),
        good.replace(";h=", ";x="),
        good.replace(";t=", ";t=+"),
        good.replace(";t=", ";t=99999999999999999999"),
        good.replace(";n=", ";n=0"),
        good.replace(";m=", ";m=0"),
        good[..good.len() - 1].to_owned(),
        good.replace(";m=", ";m=é"),
        good.replace(';', ","),
    ] {
        assert_eq!(Signature::parse(&bad), None, "{bad}");
    }
}

#[test]
fn a_short_secret_is_refused_and_none_is_shown() {
    assert!(Secret::new(b"0123456789abcde").is_none());
    assert_eq!(format!("{:?}", secret()), "Secret(..)");
}
