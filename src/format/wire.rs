//! The wire form of protobuf, read in place: for what must be bounded before it is allocated, or read fast.

use std::ops::Range;

use crate::format::{FormatError, invalid};

/// A field's value as it lies in the message.
pub(crate) enum Value {
    /// Wire type 0.
    Number(u64),
    /// Wire type 2: where the bytes lie, relative to the message.
    Span(Range<usize>),
    /// Wire types 1 and 5: read past.
    Fixed,
}

/// Walks the fields of one message.
pub(crate) struct Fields<'a> {
    what: &'static str,
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, message: &'a [u8]) -> Fields<'a> {
        Fields { what, message, at: 0 }
    }

    /// The next field's number and value; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value)>, FormatError> {
        if self.at == self.message.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or_else(|| invalid(self.what, "malformed field number"))?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let start = self.at;
                self.skip(length)?;
                Value::Span(start..self.at)
            }
            5 => self.skip(4)?,
            _ => return Err(invalid(self.what, "malformed field type")),
        };
        Ok(Some((number, value)))
    }

    fn skip(&mut self, length: usize) -> Result<Value, FormatError> {
        if length > self.message.len() - self.at {
            return Err(invalid(self.what, "a field reaches past the end"));
        }
        self.at += length;
        Ok(Value::Fixed)
    }

    fn varint(&mut self) -> Result<u64, FormatError> {
        let mut out = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at).ok_or_else(|| invalid(self.what, "truncated"))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            out |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(out);
            }
        }
        Err(invalid(self.what, "a number is too long"))
    }
}

/// Refuses a message that holds field `number` more than `max` times, or (where `least` is given) in fewer bytes than
/// any true one has: a few bytes must not unfold into much memory.
pub(crate) fn verify_repeated(
    what: &'static str,
    message: &[u8],
    number: u32,
    max: usize,
    least: usize,
) -> Result<(), FormatError> {
    let mut fields = Fields::new(what, message);
    let mut count = 0;
    while let Some((found, value)) = fields.next()? {
        if found != number {
            continue;
        }
        count += 1;
        let length = match value {
            Value::Span(span) => span.len(),
            Value::Number(_) | Value::Fixed => 0,
        };
        if count > max || length < least {
            return Err(invalid(what, "more items than its length can hold"));
        }
    }
    Ok(())
}

/// Appends a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// How many bytes [`put_varint`] appends.
pub(crate) fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a field of bytes; an empty one is left out, as protobuf does.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, u64::from(number << 3 | 2));
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}
