//! `ConnectionCharge`: the memory that a connection is charged for.

use crate::protocol::account::{Charge, Exceeded, Held, Requester};
use crate::value::Value;

pub(crate) struct ConnectionCharge {
    pub(crate) requester: Requester,
    /// Pays for the buffers.
    buffers: Charge,
    /// Pays for the value that the client has yet to read.
    value: Option<Held>,
    /// The permission to keep more than the bound allows.
    excess: Option<Exceeded>,
}

impl ConnectionCharge {
    pub(crate) fn new(requester: Requester) -> ConnectionCharge {
        ConnectionCharge {
            buffers: requester.charge_for_buffers(),
            requester,
            value: None,
            excess: None,
        }
    }

    /// Charges for buffers of `bytes` in place of the former ones. Returns whether there is room.
    pub(crate) fn charge_buffers(&mut self, bytes: usize) -> bool {
        self.buffers.resize(bytes)
    }

    /// Charges for buffers of `bytes` and for the value to send behind them, in place of the former ones.
    /// Returns whether there is room.
    pub(crate) fn charge_all(&mut self, bytes: usize, value: Option<&Value>) -> bool {
        if self.excess.is_some() {
            return true;
        }
        let has_room = match value {
            Some(value) => self.charge_value(value),
            None => {
                self.value = None;
                true
            }
        };
        self.buffers.resize(bytes) && has_room
    }

    /// Charges for a value to send, in place of the former one. Returns whether there is room.
    pub(crate) fn charge_value(&mut self, value: &Value) -> bool {
        if !self.value.as_ref().is_some_and(|held| held.is_of(value)) {
            self.value = self.requester.hold(value);
        }
        self.value.is_some()
    }

    /// Takes the permission to exceed the bound. Returns whether the connection has it: one at a time may.
    pub(crate) fn exceed(&mut self) -> bool {
        if self.excess.is_none() {
            self.excess = self.requester.exceed();
        }
        self.excess.is_some()
    }

    /// Releases the charge for the value, which is sent, and the permission to exceed the bound.
    pub(crate) fn release_value(&mut self) {
        self.value = None;
        self.excess = None;
    }

    /// Charges the buffers as a peer's if the requester is authenticated. Returns whether it is.
    pub(crate) fn note_authentication(&mut self) -> bool {
        if self.requester.has_proved() {
            self.buffers.prove();
        }
        self.requester.has_proved()
    }
}
