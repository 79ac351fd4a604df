//! What a recovery from a lost quorum leaves in the objects.

use bytes::Bytes;

use super::codec::CodecError;
use super::place::{Epoch, LogOffset};

/// Recoveries that one log remembers; beyond, the oldest two are told as one.
pub(super) const RECOVERIES_MAX: usize = 8;

/// A recovery from a lost quorum, as a log remembers it: entries that the lost members had acknowledged may be gone, and
/// others may be at their offsets now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRecovery {
    /// The epoch that the recovery began.
    pub epoch: Epoch,
    /// Entries below this offset are what they were; from here on they may be others than before.
    pub from: LogOffset,
}

/// One of them on the wire and on the disk, in bytes.
const RECOVERY_BYTES: usize = 16;

pub(crate) fn pack(recoveries: &[LogRecovery]) -> Bytes {
    let each =
        recoveries.iter().map(|recovery| [recovery.epoch.0.to_be_bytes(), recovery.from.0.to_be_bytes()]);
    each.flatten().flatten().collect::<Vec<u8>>().into()
}

/// # Errors
/// [`CodecError::CutShort`] if that is no whole number of them.
pub(crate) fn unpack(packed: &Bytes) -> Result<Vec<LogRecovery>, CodecError> {
    let (recoveries, rest) = packed.as_chunks::<RECOVERY_BYTES>();
    if !rest.is_empty() {
        return Err(CodecError::CutShort("recoveries"));
    }
    let read = |packed: &[u8; RECOVERY_BYTES]| {
        let both = u128::from_be_bytes(*packed);
        LogRecovery { epoch: Epoch((both >> 64) as u64), from: LogOffset(both as u64) }
    };
    Ok(recoveries.iter().map(read).collect())
}

/// Notes one more.
pub(super) fn note(recoveries: &mut Vec<LogRecovery>, recovery: LogRecovery) {
    recoveries.push(recovery);
    if recoveries.len() > RECOVERIES_MAX {
        let oldest = recoveries.remove(0);
        // Who has not looked since the oldest is told of too much rather than of too little.
        recoveries[0].from = recoveries[0].from.min(oldest.from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_the_oldest_are_told_as_one() {
        let mut recoveries = Vec::new();
        let recovery = |epoch, from| LogRecovery { epoch: Epoch(epoch), from: LogOffset(from) };
        for epoch in 1..=9 {
            note(&mut recoveries, recovery(epoch, 10 * epoch));
        }
        assert_eq!(recoveries.len(), RECOVERIES_MAX);
        assert_eq!(recoveries[0], recovery(2, 10));
        assert_eq!(recoveries[7], recovery(9, 90));
        let packed = pack(&recoveries);
        assert_eq!(unpack(&packed), Ok(recoveries));
        assert_eq!(unpack(&packed.slice(1..)), Err(CodecError::CutShort("recoveries")));
    }
}
