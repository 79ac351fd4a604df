//! Variable-length integers of RFC 9000 §16: the two top bits of the first byte give the length.

use bytes::BufMut;

/// Largest value that can be written.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// How many bytes `value` takes.
pub(crate) const fn len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value`, which must not exceed [`MAX`].
pub(crate) fn put(out: &mut impl BufMut, value: u64) {
    debug_assert!(value <= MAX, "varint out of range");
    match len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Reads a value from the front of `input`; returns it and its length, or `None` while bytes are missing.
pub(crate) fn get(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let len = 1usize << (first >> 6);
    let bytes = input.get(..len)?;
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_9000_appendix_a_examples() {
        assert_eq!(
            get(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
            Some((151_288_809_941_952_652, 8))
        );
        assert_eq!(get(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(get(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(get(&[0x25]), Some((37, 1)));
        assert_eq!(get(&[0x40, 0x25]), Some((37, 2)));
        assert_eq!(get(&[0x40]), None);
        assert_eq!(get(&[]), None);
    }

    proptest! {
        #[test]
        fn round_trips(value in 0..=MAX) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(get(&out), Some((value, out.len())));
        }
    }
}
