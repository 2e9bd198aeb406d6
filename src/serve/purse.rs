//! `Purse`: what pays for what a connection keeps.

use crate::protocol::account::{Charge, Exceeded, Held, Requester};
use crate::value::Value;

pub(crate) struct Purse {
    pub(crate) requester: Requester,
    /// What pays for its buffers.
    charge: Charge,
    /// The value that the client has yet to read.
    held: Option<Held>,
    /// That what it has is beyond the bound.
    exceeded: Option<Exceeded>,
}

impl Purse {
    pub(crate) fn new(requester: Requester) -> Purse {
        Purse {
            charge: requester.charge_for_buffers(),
            requester,
            held: None,
            exceeded: None,
        }
    }

    /// Accounts for buffers of so many bytes. Tells whether there is room.
    pub(crate) fn pay(&mut self, kept: usize) -> bool {
        self.charge.resize(kept)
    }

    /// The same, and for the value behind them, or that there is none any more.
    pub(crate) fn pay_all(&mut self, kept: usize, value: Option<&Value>) -> bool {
        if self.exceeded.is_some() {
            return true;
        }
        let has_room = match value {
            Some(value) => self.hold(value),
            None => {
                self.held = None;
                true
            }
        };
        self.charge.resize(kept) && has_room
    }

    /// Accounts for a value that is to be sent. Tells whether there is room.
    pub(crate) fn hold(&mut self, value: &Value) -> bool {
        if !self.held.as_ref().is_some_and(|held| held.is_of(value)) {
            self.held = self.requester.hold(value);
        }
        self.held.is_some()
    }

    /// Takes what is beyond the bound, if nobody else does.
    pub(crate) fn exceed(&mut self) -> bool {
        if self.exceeded.is_none() {
            self.exceeded = self.requester.exceed();
        }
        self.exceeded.is_some()
    }

    /// Notes that all is sent.
    pub(crate) fn let_go(&mut self) {
        self.held = None;
        self.exceeded = None;
    }

    /// Has it pay as a peer does, once it has proved to be one.
    pub(crate) fn note_proof(&mut self) -> bool {
        if self.requester.has_proved() {
            self.charge.prove();
        }
        self.requester.has_proved()
    }
}
