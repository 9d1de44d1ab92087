//! Finding the token.

use cryptoki_sys::CK_SLOT_ID;

use super::errors::CallError;
use super::ffi::Functions;
use super::ffi::token::TokenInfo;

/// Which of a module's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSelector {
    /// By CK_TOKEN_INFO's label.
    Label(String),
    /// By its serial number.
    Serial(String),
    /// By slot id, which some modules change at every start.
    Slot(u64),
}

impl std::fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenSelector::Label(label) => write!(f, "token \"{label}\""),
            TokenSelector::Serial(serial) => write!(f, "token with serial \"{serial}\""),
            TokenSelector::Slot(slot) => write!(f, "slot {slot}"),
        }
    }
}

/// Why there is no token.
pub(super) enum NoToken {
    /// A call failed.
    Call(CallError),
    /// For the operator: none or several.
    Choice(String),
}

/// The one token that `selector` names.
pub(super) fn find(
    functions: &Functions,
    selector: &TokenSelector,
) -> Result<(CK_SLOT_ID, TokenInfo), NoToken> {
    if let TokenSelector::Slot(id) = selector {
        let slot = CK_SLOT_ID::try_from(*id)
            .map_err(|_| NoToken::Choice(format!("{selector} is no slot id")))?;
        return Ok((slot, functions.token_info(slot).map_err(NoToken::Call)?));
    }
    let slots = functions.slots_with_token().map_err(NoToken::Call)?;
    let mut unreadable = None;
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for slot in slots {
        match functions.token_info(slot) {
            Ok(info) => {
                let matches = match selector {
                    TokenSelector::Label(label) => info.label == *label,
                    TokenSelector::Serial(serial) => info.serial == *serial,
                    TokenSelector::Slot(_) => false,
                };
                // SoftHSM always shows one more, for the next token; its label and serial number
                // are empty.
                seen.push(if info.initialized {
                    format!("\"{}\" ({}, slot {slot})", info.label, serial(&info))
                } else {
                    format!("slot {slot} (not initialised)")
                });
                if matches {
                    found.push((slot, info));
                }
            }
            // One broken token must not hide another.
            Err(error) => unreadable = Some(error),
        }
    }
    if found.len() > 1 {
        let candidates: Vec<String> =
            found.iter().map(|(slot, info)| format!("{}, slot {slot}", serial(info))).collect();
        return Err(NoToken::Choice(format!(
            "{selector} is ambiguous ({}): choose by serial or slot",
            candidates.join("; ")
        )));
    }
    match (found.pop(), unreadable) {
        (Some(token), _) => Ok(token),
        (None, Some(error)) => Err(NoToken::Call(error)),
        (None, None) if seen.is_empty() => {
            Err(NoToken::Choice(format!("{selector} not found: the module shows no tokens")))
        }
        (None, None) => Err(NoToken::Choice(format!(
            "{selector} not found; the module shows {}",
            seen.join(", ")
        ))),
    }
}

fn serial(info: &TokenInfo) -> String {
    match &*info.serial {
        "" => "no serial number".to_owned(),
        serial => format!("serial {serial}"),
    }
}
