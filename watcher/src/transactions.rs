//! Cutting many changes into etcd transactions: as few as fit, in order. Pure.

use std::ops::Range;

use crate::store::Change;

/// etcd's own limit on the operations of a transaction, unless its operator raised it.
pub const MAX_TXN_OPERATIONS: usize = 128;
/// What a transaction may weigh: etcd refuses requests above 1.5 MiB, unless its operator raised it; the rest is for what frames them.
pub const MAX_TXN_BYTES: usize = 1_400_000;
/// What one change costs beside its key and value: lengths and tags of a comparison, a put, and a read for the case that it fails.
const FRAME_BYTES: usize = 96;

/// The parts of a list of changes that are one transaction each. `prefix_bytes` stand before every key.
pub fn cut(changes: &[Change], prefix_bytes: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, change) in changes.iter().enumerate() {
        let weight = weight(change, prefix_bytes);
        match parts.last_mut() {
            Some(part) if part.len() < MAX_TXN_OPERATIONS && bytes + weight <= MAX_TXN_BYTES => {
                part.end = at + 1;
                bytes += weight;
            }
            _ => {
                parts.push(at..at + 1);
                bytes = weight;
            }
        }
    }
    parts
}

/// The key stands in the comparison, in the put, and in the read for the case that it fails.
fn weight(change: &Change, prefix_bytes: usize) -> usize {
    3 * (prefix_bytes + change.key.len()) + change.value.as_ref().map_or(0, Vec::len) + FRAME_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes(sizes: &[usize]) -> Vec<Change> {
        sizes.iter().map(|size| Change { key: b"routes/s/k".to_vec(), value: Some(vec![b' '; *size]), read_at: 0 }).collect()
    }

    #[test]
    fn what_fits_is_one_transaction() {
        let records_in_each = |sizes: &[usize]| cut(&changes(sizes), 11).iter().map(Range::len).collect::<Vec<_>>();
        assert_eq!(records_in_each(&[]), [0; 0]);
        assert_eq!(records_in_each(&[10; 128]), [128]);
        assert_eq!(records_in_each(&[10; 129]), [128, 1]);
        assert_eq!(records_in_each(&[700_000; 2]), [1, 1], "etcd's limit on a request's size");
        assert_eq!(records_in_each(&[1_048_576, 10, 10]), [3]);
    }

    proptest! {
        #[test]
        fn every_change_is_in_one_part_and_no_part_is_too_large_or_needlessly_small(
            sizes in proptest::collection::vec(prop_oneof![0usize..2000, 0usize..1_048_576], 0..400), prefix in 1usize..100
        ) {
            let changes = changes(&sizes);
            let parts = cut(&changes, prefix);
            prop_assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..changes.len()).collect::<Vec<_>>());
            let bytes = |part: &Range<usize>| changes[part.clone()].iter().map(|change| weight(change, prefix)).sum::<usize>();
            for part in &parts {
                prop_assert!(part.len() <= MAX_TXN_OPERATIONS && (bytes(part) <= MAX_TXN_BYTES || part.len() == 1));
            }
            for (one, next) in parts.iter().zip(parts.iter().skip(1)) {
                let first = next.start..next.start + 1;
                prop_assert!(one.len() == MAX_TXN_OPERATIONS || bytes(one) + bytes(&first) > MAX_TXN_BYTES);
            }
        }
    }
}
