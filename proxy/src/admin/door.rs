//! Who may ask the admin endpoints: whoever can reach them on loopback; elsewhere whoever shows a token.
//!
//! What always holds: an address that other machines can reach is not opened without a token unless somebody has said that this is meant; a token is
//! compared in a time that says nothing of it, and shown nowhere.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use hyper::{HeaderMap, header::AUTHORIZATION};
use subtle::{Choice, ConstantTimeEq};
use waypost_watcher::files::why;

/// A token of fewer characters could be guessed.
const LEAST_TOKEN: usize = 16;

/// The tokens that open, if any are needed.
#[derive(Debug, Default)]
pub(crate) struct Door(ArcSwapOption<Tokens>);

/// Those of one file.
#[derive(PartialEq, Eq)]
pub(crate) struct Tokens(Vec<Vec<u8>>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Those of a file, one a line, so that a new one can be given out before the old one is taken away.
    ///
    /// # Errors
    /// A sentence that shows none of them.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("the admin token in {place} can't be read: {}", why(&error)))?;
        let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect();
        let is_usable = |token: &Vec<u8>| token.len() >= LEAST_TOKEN && token.iter().all(u8::is_ascii_graphic);
        if tokens.is_empty() || !tokens.iter().all(is_usable) {
            return Err(format!(
                "{place} holds no admin token: a line of {LEAST_TOKEN} or more letters, digits and signs would be right, as `openssl rand -hex 32` \
                 prints it"
            ));
        }
        Ok(Self(tokens))
    }

    /// The first, for who has to show one.
    pub(crate) fn first(&self) -> String {
        self.0.first().map(|token| String::from_utf8_lossy(token).into_owned()).unwrap_or_default()
    }
}

impl Door {
    /// Opens to the tokens of a file; to everybody without one.
    ///
    /// # Errors
    /// A sentence, if the file can't be used.
    pub(crate) fn new(file: Option<&PathBuf>) -> Result<Self, String> {
        let door = Self::default();
        door.change(file.map(|file| Tokens::read(file)).transpose()?);
        Ok(door)
    }

    /// From now on these open; whether they are others than before.
    pub(crate) fn change(&self, tokens: Option<Tokens>) -> bool {
        let before = self.0.swap(tokens.map(Arc::new));
        before != *self.0.load()
    }

    /// Whether a token has to be shown.
    pub(crate) fn is_guarded(&self) -> bool {
        self.0.load().is_some()
    }

    /// Whether a request with these fields may be answered.
    pub(super) fn opens_to(&self, headers: &HeaderMap) -> bool {
        let tokens = self.0.load();
        let Some(tokens) = tokens.as_deref() else { return true };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, given)) = given.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        let given = given.trim_ascii();
        let is_one = tokens.0.iter().fold(Choice::from(0), |is_one, token| is_one | token.ct_eq(given));
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(is_one)
    }
}

/// Whether the endpoints may be opened there.
///
/// # Errors
/// A sentence that says what would be right.
pub(crate) fn check_address(address: SocketAddr, is_guarded: bool, is_meant: bool) -> Result<(), String> {
    if address.ip().to_canonical().is_loopback() || is_guarded || is_meant {
        return Ok(());
    }
    Err(format!(
        "other machines can reach the admin endpoints on {address}, and nothing guards them; name a file with a token in token_file under [admin] or with \
         --admin-token-file, take an address like 127.0.0.1:{}, or say insecure = true under [admin] if that is meant",
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn given(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn any_token_of_the_file_opens_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n\n  another-of-16-or-more \n")).unwrap();
        let door = Door::new(Some(&file)).unwrap();
        for right in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}"), "Bearer another-of-16-or-more".to_owned()] {
            assert!(door.opens_to(&given(&[&right])), "{right}");
        }
        let (first, basic) = (format!("Bearer {TOKEN}"), format!("Basic {TOKEN}"));
        let longer = format!("{first}0");
        for wrong in [&[][..], &["Bearer"], &["Bearer "], &[&first[..20]], &[&longer], &[&basic], &[TOKEN], &[&first, &first]] {
            assert!(!door.opens_to(&given(wrong)), "{wrong:?}");
        }
        door.change(None);
        assert!(door.opens_to(&given(&[])));
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert!(Door::new(Some(&file)).unwrap_err().contains("can't be read"));
        for wrong in ["", "\n \n", "short", "with a space in the middle of it", &format!("{TOKEN}\nshort")] {
            std::fs::write(&file, wrong).unwrap();
            let said = Door::new(Some(&file)).unwrap_err();
            assert!(said.contains("holds no admin token") && !said.contains(TOKEN), "{wrong:?}: {said}");
        }
    }

    #[test]
    fn only_loopback_is_open_to_everybody() {
        for (address, is_open) in
            [("127.0.0.1:9901", true), ("[::1]:9901", true), ("[::ffff:127.0.0.1]:9901", true), ("0.0.0.0:9901", false)]
        {
            let address = address.parse().unwrap();
            assert_eq!(check_address(address, false, false).is_ok(), is_open, "{address}");
            assert!(check_address(address, true, false).is_ok() && check_address(address, false, true).is_ok());
        }
    }
}
