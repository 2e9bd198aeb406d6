//! How many connections each of the two addresses may have: neither takes all descriptors.

/// As many as the library allows where nothing is set.
const MOST: usize = 16_384;

/// No fewer, however few descriptors there are.
const LEAST: usize = 256;

/// Left for the origin, peers and files.
const RESERVED: usize = 256;

/// Allows this process as many descriptors as it needs, if the system lets it. Gives the connections of
/// each address.
pub(crate) fn connections() -> usize {
    let allowed = allow(2 * MOST + RESERVED);
    let each = (allowed.saturating_sub(RESERVED) / 2).clamp(LEAST, MOST);
    if each < MOST {
        log::warn!(
            target: "node", descriptors = allowed, connections = each;
            "few descriptors are allowed: each address has fewer connections; see ulimit -n, or \
             LimitNOFILE of systemd"
        );
    }
    each
}

#[cfg(unix)]
fn allow(wanted: usize) -> usize {
    let allowed = rlimit::increase_nofile_limit(wanted as u64);
    allowed.map_or(RESERVED, |allowed| {
        usize::try_from(allowed).unwrap_or(wanted)
    })
}

/// There is no such bound.
#[cfg(not(unix))]
fn allow(wanted: usize) -> usize {
    wanted
}
