//! What is doubtful in the records of a table but not wrong, put into words when somebody asks for it: a publish has no time for it.

use waypost_conf::{Name, escaped};

use super::Table;
use crate::matching::Clash;

/// A doubt about a record that is not an error; shown in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The record's key below the prefix.
    pub key: String,
    /// What is doubtful, and what would be right.
    pub message: String,
}

impl Warning {
    pub(super) fn of_clash(clash: &Clash) -> Self {
        Self {
            key: format!("services/{}", clash.loser),
            message: format!(
                "host \"{}\" with path prefix \"{}\" is service \"{}\"'s, whose record is older; these requests go there",
                clash.host, clash.path_prefix, clash.winner
            ),
        }
    }

    pub(super) fn of_policy(service: &Name, policy: &Name) -> Self {
        Self { key: format!("services/{service}"), message: format!("policy \"{policy}\" has no record; the default policy applies") }
    }
}

impl Table {
    /// What is doubtful in the records but not wrong: clashes, dangling names, slots that nobody covers. Worked out when it is asked for first.
    pub fn warnings(&self) -> &[Warning] {
        self.warnings.get_or_init(|| self.doubtful())
    }

    fn doubtful(&self) -> Vec<Warning> {
        let owners = self.services.iter().filter_map(|service| {
            let owner = service.default_owner.filter(|owner| self.upstream(*owner).is_none())?;
            let owner = self.upstream_name(owner)?;
            let message = format!("default_owner \"{owner}\" has no record; put upstreams/{owner}");
            Some(Warning { key: format!("services/{}", service.name), message })
        });
        let endpoints = self.homeless.iter().map(|upstream| Warning {
            key: format!("endpoints/{upstream}"),
            message: format!("upstream \"{upstream}\" has no record, so its endpoints are not used; put upstreams/{upstream}"),
        });
        let routes = self.services.iter().flat_map(|service| {
            let doubts = self.routes.doubts(service.id, service.default_owner.is_some());
            doubts.into_iter().map(|(record, message)| {
                let key = record.map(|record| format!("routes/{}/{}", service.name, escaped(&record)));
                Warning { key: key.unwrap_or_else(|| format!("services/{}", service.name)), message }
            })
        });
        self.doubts.iter().cloned().chain(owners).chain(endpoints).chain(routes).collect()
    }
}
