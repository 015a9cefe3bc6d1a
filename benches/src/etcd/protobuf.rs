//! The few messages of etcd's API that the benches need, put together and read by hand.

use anyhow::{Context, Result};

/// Appends a field of bytes: wire type 2.
fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// `PutRequest { key = 1, value = 2 }`
pub(super) fn put_request(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(key.len() + value.len() + 8);
    put_bytes(&mut message, 1, key);
    put_bytes(&mut message, 2, value);
    message
}

/// `TxnRequest { success = 2: RequestOp { request_put = 2 } }`, without a condition.
pub(super) fn txn_request<'a>(puts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut message = Vec::new();
    for (key, value) in puts {
        let mut op = Vec::with_capacity(key.len() + value.len() + 12);
        put_bytes(&mut op, 2, &put_request(key, value));
        put_bytes(&mut message, 2, &op);
    }
    message
}

/// `RangeRequest { key = 1 }`: one key, linearizable.
pub(super) fn range_request(key: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put_bytes(&mut message, 1, key);
    message
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message.
fn fields(mut message: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    std::iter::from_fn(move || (!message.is_empty()).then(|| take_field(&mut message)))
        // What does not read ends the message: the rest of it has no meaning.
        .scan(false, |ended, field| {
            let go_on = !*ended;
            *ended = field.is_none();
            go_on.then_some(field)
        })
}

fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(message)?;
    let value = match tag & 7 {
        0 => Value::Number(take_varint(message)?),
        2 => {
            let length = usize::try_from(take_varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes_of(message: &[u8], wanted: u64) -> Result<Option<&[u8]>> {
    for field in fields(message) {
        if let (number, Value::Bytes(bytes)) = field.context("not a protobuf message")?
            && number == wanted
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn number_of(message: &[u8], wanted: u64) -> Result<u64> {
    for field in fields(message) {
        if let (number, Value::Number(value)) = field.context("not a protobuf message")?
            && number == wanted
        {
            return Ok(value);
        }
    }
    Ok(0)
}

/// `RangeResponse { kvs = 2: KeyValue { value = 5 } }`: the first value.
pub(super) fn range_value(response: &[u8]) -> Result<Option<&[u8]>> {
    let Some(pair) = bytes_of(response, 2)? else { return Ok(None) };
    Ok(Some(bytes_of(pair, 5)?.unwrap_or_default()))
}

/// `TxnResponse { succeeded = 2 }`
pub(super) fn txn_succeeded(response: &[u8]) -> Result<bool> {
    Ok(number_of(response, 2)? != 0)
}

/// `StatusResponse { header = 1: { member_id = 2 }, leader = 4 }`: member and leader.
pub(super) fn status(response: &[u8]) -> Result<(u64, u64)> {
    let header = bytes_of(response, 1)?.context("no header")?;
    Ok((number_of(header, 2)?, number_of(response, 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_reads_back() {
        let long = vec![7; 300];
        let request = txn_request([(&b"k"[..], &long[..]), (b"l", b"w")].into_iter());
        let put = bytes_of(bytes_of(&request, 2).unwrap().unwrap(), 2).unwrap().unwrap();
        assert_eq!(put, put_request(b"k", &long));
        assert_eq!(bytes_of(put, 2).unwrap().unwrap(), long);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let request = put_request(b"key", b"value");
        assert!(bytes_of(&request[..request.len() - 1], 2).is_err());
    }
}
