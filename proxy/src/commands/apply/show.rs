//! The difference as a person reads it: a line a record where that is short, else a line a field.

use std::fmt::Write;

use super::{super::print, plan::Planned};

/// A line may be this long, in characters, before it is broken.
const MAX_LINE_CHARS: usize = 110;

/// What marks additions, removals and changes.
pub(super) struct Style {
    is_coloured: bool,
}

impl Style {
    pub(super) fn new(is_coloured: bool) -> Self {
        Self { is_coloured }
    }

    fn paint(&self, mark: char, text: &str) -> String {
        let colour = match mark {
            '+' => 32,
            '-' => 31,
            '~' => 33,
            _ => 2,
        };
        if self.is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// One record: `~ routes/orders/t1: owner "cell-7" → "cell-9", + epoch 4`
    pub(super) fn difference(&self, planned: &Planned) -> String {
        let is_new = planned.before.is_none();
        let mark = if is_new { '+' } else { '~' };
        let head = self.paint(mark, &format!("{mark} {}", planned.key));
        let fields: Vec<(char, String)> = planned
            .fields
            .iter()
            .map(|field| match (&field.before, &field.after) {
                (Some(_), Some(_)) => ('~', field.to_string()),
                (None, _) => ('+', field.to_string()),
                (Some(_), None) => ('-', field.to_string()),
            })
            .collect();
        let one_line: Vec<String> = fields
            .iter()
            .map(|(mark, text)| if is_new || *mark == '~' { text.clone() } else { self.paint(*mark, &format!("{mark} {text}")) })
            .collect();
        let length: usize = planned.key.to_string().len() + fields.iter().map(|(_, text)| text.chars().count() + 4).sum::<usize>();
        if fields.is_empty() {
            return format!("{head}: {}", planned.after);
        }
        if length <= MAX_LINE_CHARS {
            return format!("{head}: {}", one_line.join(", "));
        }
        let mut lines = format!("{head}:");
        for (mark, text) in &fields {
            let mark = if is_new { ' ' } else { *mark };
            let line = format!("    {mark} {text}");
            let _ = write!(lines, "\n{}", if mark == ' ' { line } else { self.paint(mark, &line) });
        }
        lines
    }

    /// A record that is left alone.
    pub(super) fn same(&self, key: &impl std::fmt::Display) -> String {
        self.paint('=', &format!("= {key}"))
    }
}

/// What was written before something stopped it: `put` records were, the last of them at a revision; of `unknown` nobody can say; `not_put`
/// were not.
pub(super) fn stopped(why: &str, put: usize, revision: u64, unknown: &[String], not_put: &[String]) -> String {
    if put == 0 && unknown.is_empty() {
        return format!("{why}; nothing was put");
    }
    let were = |records: usize| format!("{} {}", print::count(records, "record"), if records == 1 { "was" } else { "were" });
    let mut said = vec![why.to_owned()];
    if put > 0 {
        said.push(format!("{} put before, the last at revision {revision}", were(put)));
    }
    match unknown {
        [] => {}
        [only] => said.push(format!("whether {only} was put is not known")),
        [first, .., last] => said.push(format!("whether the {} from {first} to {last} were put is not known", unknown.len())),
    }
    if let Some(first) = not_put.first() {
        said.push(format!("{} not put, from {first} on", were(not_put.len())));
    }
    said.push("another run compares anew".to_owned());
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use waypost_conf::{RecordKey, difference};
    use waypost_watcher::store::Change;

    use super::*;

    fn shown(before: Option<Value>, after: Value) -> String {
        let planned = Planned {
            key: RecordKey::parse(b"routes/orders/t1").unwrap(),
            fields: difference(before.as_ref(), &after),
            before,
            after,
            change: Change { key: Vec::new(), value: None, read_at: 0 },
        };
        Style::new(false).difference(&planned)
    }

    #[test]
    fn short_differences_are_one_line_long_ones_a_line_a_field() {
        let before = json!({ "owner": "cell-7", "target": "x" });
        assert_eq!(
            shown(Some(before), json!({ "owner": "cell-9", "epoch": 4 })),
            "~ routes/orders/t1: owner \"cell-7\" → \"cell-9\", - target \"x\", + epoch 4"
        );
        assert_eq!(shown(None, json!({ "owner": "a", "epoch": 4 })), "+ routes/orders/t1: epoch 4, owner \"a\"");
        assert_eq!(shown(None, json!({})), "+ routes/orders/t1: {}");
        let long = "x".repeat(120);
        assert_eq!(
            shown(Some(json!({ "owner": "a" })), json!({ "owner": long, "epoch": 4 })),
            format!("~ routes/orders/t1:\n    ~ owner \"a\" → \"{long}\"\n    + epoch 4")
        );
    }

    #[test]
    fn what_was_written_is_said_whatever_stopped_it() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(stopped("no", 0, 0, &[], &keys(&["a"])), "no; nothing was put");
        let said = stopped("no", 1, 7, &keys(&["b", "c"]), &keys(&["d", "e"]));
        let wanted = "no; 1 record was put before, the last at revision 7; whether the 2 from b to c were put is not known; \
                      2 records were not put, from d on; another run compares anew";
        assert_eq!(said, wanted);
    }

    #[test]
    fn colours_are_only_there_where_they_were_asked_for() {
        let plain = Style::new(false).same(&"k");
        assert_eq!(plain, "= k");
        assert!(Style::new(true).same(&"k").starts_with("\x1b["));
    }
}
