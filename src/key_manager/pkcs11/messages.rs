//! Which calls an AES-GCM operation takes in a session whose module speaks PKCS#11 3.0's message
//! interface: one call a message, once a key has been begun with, instead of two.

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_RV, CKR_ARGUMENTS_BAD, CKR_FUNCTION_NOT_SUPPORTED, CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
};

/// Codes of a message call that speak against the module's message interface and not against its
/// HSM.
pub(super) const MISBEHAVES: &[CK_RV] = &[
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_ARGUMENTS_BAD,
];

/// Messages in a row under another key, after which the operation begins again with that. Beginning
/// costs two calls more than a message without.
const REBIND_AFTER: u32 = 4;

/// How one message is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Init and single-part call, beside a message operation under another key.
    Classic,
    /// Begin with the key first; `end` what is, or may be, begun.
    Begin { end: bool },
    /// The message alone.
    Message,
}

/// The message operations of a session.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) encrypt: Direction,
    pub(super) decrypt: Direction,
}

/// One direction of a session: a session has one message operation for encryption, and one for
/// decryption.
#[derive(Default)]
pub(super) struct Direction {
    state: State,
    /// Another key, and how often in a row it was wanted.
    wanted: Option<(CK_OBJECT_HANDLE, u32)>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Fresh,
    Begun(CK_OBJECT_HANDLE),
    /// A call failed: an operation may or may not be left.
    Unsure,
}

impl Direction {
    /// What to do for a message under `key`. After it [`Direction::done`] or [`Direction::failed`].
    pub(super) fn way(&mut self, key: CK_OBJECT_HANDLE) -> Way {
        match self.state {
            State::Fresh => Way::Begin { end: false },
            State::Unsure => Way::Begin { end: true },
            State::Begun(begun) if begun == key => {
                self.wanted = None;
                Way::Message
            }
            State::Begun(_) => {
                let times = self
                    .wanted
                    .filter(|(wanted, _)| *wanted == key)
                    .map_or(1, |(_, times)| times + 1);
                self.wanted = Some((key, times));
                if times > REBIND_AFTER { Way::Begin { end: true } } else { Way::Classic }
            }
        }
    }

    /// The operation is begun with `key`.
    pub(super) fn done(&mut self, key: CK_OBJECT_HANDLE) {
        *self = Direction { state: State::Begun(key), wanted: None };
    }

    /// A message call failed.
    pub(super) fn failed(&mut self) {
        *self = Direction { state: State::Unsure, wanted: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_a_message_for_the_key_in_use() {
        let mut direction = Direction::default();
        assert_eq!(direction.way(7), Way::Begin { end: false });
        direction.done(7);
        assert_eq!(direction.way(7), Way::Message);
        direction.failed();
        assert_eq!(direction.way(7), Way::Begin { end: true });
    }

    #[test]
    fn keys_in_turn_do_not_begin_anew_each_time() {
        let mut direction = Direction::default();
        direction.done(7);
        for _ in 0..10 {
            assert_eq!(direction.way(8), Way::Classic);
            assert_eq!(direction.way(9), Way::Classic);
            assert_eq!(direction.way(7), Way::Message);
        }
        for _ in 0..REBIND_AFTER {
            assert_eq!(direction.way(8), Way::Classic);
        }
        assert_eq!(direction.way(8), Way::Begin { end: true });
        direction.done(8);
        assert_eq!(direction.way(8), Way::Message);
        assert_eq!(direction.way(7), Way::Classic);
    }
}
