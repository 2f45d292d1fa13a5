//! A request that would be routed, made from the table itself: what a person is told to try.

use waypost_conf::{HostPattern, KeySource, TemplateSegment};

use super::{Service, Table};

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The `Host`; `None`: any will do.
    pub host: Option<String>,
    /// Path and query.
    pub path: String,
    /// A header that carries the routing key.
    pub header: Option<(String, String)>,
}

impl Table {
    /// A request for a service, with the key of one of its routes, else any key. `None` if a shell could not take the key as it is.
    pub fn example(&self, service: &Service) -> Option<Example> {
        let entry = service.matches.first()?;
        let host = entry.hosts.first().map(|host| match host {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Wildcard(parent) => format!("x.{parent}"),
        });
        let mut example = Example { host, path: entry.path_prefix.as_str().to_owned(), header: None };
        let Some(source) = &service.key else { return Some(example) };
        let known = self.routes.iter().find(|(of, _, _)| *of == service.id).map(|(_, key, _)| String::from_utf8_lossy(key).into_owned());
        let key = known.unwrap_or_else(|| "tenant-1".to_owned());
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/:@".contains(&b)) {
            return None;
        }
        match source {
            KeySource::Header(name) => example.header = Some((name.as_str().to_owned(), key)),
            KeySource::Cookie(name) => example.header = Some(("Cookie".to_owned(), format!("{}={key}", name.as_str()))),
            KeySource::Query(name) => example.path = format!("{}?{}={key}", example.path, name.as_str()),
            KeySource::Host(template) => example.host = Some(format!("{}{key}{}", template.before, template.after)),
            KeySource::Path(template) => {
                let segments = template.segments.iter().map(|segment| match segment {
                    TemplateSegment::Literal(literal) => literal.clone(),
                    TemplateSegment::Key => key.replace('/', "%2F"),
                    TemplateSegment::Any => "x".to_owned(),
                    TemplateSegment::Rest => String::new(),
                });
                example.path = format!("/{}", segments.collect::<Vec<_>>().join("/"));
            }
        }
        Some(example)
    }
}

#[cfg(test)]
mod tests {
    use crate::table::testing::table;

    #[test]
    fn an_example_carries_a_known_key_where_the_service_wants_it() {
        for (key, wanted) in [
            (r#"{"header":"x-tenant"}"#, (Some("a.b"), "/p", Some(("x-tenant", "t1")))),
            (r#"{"query":"t"}"#, (Some("a.b"), "/p?t=t1", None)),
            (r#"{"cookie":"t"}"#, (Some("a.b"), "/p", Some(("Cookie", "t=t1")))),
            (r#"{"path":"/p/{key}/*rest"}"#, (Some("a.b"), "/p/t1/", None)),
            (r#"{"host":"{key}.b"}"#, (Some("t1.b"), "/p", None)),
        ] {
            let service = format!(r#"{{"match":[{{"hosts":["a.b"],"path_prefix":"/p"}}],"key":{key}}}"#);
            let table = table(&[("services/s", &service), ("routes/s/t1", r#"{"owner":"a"}"#)], 1);
            let example = table.example(table.service_named("s").unwrap()).unwrap();
            let header = example.header.as_ref().map(|(name, value)| (&**name, &**value));
            assert_eq!((example.host.as_deref(), &*example.path, header), wanted, "{key}");
        }
    }
}
