//! The difference as a person reads it: a line a record where that is short, else a line a field.

use std::fmt::Write;

use super::plan::Planned;

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
    fn colours_are_only_there_where_they_were_asked_for() {
        let plain = Style::new(false).same(&"k");
        assert_eq!(plain, "= k");
        assert!(Style::new(true).same(&"k").starts_with("\x1b["));
    }
}
