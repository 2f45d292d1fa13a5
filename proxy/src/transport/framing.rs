//! A request's head as this transport takes it: what [`waypost_policy::framing`] lets through, less what the parser behind can't carry.
//!
//! What passes here passes pingora's parser unchanged, or that would answer in its own way: a property holds the two together.

use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_http::RequestHeader;
use waypost_policy::{
    Code,
    framing::{self, CheckedHead},
};

/// Checks a whole head, its empty line included.
///
/// # Errors
/// The code to answer with: `BadRequest`, or `HeaderTooLarge` for too many fields.
pub(crate) fn check_head(head: &[u8]) -> Result<CheckedHead<'_>, Code> {
    let checked = framing::check_head(head)?;
    if has_uncarried(checked.target) { Err(Code::BadRequest) } else { Ok(checked) }
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
mod tests;
