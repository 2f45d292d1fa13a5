//! A snapshot: any bytes are loaded or refused, and what was loaded is the same once written and loaded again.

use waypost_policy::{Source, TableId};
use waypost_watcher::{
    applier::Applier,
    snapshot::{decode_snapshot, encode_snapshot},
};
use xxhash_rust::xxh3::xxh3_128;

/// Magic and version.
const BEGIN: usize = 12;

/// What stands between a snapshot's version and its checksum, which are added, or nothing else would ever be read; the first byte is a setting.
///
/// # Panics
/// If what was loaded is another one after it was written.
pub fn snapshot(bytes: &[u8]) {
    let _ = decode_snapshot(bytes, false);
    let Some((setting, content)) = bytes.split_first() else { return };
    let allow_empty = setting & 1 == 1;
    let nothing = encode_snapshot(&Applier::new(TableId::etcd(1, 0), Source::Watch, false)).unwrap_or_default();
    let mut whole = [&nothing[..BEGIN], content].concat();
    whole.extend(xxh3_128(&whole).to_le_bytes());
    let Ok(mut loaded) = decode_snapshot(&whole, allow_empty) else { return };
    let _ = loaded.applier.publish();
    let again = encode_snapshot(&loaded.applier).map(|written| decode_snapshot(&written, allow_empty));
    let Ok(Ok(mut again)) = again else {
        assert!(again.is_ok(), "what was loaded can be written");
        assert!(again.is_ok_and(|again| again.is_ok()), "what was written can be loaded");
        return;
    };
    let shown = |applier: &mut Applier| {
        let table = applier.publish();
        (applier.digest(), applier.revision(), applier.id().clone(), applier.route_count(), applier.bad().len(), table.services().len())
    };
    assert_eq!(shown(&mut again.applier), shown(&mut loaded.applier));
}
