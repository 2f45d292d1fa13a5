//! SIGHUP: what a running process takes up of its bootstrap file (logging, limits, times, what holds for connections, the admin token), without a restart.
//!
//! What always holds: a file that is wrong, or names what can't be used, changes nothing, and its faults are said with their lines. What has changed but
//! needs a restart is said by name, at each SIGHUP. What a flag says stays as it is.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use waypost_conf::Bootstrap;

use crate::{
    admin::Tokens,
    commands::run::{access_target, tunable},
    gold::read_bootstrap,
    server::{InForce, Terms},
    state::Shared,
};

/// The bootstrap file and what stands over it.
pub(crate) struct Reload {
    /// Where the file was found; `None`: there was none.
    path: Option<PathBuf>,
    /// What it says, as far as that is in force.
    in_force: Mutex<Bootstrap>,
    /// `--access-log`.
    access_log: Option<String>,
    /// `--admin-token-file`.
    admin_token_file: Option<PathBuf>,
    /// What holds for listeners' connections, in the file's order. A guard has none of the file's.
    pub(crate) listeners: Vec<InForce>,
}

impl Reload {
    /// Of a process that begins with these settings; `path`: where they were found.
    pub(crate) fn new(
        path: Option<PathBuf>,
        in_force: &Bootstrap,
        access_log: Option<&String>,
        admin_token_file: Option<&PathBuf>,
    ) -> Self {
        Self {
            path,
            in_force: Mutex::new(in_force.clone()),
            access_log: access_log.cloned(),
            admin_token_file: admin_token_file.cloned(),
            listeners: Vec::new(),
        }
    }

    /// Opens the access log anew, and rereads the file and the admin token.
    pub(crate) fn hang_up(&self, shared: &Shared) {
        shared.access_log.reopen();
        match self.reread(shared) {
            Ok(said) => tracing::info!("SIGHUP: the access log is opened anew; {said}"),
            Err(why) => tracing::error!("SIGHUP: the access log is opened anew; nothing else is changed: {why}"),
        }
    }

    /// Of each listener, where they are others. Whom clients' certificates must be signed by is read anew each time.
    fn new_terms(&self, before: &Bootstrap, written: &Bootstrap, shared: &Shared) -> Result<Vec<Option<Terms>>, String> {
        if !before.listens_as(written) {
            return Ok(Vec::new());
        }
        let both = before.listeners.iter().zip(&written.listeners).take(self.listeners.len());
        both.map(|(before, written)| {
            let may_differ = before != written || written.client_ca.is_some();
            may_differ.then(|| Terms::of(written, &shared.certificates)).transpose()
        })
        .collect()
    }

    fn reread(&self, shared: &Shared) -> Result<String, String> {
        // A poisoned lock guards plain data that is valid after any panic.
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &self.path {
            Some(path) => read_bootstrap(path).map_err(|failed| failed.message)?,
            None => in_force.clone(),
        };
        let mut changed = in_force.tunable_differences(&written);
        changed.retain(|name| match *name {
            "log.access" => self.access_log.is_none(),
            "admin.token_file" => self.admin_token_file.is_none(),
            "listener" => !self.listeners.is_empty(),
            _ => true,
        });
        let fixed = in_force.fixed_differences(&written);
        let terms = self.new_terms(&in_force, &written, shared)?;
        let token_file = self.admin_token_file.as_ref().or(written.admin.token_file.as_ref());
        let tokens = token_file.map(|file| Tokens::read(file)).transpose()?;
        if tokens.is_none() && shared.admin.is_guarded() {
            return Err(
                "admin.token_file is gone; the admin endpoints were opened with a token, and are not opened to everybody before a restart"
                    .to_owned(),
            );
        }
        if changed.iter().any(|name| name.starts_with("log.")) {
            let target = access_target(self.access_log.as_deref(), &written.log.access);
            shared.access_log.change(&target, written.log.format).map_err(|error| format!("the access log can't be opened: {error}"))?;
        }
        if shared.admin.change(tokens) && !changed.contains(&"admin.token_file") {
            changed.push("the admin token");
        }
        shared.tunable.store(tunable(&written).into());
        for (in_force, terms) in self.listeners.iter().zip(terms) {
            if let Some(terms) = terms {
                in_force.store(terms.into());
            }
        }
        *in_force = in_force.clone().tuned_by(&written);
        if !fixed.is_empty() {
            tracing::warn!(
                "changed, but not in force before a restart: {}; `waypost run --upgrade` is one that nobody notices",
                fixed.join(", ")
            );
        }
        Ok(match (&self.path, changed.is_empty()) {
            (None, _) => "there is no bootstrap file to reread".to_owned(),
            (Some(path), true) => format!("{} was reread, and changes nothing", path.display()),
            (Some(path), false) => format!("{} was reread; in force now: {}", path.display(), changed.join(", ")),
        })
    }
}
