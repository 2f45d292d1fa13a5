//! Where the gold copy is, from flags, environment and bootstrap file, as the watcher's own settings.
//!
//! This is the one place where the bootstrap file is found and read, and where conf's types become those of the other crates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use waypost_conf::{Bootstrap, DEFAULT_PREFIX, Diagnostic, GoldSource, check_endpoint, check_prefix, parse_bootstrap};
use waypost_watcher::{Credentials, EtcdPlace, GoldPlace, files::why};

use crate::{cli::GoldArgs, failure::Failed};

/// Where etcd is if nothing says otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
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
        return Ok(BootstrapFile { path: None, content: Bootstrap::default() });
    };
    let content = read_bootstrap(&path)?;
    Ok(BootstrapFile { path: Some(path), content })
}

/// Reads a bootstrap file.
///
/// # Errors
/// Exit 2 if it can't be read, or has faults, each with its line.
pub(crate) fn read_bootstrap(path: &Path) -> Result<Bootstrap, Failed> {
    let name = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|error| Failed::unusable(format!("the bootstrap file {name} can't be read: {}", why(&error))))?;
    parse_bootstrap(&name, &text).map_err(|faults| Failed::unusable(lines(&faults)))
}

/// Where the gold copy is: flags and environment first, then the bootstrap file, then etcd on this machine.
///
/// # Errors
/// Exit 2 if an endpoint is no URL, a file can't be read, or what is given does not fit together.
pub(crate) fn place(args: &GoldArgs, bootstrap: &Bootstrap) -> Result<GoldPlace, Failed> {
    let written = bootstrap.gold.as_ref();
    let source = match &args.gold {
        Some(given) => match given.strip_prefix("file:") {
            Some("") => return Err(Failed::unusable("--gold file: names no file; file:routes.yaml would be right")),
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
    let or_written = |given: &Option<PathBuf>, written: Option<&PathBuf>| given.clone().or_else(|| written.cloned());
    let credentials = Credentials {
        user: args.gold_user.clone().or_else(|| written.and_then(|gold| gold.user.clone())),
        password_file: or_written(&args.gold_password_file, written.and_then(|gold| gold.password_file.as_ref())),
        ca: or_written(&args.gold_ca, written.and_then(|gold| gold.ca.as_ref())),
        cert: or_written(&args.gold_cert, written.and_then(|gold| gold.cert.as_ref())),
        key: or_written(&args.gold_key, written.and_then(|gold| gold.key.as_ref())),
    };
    endpoints
        .iter()
        .try_for_each(|endpoint| check_endpoint(endpoint))
        .map_err(|fault| Failed::unusable(format!("--gold: {fault}; file:PATH names a record file")))?;
    check_credentials(&endpoints, &credentials).map_err(Failed::unusable)?;
    let prefix = args.prefix.clone().or_else(|| written.map(|gold| gold.prefix.clone())).unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
    check_prefix(&prefix).map_err(|fault| Failed::unusable(format!("--prefix: {fault}")))?;
    Ok(GoldPlace::Etcd(EtcdPlace { endpoints, prefix, credentials }))
}

/// Half of a pair, or a key for a door that has no lock, would be ignored silently.
fn check_credentials(endpoints: &[String], credentials: &Credentials) -> Result<(), String> {
    let Credentials { user, password_file, ca, cert, key } = credentials;
    let half = |missing: &str, given: &str| Err(format!("{given} is given without {missing}; both or neither would be right"));
    match (user, password_file) {
        (Some(_), None) => return half("--gold-password-file", "--gold-user"),
        (None, Some(_)) => return half("--gold-user", "--gold-password-file"),
        _ => {}
    }
    match (cert, key) {
        (Some(_), None) => return half("--gold-key", "--gold-cert"),
        (None, Some(_)) => return half("--gold-cert", "--gold-key"),
        _ => {}
    }
    // Read again for each connection; that it is there is known at the start.
    credentials.user_and_password()?;
    let plain = endpoints.iter().find(|endpoint| endpoint.starts_with("http://"));
    if let (Some(plain), true) = (plain, ca.is_some() || cert.is_some()) {
        return Err(format!("--gold-ca and --gold-cert are for https, but {plain} is plain; https:// would be right"));
    }
    let secure = endpoints.iter().find(|endpoint| endpoint.starts_with("https://"));
    if let (Some(secure), None) = (secure, ca) {
        return Err(format!("{secure} needs --gold-ca FILE: the certificates (PEM) that etcd's own must be signed by"));
    }
    for (what, path, mark) in
        [("certificates", ca, "BEGIN CERTIFICATE"), ("certificate", cert, "BEGIN CERTIFICATE"), ("private key", key, "PRIVATE KEY")]
    {
        let Some(path) = path else { continue };
        let place = path.display();
        let read = fs::read(path).map_err(|error| format!("the {what} for etcd in {place} can't be read: {}", why(&error)))?;
        if !String::from_utf8_lossy(&read).contains(mark) {
            return Err(format!("{place} holds no {what} for etcd; PEM with \"{mark}\" in it would be right"));
        }
    }
    Ok(())
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

/// Faults as lines.
pub(crate) fn lines(faults: &[Diagnostic]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
