//! What a value looks like on the disk: a checksum in front of it, over the value and its place.

use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;

const CHECKSUM_BYTES: usize = 4;

/// The value with its checksum. `place` names the value, so that one that got to another's place is noticed.
pub(super) fn seal(place: &[u64], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    sealed.extend(checksum(place, value).to_le_bytes());
    sealed.extend(value);
    sealed
}

/// The value, if it is what was written there.
pub(super) fn open(place: &[u64], sealed: &[u8]) -> Result<Bytes, StoreError> {
    let (stored, value) = sealed.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged(place))?;
    if u32::from_le_bytes(*stored) != checksum(place, value) {
        return Err(damaged(place));
    }
    Ok(Bytes::copy_from_slice(value))
}

fn checksum(place: &[u64], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in place {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(value);
    hasher.finalize()
}

fn damaged(place: &[u64]) -> StoreError {
    StoreError::Damaged(Arc::from(format!("the value at {place:?} does not match its checksum")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_and_misplacement_are_noticed() {
        let sealed = seal(&[7, 1], b"value");
        assert_eq!(open(&[7, 1], &sealed).unwrap(), b"value".as_slice());
        assert!(open(&[7, 2], &sealed).is_err(), "another's place");
        for at in 0..sealed.len() {
            let mut torn = sealed.clone();
            torn[at] ^= 0x10;
            assert!(open(&[7, 1], &torn).is_err(), "bit at {at}");
        }
        assert!(open(&[7, 1], &sealed[..3]).is_err());
    }
}
