//! `Traffic`: whom a request is for, and so which worker pool serves it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Traffic {
    /// Requests of the peer protocol, and all requests where there is no fallback.
    Peers,
    /// Requests that the fallback answers.
    Application,
}
