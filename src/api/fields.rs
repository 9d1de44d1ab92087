//! Reading named fields out of a JSON object, without serde_json's error texts (they quote the
//! input) and without its buffers (they are not wiped): a field is kept as the part of the body it
//! stands in.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::base64::{self, Short};
use super::error::{ApiError, ErrorName};

#[cfg(test)]
mod tests;

/// Named fields of one object; asserted at compile time where the names are listed.
pub(super) const FIELDS_MAX: usize = 7;

/// The known fields of one JSON object. Unknown ones are ignored: spec, appendix B: "Over time, AWS
/// KMS may choose to include additional fields".
pub(super) struct Object<'a> {
    /// Stands before each name in messages: `""` or `requestMetadata.`
    parent: &'static str,
    names: &'static [&'static str],
    raw: [Option<&'a str>; FIELDS_MAX],
}

impl<'a> Object<'a> {
    /// No field at all.
    pub(super) fn empty(parent: &'static str, names: &'static [&'static str]) -> Self {
        Self { parent, names, raw: [None; FIELDS_MAX] }
    }

    /// Reads `json`, which must be one object and nothing more. What was read before an error stays
    /// in the object, so that the log can show which request was refused.
    pub(super) fn read(&mut self, json: &'a [u8]) -> Result<(), ApiError> {
        let mut duplicate = None;
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let result = deserializer
            .deserialize_map(ObjectVisitor { object: self, duplicate: &mut duplicate })
            .and_then(|()| deserializer.end());
        let Err(error) = result else { return Ok(()) };
        let whole = if self.parent.is_empty() {
            "the request body"
        } else {
            self.parent.trim_end_matches('.')
        };
        Err(invalid(match duplicate {
            Some(name) => format!("{}{name} is given twice", self.parent),
            None if error.is_data() => format!("{whole} is not a JSON object"),
            None => format!(
                "{whole} is not valid JSON: line {}, column {}",
                error.line(),
                error.column()
            ),
        }))
    }

    /// The field of this name: one of `names`, or it is absent.
    pub(super) fn field(&self, name: &'static str) -> Field<'a> {
        let index = self.names.iter().position(|n| *n == name);
        // spec: absent fields are left out. A null says the same and can mean nothing else.
        let raw =
            index.and_then(|i| self.raw.get(i).copied().flatten()).filter(|raw| *raw != "null");
        Field { parent: self.parent, name, raw }
    }
}

/// One field, absent or as it stands in the body.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    parent: &'static str,
    name: &'static str,
    raw: Option<&'a str>,
}

impl<'a> Field<'a> {
    /// For a required field that is absent.
    pub(super) fn missing(&self) -> ApiError {
        self.invalid("is missing")
    }

    /// ValidationException with the field's name before `what`.
    pub(super) fn invalid(&self, what: impl std::fmt::Display) -> ApiError {
        self.refuse(ErrorName::ValidationException, what)
    }

    /// An error with the field's name before `what`.
    pub(super) fn refuse(&self, name: ErrorName, what: impl std::fmt::Display) -> ApiError {
        ApiError::new(name, format!("{}{} {what}", self.parent, self.name))
    }

    /// The field's JSON, whatever it is.
    pub(super) fn json(&self) -> Option<&'a str> {
        self.raw
    }

    /// A text of at most `max` bytes. Not for secrets: a text with escapes passes serde_json's
    /// buffers.
    pub(super) fn text(&self, max: usize) -> Result<Option<Cow<'a, str>>, ApiError> {
        let Some(inside) = self.string()? else { return Ok(None) };
        let text = if inside.contains('\\') {
            let whole = self.raw.unwrap_or_default();
            Cow::Owned(
                serde_json::from_str(whole)
                    .map_err(|_| self.invalid("is not a string of Unicode characters"))?,
            )
        } else {
            Cow::Borrowed(inside)
        };
        if text.len() > max {
            return Err(self.refuse(
                ErrorName::UnsupportedOperationException,
                format_args!("is longer than {max} bytes"),
            ));
        }
        Ok(Some(text))
    }

    /// Bytes from Base64, at most `max`; `too_long` is the error's name for more.
    pub(super) fn bytes(
        &self,
        max: usize,
        too_long: ErrorName,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        self.decode(max, too_long, base64::decode)
    }

    /// As [`Field::bytes`], with capacity for so many `more`.
    pub(super) fn bytes_with_room(
        &self,
        max: usize,
        too_long: ErrorName,
        more: usize,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        self.decode(max, too_long, |inside, max| base64::decode_with_capacity(inside, max, more))
    }

    /// As [`Field::bytes`], of a few bytes that are no secret.
    pub(super) fn short(&self, max: usize, too_long: ErrorName) -> Result<Option<Short>, ApiError> {
        self.decode(max, too_long, base64::decode_short)
    }

    fn decode<T>(
        &self,
        max: usize,
        too_long: ErrorName,
        decode: impl FnOnce(&str, usize) -> Result<T, base64::Failure>,
    ) -> Result<Option<T>, ApiError> {
        let Some(inside) = self.string()? else { return Ok(None) };
        match decode(inside, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(base64::Failure::TooLong) => {
                Err(self.refuse(too_long, format_args!("is longer than {max} bytes")))
            }
            Err(base64::Failure::NotBase64) => {
                Err(self.invalid("is not Base64 (RFC 4648 section 4, padded)"))
            }
        }
    }

    /// What stands between the quotes.
    fn string(&self) -> Result<Option<&'a str>, ApiError> {
        let Some(raw) = self.raw else { return Ok(None) };
        match raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
            Some(inside) => Ok(Some(inside)),
            None => Err(self.invalid("is not a string")),
        }
    }
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorName::ValidationException, message)
}

struct ObjectVisitor<'o, 'a> {
    object: &'o mut Object<'a>,
    duplicate: &'o mut Option<&'static str>,
}

impl<'de> Visitor<'de> for ObjectVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(known) = map.next_key_seed(Name(self.object.names))? {
            let Some((index, name)) = known else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &'de RawValue = map.next_value()?;
            match self.object.raw.get_mut(index) {
                Some(slot @ None) => *slot = Some(value.get()),
                // Which of the two was meant, nobody can know.
                _ => {
                    *self.duplicate = Some(name);
                    return Err(A::Error::custom("duplicate field"));
                }
            }
        }
        Ok(())
    }
}

/// A key: index and name if it is known.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<(usize, &'static str)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<(usize, &'static str)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().enumerate().find(|(_, name)| *name == key))
    }
}
