//! Where the gold copy is, from flags, environment and bootstrap file, as the watcher's own settings.
//!
//! This is the one place where the bootstrap file is found and read, and where conf's types become those of the other crates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use waypost_conf::{Bootstrap, Diagnostic, GoldSource, parse_bootstrap};
use waypost_watcher::{Credentials, EtcdPlace, GoldPlace};

use crate::{cli::GoldArgs, failure::Failed};

/// Where etcd is if nothing says otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
/// What all keys start with if nothing says otherwise.
pub(crate) const DEFAULT_PREFIX: &str = "/waypost/v1";
/// Where a bootstrap file is looked for without `--config`.
const BOOTSTRAP_PLACES: [&str; 2] = ["waypost.toml", "/etc/waypost/waypost.toml"];

/// The bootstrap file in force, if there is one.
pub(crate) struct BootstrapFile {
    /// Where it was found.
    pub(crate) path: Option<PathBuf>,
    /// What it says; the defaults where there is none.
    pub(crate) content: Bootstrap,
}

/// Finds and reads the bootstrap file.
///
/// # Errors
/// Exit 2 if a named file can't be read, or a file has faults.
pub(crate) fn bootstrap(args: &GoldArgs) -> Result<BootstrapFile, Failed> {
    let found = match &args.config {
        Some(path) => Some(path.clone()),
        None => BOOTSTRAP_PLACES.iter().map(PathBuf::from).find(|path| path.is_file()),
    };
    let Some(path) = found else {
        let content = parse_bootstrap("", "").map_err(|faults| Failed::unusable(lines(&faults)))?;
        return Ok(BootstrapFile { path: None, content });
    };
    let name = path.display().to_string();
    let text = fs::read_to_string(&path).map_err(|error| Failed::unusable(format!("{name}: the bootstrap file can't be read: {error}")))?;
    let content = parse_bootstrap(&name, &text).map_err(|faults| Failed::unusable(lines(&faults)))?;
    Ok(BootstrapFile { path: Some(path), content })
}

/// Where the gold copy is: flags and environment first, then the bootstrap file, then etcd on this machine.
///
/// # Errors
/// Exit 2 if the password file can't be read or an endpoint is no URL.
pub(crate) fn place(args: &GoldArgs, bootstrap: &Bootstrap) -> Result<GoldPlace, Failed> {
    let written = bootstrap.gold.as_ref();
    let source = match &args.gold {
        Some(given) => match given.strip_prefix("file:") {
            Some(path) => GoldSource::File(path.into()),
            None => GoldSource::Etcd { endpoints: given.split(',').map(|url| url.trim().to_owned()).collect() },
        },
        None => {
            written.map(|gold| gold.source.clone()).unwrap_or_else(|| GoldSource::Etcd { endpoints: vec![DEFAULT_ENDPOINT.to_owned()] })
        }
    };
    let endpoints = match source {
        GoldSource::File(path) => return Ok(GoldPlace::File(path)),
        GoldSource::Etcd { endpoints } => endpoints,
    };
    let mut in_url = None;
    let mut bare = Vec::with_capacity(endpoints.len());
    for endpoint in &endpoints {
        let (url, user) = without_user(endpoint);
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Failed::unusable(format!(
                "\"{url}\" is no place of a gold copy; write http://host:2379, https://host:2379 or file:PATH"
            )));
        }
        bare.push(url);
        in_url = in_url.or(user);
    }
    let or_written = |given: &Option<PathBuf>, written: Option<&PathBuf>| given.clone().or_else(|| written.cloned());
    let password_file = or_written(&args.gold_password_file, written.and_then(|gold| gold.password_file.as_ref()));
    Ok(GoldPlace::Etcd(EtcdPlace {
        endpoints: bare,
        prefix: args.prefix.clone().or_else(|| written.map(|gold| gold.prefix.clone())).unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        credentials: Credentials {
            password: match (password_file.as_deref(), &in_url) {
                (Some(path), _) => Some(password(path)?),
                (None, in_url) => in_url.as_ref().map(|(_, password)| password.clone()),
            },
            user: args.gold_user.clone().or_else(|| written.and_then(|gold| gold.user.clone())).or(in_url.map(|(user, _)| user)),
            ca: or_written(&args.gold_ca, written.and_then(|gold| gold.ca.as_ref())),
            cert: or_written(&args.gold_cert, written.and_then(|gold| gold.cert.as_ref())),
            key: or_written(&args.gold_key, written.and_then(|gold| gold.key.as_ref())),
        },
    }))
}

/// The etcd behind a gold copy, for commands that write or list.
///
/// # Errors
/// Exit 2 if the gold copy is a file: there is no store then.
pub(crate) fn store_place(args: &GoldArgs) -> Result<EtcdPlace, Failed> {
    let bootstrap = bootstrap(args)?;
    match place(args, &bootstrap.content)? {
        GoldPlace::Etcd(place) => Ok(place),
        GoldPlace::File(path) => Err(Failed::unusable(format!(
            "the gold copy is the file {}; edit it instead, or name an etcd with --gold http://host:2379",
            path.display()
        ))),
    }
}

/// An endpoint without the user and password that may stand in it, and these: from here on nothing that names an endpoint, in an error, a
/// log or `/status`, can show them.
fn without_user(endpoint: &str) -> (String, Option<(String, String)>) {
    let (scheme, rest) = endpoint.split_once("://").map_or(("", endpoint), |(scheme, rest)| (scheme, rest));
    // Up to the last `@` before the path: a password that was not percent-encoded may hold one.
    let authority = rest.split('/').next().unwrap_or_default();
    let Some(at) = authority.rfind('@').or_else(|| rest.rfind('@')) else { return (endpoint.to_owned(), None) };
    let (user, host) = (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default());
    let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let url = if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") };
    (url, Some((decoded(user), decoded(password))))
}

fn password(path: &Path) -> Result<String, Failed> {
    let read = fs::read_to_string(path);
    let read = read.map_err(|error| Failed::unusable(format!("{}: the etcd password file can't be read: {error}", path.display())))?;
    Ok(read.trim_end_matches(['\r', '\n']).to_owned())
}

/// Faults as lines.
pub(crate) fn lines(faults: &[Diagnostic]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_becomes_a_credential_and_is_in_no_endpoint() {
        let user = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        for (given, endpoint, expected) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379", None),
            ("https://root:s3cret@etcd:2379", "https://etcd:2379", user("root", "s3cret")),
            ("http://root:a%40b@etcd:2379", "http://etcd:2379", user("root", "a@b")),
            ("http://root:a@b@etcd:2379", "http://etcd:2379", user("root", "a@b")),
            ("http://root:a/b@etcd:2379", "http://etcd:2379", user("root", "a/b")),
            ("root:s3cret@etcd:2379", "etcd:2379", user("root", "s3cret")),
        ] {
            assert_eq!(without_user(given), (endpoint.to_owned(), expected), "{given}");
        }
    }
}
