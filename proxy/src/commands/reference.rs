//! `waypost reference`: docs/reference.md, from the table of fields that records and the bootstrap file are checked with, and from the
//! command line itself.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use waypost_conf::fields::{Absent, BOOTSTRAP, Field, Holds, Kind, RECORDS};

use super::print;
use crate::{cli::Cli, failure::Outcome};

const HEAD: &str = "\
# Reference

Written by `waypost reference`, from the tables that files are checked with and from the command line itself; a test fails while
this file says something else. To renew it: `cargo run -p waypost -- reference > docs/reference.md`. What this version reads but does
not act on yet is said by `waypost check` and in `/status`.
";
/// Variables that no flag stands for.
const VARIABLES: [(&str, &str); 6] = [
    (
        "`RUST_LOG`",
        "How much `run` and `demo` say on stderr: `info`, `debug`, or by part, as in `waypost_watcher=debug`. `info` by default.",
    ),
    ("`STATE_DIRECTORY`", "Where the snapshot is kept if nothing names a place; systemd sets it."),
    ("`XDG_STATE_HOME`", "Without that: the folder `waypost` in it."),
    ("`HOME`", "Without that: `.local/state/waypost` in it."),
    ("`NO_COLOR`", "Not empty: no colours, even on a terminal."),
    ("`TERM`", "`dumb`: no colours."),
];

/// Runs the command.
pub(crate) fn run() -> Outcome {
    print::line(text().trim_end());
    Ok(())
}

/// The whole document.
fn text() -> String {
    let mut out = HEAD.to_owned();
    out += "\n## Records\n\nOne etcd key below the prefix, one record, a JSON object. In a file the same records stand in one mapping, in YAML or \
            JSON, keyed by the part\nof the etcd key after the prefix.\n";
    for kind in &RECORDS {
        write_kind(&mut out, kind);
    }
    out += "\n## Bootstrap file\n\nTOML, named with `--config`, else `./waypost.toml`, else `/etc/waypost/waypost.toml`.\n";
    write_kind(&mut out, &BOOTSTRAP);
    write_commands(&mut out);
    out
}

fn write_kind(out: &mut String, kind: &Kind) {
    let _ = writeln!(out, "\n### `{}`\n\n{}", kind.name, kind.meaning);
    if kind.fields.is_empty() {
        return;
    }
    *out += "\n| field | holds | unit | default | meaning |\n|---|---|---|---|---|\n";
    for field in kind.fields {
        let (holds, unit) = holds(&field.holds);
        let _ = writeln!(out, "| `{}` | {holds} | {unit} | {} | {} |", field.path, default(field), cell(field.meaning));
    }
}

fn holds(holds: &Holds) -> (String, &'static str) {
    match holds {
        Holds::Flag => ("`true` or `false`".to_owned(), ""),
        Holds::Whole { least, most, unit } => (format!("whole number, {least} to {most}"), unit),
        Holds::Word(words) => (words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "), ""),
        Holds::Form { form, .. } => (cell(form), ""),
        Holds::Table => ("a table".to_owned(), ""),
        Holds::Tables => ("a list of tables".to_owned(), ""),
    }
}

fn default(field: &Field) -> String {
    match field.absent {
        Absent::Required => "required".to_owned(),
        Absent::Same("{}") => String::new(),
        Absent::Same(json) => format!("`{}`", json.trim_matches('"')),
        Absent::Means(words) => cell(words),
    }
}

/// A text that can stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn write_commands(out: &mut String) {
    let mut root = Cli::command();
    root.build();
    *out += "\n## Command line\n\nFlags beat the environment, which beats the bootstrap file. Exit status: 0 done; 1 it could not be done; 2 wrong usage \
             or an unusable file.\n";
    let mut shared: Vec<Arg> = Vec::new();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        write_command(out, command, "waypost", &mut shared);
    }
    *out += "\n### GOLD: where the gold copy is\n\nThe same for every command that needs it.\n";
    write_arguments(out, shared.iter());
    *out += "\n### Environment\n\nBeside the variables of the flags above:\n\n| variable | meaning |\n|---|---|\n";
    for (variable, meaning) in VARIABLES {
        let _ = writeln!(out, "| {variable} | {meaning} |");
    }
}

fn write_command(out: &mut String, command: &Command, before: &str, shared: &mut Vec<Arg>) {
    let name = format!("{before} {}", command.get_name());
    if command.has_subcommands() {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            write_command(out, below, &name, shared);
        }
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let is_gold = |arg: &&Arg| arg.get_help_heading() == Some("Gold copy");
    let own: Vec<&Arg> = command.get_arguments().filter(|arg| !is_gold(arg)).collect();
    let gold: Vec<&Arg> = command.get_arguments().filter(is_gold).collect();
    let with_gold = if gold.is_empty() { "" } else { " GOLD" };
    if shared.is_empty() {
        shared.extend(gold.into_iter().cloned());
    }
    let positionals: String = own.iter().filter(|arg| arg.is_positional()).map(|arg| format!(" {}", written(arg))).collect();
    let _ = writeln!(out, "\n### `{name}{positionals}{with_gold}`\n\n{}.", cell(about.trim_end_matches('.')));
    write_arguments(out, own.into_iter());
}

fn write_arguments<'a>(out: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let shown: Vec<&Arg> = arguments.filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())).collect();
    if shown.is_empty() {
        return;
    }
    *out += "\n| argument | variable | default | meaning |\n|---|---|---|---|\n";
    for arg in shown {
        let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let default: Vec<String> = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        let default = if arg.get_action().takes_values() { default.join(", ") } else { String::new() };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "| `{}` | {variable} | {default} | {} |", cell(&written(arg)), cell(&help));
    }
}

/// An argument as it is typed: `--gold <URL>`, `-H, --header <NAME=VALUE>`, `FILE…`.
fn written(arg: &Arg) -> String {
    let values: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let many = if arg.get_num_args().is_some_and(|range| range.max_values() > 1) || matches!(arg.get_action(), clap::ArgAction::Append) {
        "…"
    } else {
        ""
    };
    if arg.is_positional() {
        let value = values.join(" ");
        return if arg.is_required_set() { format!("{value}{many}") } else { format!("[{value}{many}]") };
    }
    let names = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() { format!("{names} {}", values.join(" ")) } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_reference_md_is_what_the_program_says_of_itself() {
        let written = include_str!("../../../docs/reference.md");
        let wanted = text();
        let differs = wanted.trim_end().lines().zip(written.trim_end().lines()).find(|(wanted, written)| wanted != written);
        assert!(
            written.trim_end() == wanted.trim_end(),
            "docs/reference.md is out of date (first difference: {differs:?}); renew it: cargo run -p waypost -- reference > docs/reference.md"
        );
    }

    #[test]
    fn every_argument_has_a_meaning() {
        fn look(command: &Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }
}
