//! `PeerFile`: a list of peers in a file that others write.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Discovery;
use crate::transport::peer::Peer;

/// The longest file, in bytes: some ten thousand peers.
const MAX_LENGTH: u64 = 1 << 20;

/// The peers that a file lists: one in a line, as `URL` or `NAME=URL`, and behind that perhaps its
/// weight. `#` begins a comment.
///
/// ```text
/// # id      address                    weight
/// cache-0=http://10.0.0.5:7000
/// cache-1=http://10.0.0.6:7000         2
/// ```
///
/// With ids, peers keep their keys when their addresses change. The file is read whole each time. So
/// that nobody reads half of it, write another one beside it and rename that over it. One that is
/// missing or malformed is an error, which names the line; the last list stays.
#[derive(Clone, Debug)]
pub struct PeerFile(PathBuf);

impl PeerFile {
    /// The file at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> PeerFile {
        PeerFile(path.as_ref().to_owned())
    }
}

impl Discovery for PeerFile {
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> {
        let path = self.0.display();
        let text = read(&self.0).map_err(|error| format!("cannot read {path}: {error}"))?;
        Ok(parse(&text).map_err(|error| format!("{path}, {error}"))?)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_LENGTH + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(std::io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Vec<Peer>, String> {
    let mut peers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let peer = parse_line(line).map_err(|reason| format!("line {}: {reason}", number + 1));
            peers.push(peer?);
        }
    }
    Ok(peers)
}

fn parse_line(line: &str) -> Result<Peer, String> {
    let mut words = line.split_whitespace();
    let (named, weight) = (words.next().unwrap_or_default(), words.next());
    if let Some(word) = words.next() {
        return Err(format!(
            "{word:?} is too much: a line is [NAME=]URL [WEIGHT]"
        ));
    }
    let (id, address) = match named.split_once('=') {
        Some((id, address)) => (Some(id), address),
        None => (None, named),
    };
    let mut peer = Peer::new(address).map_err(|error| error.to_string())?;
    match id {
        Some("") => return Err("the id before the = is empty".to_owned()),
        Some(id) => peer = peer.with_name(id),
        None => {}
    }
    if let Some(weight) = weight {
        let number = weight.parse();
        let number = number.map_err(|_| format!("the weight {weight:?} is no number"))?;
        peer = peer.weight(number).map_err(|error| error.to_string())?;
    }
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_peers() {
        let text = "# all\r\n\n http://a:1 # the first\ncache-1=http://10.0.0.6:7000\t2.5\n";
        let second = Peer::new("http://10.0.0.6:7000")
            .unwrap()
            .with_name("cache-1");
        let expected = [
            Peer::new("http://a:1").unwrap(),
            second.weight(2.5).unwrap(),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for line in [
            "a:1",
            "=http://a:1",
            "http://a:1 x",
            "http://a:1 -1",
            "http://a:1 1 1",
            "id=",
            "http://a:1,http://b:1",
        ] {
            let error = parse(&format!("http://b:1\n\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 3: "), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_missing_no_text_or_endless_is_an_error() {
        let error = PeerFile::new("/no/such/file").peers().unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such/file: "));
        assert!(PeerFile::new("/dev/zero").peers().is_err());
        assert!(PeerFile::new("/").peers().is_err());
    }
}
