//! A request's head as this transport takes it: what [`waypost_policy::framing`] lets through, less what the parser behind can't carry.
//!
//! What passes here passes pingora's parser unchanged, or that would answer in its own way: a property holds the two together.

use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_http::RequestHeader;
use waypost_policy::{
    Code,
    framing::{CheckedHead, Plain},
};

/// Checks a whole head, its empty line included.
///
/// # Errors
/// The code to answer with: `BadRequest`, or `HeaderTooLarge` for too many fields.
pub(crate) fn check_head(head: &[u8]) -> Result<CheckedHead<'_>, Code> {
    check_plain_head(head).map(|(checked, _)| checked)
}

/// The same; with its places if it is plain.
pub(crate) fn check_plain_head(head: &[u8]) -> Result<(CheckedHead<'_>, Option<Plain>), Code> {
    let (checked, plain) = Plain::check(head)?;
    if has_uncarried(checked.target) { Err(Code::BadRequest) } else { Ok((checked, plain)) }
}

/// Whether the general transport's own parser would refuse the target or change it (it cuts a fragment off, knows only UTF-8, and
/// has its own idea of an authority). What it takes passes as it came, byte for byte; what it does not is refused here, with an answer of ours.
fn has_uncarried(target: &[u8]) -> bool {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._~%?=&-".contains(b);
    if target.first() == Some(&b'/') && target.iter().all(is_plain) {
        return false;
    }
    let is_kept = || {
        RequestHeader::build_no_case("GET", target, None)
            .is_ok_and(|head| head.raw_path() == target && validate_request_authority(&head).is_ok())
    };
    std::str::from_utf8(target).is_err() || !is_kept()
}

#[cfg(test)]
mod tests {
    use pingora_core::protocols::http::ServerSession;
    use proptest::prelude::*;
    use waypost_policy::framing::MAX_HEAD_BYTES;

    use super::*;

    /// What the general transport's own parser makes of a head: the target and the number of fields, or `None` if it refuses.
    async fn behind(head: &[u8]) -> Option<(Vec<u8>, usize)> {
        let (mut client, server) = tokio::io::duplex(MAX_HEAD_BYTES);
        tokio::io::AsyncWriteExt::write_all(&mut client, head).await.ok()?;
        let mut session = ServerSession::new_http1(Box::new(server));
        session.read_request().await.ok()?.then(|| (session.req_header().raw_path().to_vec(), session.req_header().headers.len()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default() })]

        /// Or it would answer in its own way, or mean something else.
        #[test]
        fn what_passes_is_taken_by_the_parser_behind_and_means_the_same(
            method in prop_oneof![Just("GET"), Just("OPTIONS"), Just("m!"), Just("PUT")],
            target in prop_oneof!["[!-~]{1,8}", "/[ -~]{0,12}", "http://[a-zA-Z%:.]{1,5}/?", Just("*".to_owned()), "/[^\\x00-\\x1f ]{0,4}"],
            version in prop_oneof![Just("1.1"), Just("1.0")],
            host in prop_oneof![Just(None), "[a-c%!$&'()*+;=~._:-]{0,6}".prop_map(Some), "\\[[:a-f0-9.%]{0,5}\\](:[0-9]{0,6})?".prop_map(Some)],
            fields in proptest::collection::vec(("[A-Za-z!#$%&'*+.^_`|~-]{1,6}", "[ -~\\t]{0,8}"), 0..4),
            special in prop_oneof![
                Just(""), Just("Content-Length: 007\r\n"), Just("Content-Length:\t18446744073709551615 \r\n"), Just("Transfer-Encoding: CHUNKED\r\n"),
                Just("Connection: a,, b\r\nConnection: keep-alive\r\n"), Just("Upgrade: x\r\nConnection: upgrade\r\n"), Just("Expect: 100-continue\r\n"),
            ],
        ) {
            let host = host.map(|host| format!("Host: {host}\r\n")).unwrap_or_default();
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("{method} {target} HTTP/{version}\r\n{host}{fields}{special}\r\n");
            if check_head(head.as_bytes()).is_err() {
                return Ok(());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let behind = runtime.block_on(behind(head.as_bytes()));
            let fields = head.lines().count() - 2;
            prop_assert_eq!(behind, Some((target.into_bytes(), fields)), "{:?}", head);
        }
    }
}
