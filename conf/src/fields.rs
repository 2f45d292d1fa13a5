//! Every field that a person can write, in one table: for suggestions and for docs/reference.md.
//!
//! The table can't drift from what is parsed: a test asks serde for the fields of every type, writes each default out and expects that
//! nothing changes, and tries the ends of each range and each word. To add a field: its struct, and a line here.

mod bootstrap;
mod records;
#[cfg(test)]
mod tests;

pub use bootstrap::BOOTSTRAP;
pub use records::RECORDS;

use serde_json::Value;

use crate::{RecordKey, suggest::closest};

/// One kind of thing that is written: a kind of record, or the bootstrap file.
#[derive(Debug)]
pub struct Kind {
    /// `routes/<service>/<key>`
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub meaning: &'static str,
    /// One without optional fields, in JSON.
    pub least: &'static str,
    /// Its fields, in the order in which a person thinks of them.
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Where it is: dotted, `[]` behind a list.
    pub path: &'static str,
    /// What it holds.
    pub holds: Holds,
    /// What leaving it out means.
    pub absent: Absent,
    /// What it is for.
    pub meaning: &'static str,
}

/// What a field holds.
#[derive(Debug)]
pub enum Holds {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole {
        /// The least.
        least: u64,
        /// The greatest.
        most: u64,
        /// Its unit; empty: it counts.
        unit: &'static str,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Anything else.
    Form {
        /// What it must look like, in words.
        form: &'static str,
        /// Examples in JSON.
        examples: &'static [&'static str],
    },
    /// The fields below it.
    Table,
    /// A list of tables with the fields below it.
    Tables,
}

/// What leaving a field out means.
#[derive(Debug)]
pub enum Absent {
    /// It must be there.
    Required,
    /// The same as this value, in JSON.
    Same(&'static str),
    /// This, in words.
    Means(&'static str),
}

impl Field {
    /// Its own name: the last step of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The path of what it stands in; empty at the top.
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }
}

/// The table of a key's kind of record.
pub(crate) fn of_record(key: &RecordKey) -> &'static Kind {
    let folder = match key {
        RecordKey::Service(_) => 0,
        RecordKey::Route { .. } => 1,
        RecordKey::Upstream(_) => 2,
        RecordKey::Endpoint { .. } => 3,
        RecordKey::Policy(_) => 4,
        RecordKey::Certificate(_) => 5,
        RecordKey::Incarnation => 6,
    };
    &RECORDS[folder]
}

impl Kind {
    /// The paths of all fields of a value that there are not, in order.
    pub(crate) fn unknown(&self, value: &Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.look("", "", value, &mut unknown);
        unknown
    }

    /// `at` is where a value stands, `pattern` is that as the table writes it.
    fn look(&self, at: &str, pattern: &str, value: &Value, unknown: &mut Vec<String>) {
        let below = |path: &str, name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let (at, pattern) = (below(at, name), below(pattern, name));
                    match self.fields.iter().any(|field| bare(field.path) == pattern) {
                        true => self.look(&at, &pattern, value, unknown),
                        false => unknown.push(at),
                    }
                }
            }
            Value::Array(list) => {
                let pattern = format!("{pattern}[]");
                list.iter().enumerate().for_each(|(n, value)| self.look(&format!("{at}[{n}]"), &pattern, value, unknown));
            }
            _ => {}
        }
    }

    /// What an unknown path (`match[0].host`, `timeouts.header`) may have been meant to be: the closest name beside it, else the path of
    /// the closest one elsewhere.
    pub(crate) fn meant(&self, unknown: &str) -> Option<String> {
        let path = pattern(unknown);
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
        let beside = self.fields.iter().filter(|field| field.parent() == parent).map(|field| bare(field.name()));
        let elsewhere = self.fields.iter().map(|field| bare(field.name()));
        closest(name, beside).map(str::to_owned).or_else(|| {
            let name = closest(name, elsewhere)?;
            self.fields.iter().find(|field| bare(field.name()) == name).map(|field| bare(field.path).to_owned())
        })
    }
}

fn bare(name: &str) -> &str {
    name.trim_end_matches("[]")
}

/// `match[0].hosts` and `match.0.hosts` as the table writes it: `match[].hosts`.
fn pattern(path: &str) -> String {
    let mut pattern = String::new();
    for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        if step.bytes().all(|b| b.is_ascii_digit()) {
            pattern.push_str("[]");
        } else {
            if !pattern.is_empty() {
                pattern.push('.');
            }
            pattern.push_str(step);
        }
    }
    pattern
}

/// A flag that is off unless written.
const fn flag(path: &'static str, meaning: &'static str) -> Field {
    Field { path, holds: Holds::Flag, absent: Absent::Same("false"), meaning }
}

/// A whole number.
const fn whole(path: &'static str, range: (u64, u64, &'static str), default: &'static str, meaning: &'static str) -> Field {
    let (least, most, unit) = range;
    Field { path, holds: Holds::Whole { least, most, unit }, absent: Absent::Same(default), meaning }
}

/// One of some words; the first is the default, written as JSON.
const fn word(path: &'static str, words: &'static [&'static str], default: &'static str, meaning: &'static str) -> Field {
    Field { path, holds: Holds::Word(words), absent: Absent::Same(default), meaning }
}

/// Anything else.
const fn form(path: &'static str, form: &'static str, examples: &'static [&'static str], absent: Absent, meaning: &'static str) -> Field {
    Field { path, holds: Holds::Form { form, examples }, absent, meaning }
}

/// A table with fields of its own.
const fn table(path: &'static str, absent: Absent, meaning: &'static str) -> Field {
    Field { path, holds: Holds::Table, absent, meaning }
}

/// A list of tables.
const fn tables(path: &'static str, absent: Absent, meaning: &'static str) -> Field {
    Field { path, holds: Holds::Tables, absent, meaning }
}
