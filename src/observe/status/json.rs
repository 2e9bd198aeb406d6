//! Writing JSON (RFC 8259): the little that a report takes. Values are texts of JSON already.

use std::fmt::Write as _;

pub(super) fn object(fields: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let field = |(name, value): (&str, String)| format!("{}:{value}", string(name));
    format!("{{{}}}", joined(fields.into_iter().map(field)))
}

pub(super) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", joined(items.into_iter()))
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// Also harmless where somebody puts it into HTML or a script.
pub(super) fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..'\u{20}' | '\u{7f}' => {
                // Writing to a `String` cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_stays_what_it_is_and_is_never_markup() {
        assert_eq!(string("a \"b\" \\ é\n"), r#""a \"b\" \\ é\u000a""#);
        assert_eq!(string("</script>"), r#""\u003c/script\u003e""#);
        assert_eq!(object([]), "{}");
        let one = object([("a", array([string("b"), "1".to_owned()]))]);
        assert_eq!(one, r#"{"a":["b",1]}"#);
    }
}
