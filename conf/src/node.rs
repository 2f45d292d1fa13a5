//! A YAML, JSON or TOML text as a tree that knows its lines.
//!
//! YAML and JSON are built from the parser's events rather than from its ready-made tree, because three things must be refused that the tree lets pass:
//! a key that stands twice, aliases (a few lines of them can stand for gigabytes) and absurd depth.

use saphyr::{Scalar, ScalarStyle};
use saphyr_parser::{Event, Parser, Span};
use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// How deep records may nest; real ones need five levels.
const MAX_DEPTH: usize = 64;

/// A node, and the line on which it starts (from 1).
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) data: Data,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Data {
    Scalar(Value),
    List(Vec<Node>),
    /// Keys with their lines, in order.
    Map(Vec<(String, usize, Node)>),
}

/// Why a text has no tree.
#[derive(Debug)]
pub(crate) struct TextFault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// What a text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// Nothing but comments.
    Nothing,
    /// A mapping.
    Map,
    /// Something else, which begins on this line.
    Other(usize),
}

/// Parses one YAML or JSON document. Each key of its mapping is given away with its line as soon as its value has come: of a million of them no
/// tree is kept. A fault that comes later is one of the whole text.
pub(crate) fn parse(text: &str, mut each: impl FnMut(String, usize, Node)) -> Result<Root, TextFault> {
    let mut events = Events { parser: Parser::new_from_str(text) };
    let mut root = None;
    while let Some((event, span)) = events.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::MappingStart(..) if root.is_none() => {
                events.entries(span.start.line(), 0, &mut each)?;
                root = Some(Root::Map);
            }
            event if root.is_none() => {
                let Node { line, data } = events.node(event, span, 0)?;
                root = Some(if matches!(data, Data::Scalar(Value::Null)) { Root::Nothing } else { Root::Other(line) });
            }
            _ => return Err(fault(span, "a second document starts here; one document a file would be right")),
        }
    }
    Ok(root.unwrap_or(Root::Nothing))
}

/// Parses a TOML text.
pub(crate) fn parse_toml(text: &str) -> Result<Node, TextFault> {
    let starts: Vec<usize> =
        std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1)).collect();
    let line_at = |at: usize| starts.partition_point(|start| *start <= at);
    let root = DeTable::parse(text).map_err(|error| TextFault {
        line: error.span().map_or(1, |span| line_at(span.start)),
        message: format!("is not TOML: {}", error.message().trim().replace('\n', "; ")),
    })?;
    let line = line_at(root.span().start);
    Ok(Node { line, data: toml_table(root.get_ref(), &line_at) })
}

fn toml_table(table: &DeTable<'_>, line_at: &impl Fn(usize) -> usize) -> Data {
    let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), line_at(key.span().start), toml_node(value, line_at)));
    Data::Map(entries.collect())
}

fn toml_node(value: &Spanned<DeValue<'_>>, line_at: &impl Fn(usize) -> usize) -> Node {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::Scalar(text.as_ref().into()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
            Data::Scalar(parsed.map_or_else(|| number.to_string().into(), Into::into))
        }
        DeValue::Float(number) => Data::Scalar(number.as_str().parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)),
        DeValue::Boolean(flag) => Data::Scalar((*flag).into()),
        DeValue::Datetime(time) => Data::Scalar(time.to_string().into()),
        DeValue::Array(list) => Data::List(list.iter().map(|value| toml_node(value, line_at)).collect()),
        DeValue::Table(table) => toml_table(table, line_at),
    };
    Node { line: line_at(value.span().start), data }
}

struct Events<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, TextFault> {
        self.parser
            .next()
            .transpose()
            .map_err(|error| TextFault { line: error.marker().line(), message: format!("is neither YAML nor JSON: {}", error.info()) })
    }

    fn expect(&mut self, line: usize) -> Result<(Event<'a>, Span), TextFault> {
        self.next()?.ok_or(TextFault { line, message: "the text ends in the middle of what begins here".to_owned() })
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, TextFault> {
        if depth > MAX_DEPTH {
            return Err(fault(span, &format!("this stands deeper than {MAX_DEPTH} levels; records need five at most")));
        }
        let line = span.start.line();
        let data = match event {
            Event::Scalar(text, style, _, tag) => Data::Scalar(scalar(text, style, tag.as_ref(), span)?),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.expect(line)? {
                        (Event::SequenceEnd, _) => break Data::List(list),
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Vec::new();
                self.entries(line, depth, &mut |key, line, value| map.push((key, line, value)))?;
                Data::Map(map)
            }
            Event::Alias(_) => return Err(fault(span, "aliases (*name) are not taken; write the value out")),
            _ => return Err(fault(span, "a value would be right here")),
        };
        Ok(Node { line, data })
    }

    fn entries(&mut self, line: usize, depth: usize, each: &mut dyn FnMut(String, usize, Node)) -> Result<(), TextFault> {
        let mut seen = std::collections::HashMap::new();
        loop {
            let (key, span) = match self.expect(line)? {
                (Event::MappingEnd, _) => return Ok(()),
                (Event::Scalar(text, ..), span) => (text.into_owned(), span),
                (_, span) => return Err(fault(span, "a key must be plain text, as in  routes/orders/tenant-42: { owner: cell-7 }")),
            };
            let key_line = span.start.line();
            if let Some(first) = seen.insert(key.clone(), key_line) {
                return Err(fault(span, &format!("\"{key}\" stands here a second time; the first is on line {first}")));
            }
            let (event, span) = self.expect(key_line)?;
            let value = self.node(event, span, depth + 1)?;
            each(key, key_line, value);
        }
    }
}

fn scalar(
    text: std::borrow::Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&std::borrow::Cow<'_, saphyr::Tag>>,
    span: Span,
) -> Result<Value, TextFault> {
    let wide = text.parse::<u64>().ok().filter(|_| style == ScalarStyle::Plain && tag.is_none());
    let parsed = Scalar::parse_from_cow_and_metadata(text, style, tag);
    Ok(match parsed.ok_or_else(|| fault(span, "the value does not fit its !tag; leave the tag out"))? {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => value.into(),
        Scalar::Integer(value) => value.into(),
        Scalar::FloatingPoint(value) => {
            wide.map(Into::into).or_else(|| Number::from_f64(value.into_inner())).map_or(Value::Null, Value::Number)
        }
        Scalar::String(_) if wide.is_some() => wide.into(),
        Scalar::String(value) => value.into_owned().into(),
    })
}

fn fault(span: Span, message: &str) -> TextFault {
    TextFault { line: span.start.line(), message: message.to_owned() }
}

impl Node {
    /// As JSON.
    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(list) => list.iter().map(Self::to_json).collect(),
            Data::Map(map) => Value::Object(map.iter().map(|(key, _, value)| (key.clone(), value.to_json())).collect::<Map<_, _>>()),
        }
    }

    /// The line of what a dotted path (`match[0].hosts`, `match.0.hosts`) names, or of the nearest thing above it that is there; `None`
    /// if not even its first step is.
    pub(crate) fn line_of(&self, path: &str) -> Option<usize> {
        let mut node = self;
        let mut line = None;
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let next = match &node.data {
                Data::Map(map) => map.iter().find(|(key, ..)| key == step).map(|(_, line, value)| (*line, value)),
                Data::List(list) => step.parse::<usize>().ok().and_then(|at| list.get(at)).map(|value| (value.line, value)),
                Data::Scalar(_) => None,
            };
            let Some((next_line, value)) = next else { break };
            line = Some(next_line);
            node = value;
        }
        line
    }
}
