//! What a line of the access log looks like: as JSON, and for people.
//!
//! JSON is written field by field: names are constants, and nearly every value can be copied as it is. Whatever can't goes by `serde_json`, and
//! a property holds all of it to the bytes that `serde_json` would write. What always holds: a line has one end of line, its own.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use waypost_conf::LogFormat;
use waypost_policy::Code;

use super::Line;

/// How long a line usually is, and some more.
const USUAL_BYTES: usize = 640;

/// Writes lines in one format.
pub(super) struct Form {
    format: LogFormat,
    /// The second of the line before, in a text that all lines of this second share.
    second: Option<u64>,
    second_text: String,
}

impl Form {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, second: None, second_text: String::new() }
    }

    /// Writes a line with its end behind what is there.
    pub(super) fn put(&mut self, line: &Line<'_>, ended: SystemTime, out: &mut Vec<u8>) {
        out.reserve(USUAL_BYTES);
        match self.format {
            LogFormat::Text => self.put_text(line, ended, out),
            LogFormat::Json => self.put_json(line, ended, out),
        }
        out.push(b'\n');
    }

    /// The fields of INTERFACE.md, in its order, and the chain of dispatches where it has more to tell than they.
    fn put_json(&mut self, line: &Line<'_>, ended: SystemTime, out: &mut Vec<u8>) {
        let trace = line.trace;
        out.extend_from_slice(b"{\"time\":\"");
        self.put_time(ended, out);
        out.push(b'"');
        text(out, ",\"request_id\":", Some(line.request_id.as_bytes()));
        out.extend_from_slice(b",\"client\":");
        match line.client {
            Some(client) => {
                out.push(b'"');
                put_address(client, out);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        text(out, ",\"method\":", Some(line.method.as_bytes()));
        text(out, ",\"host\":", line.host);
        text(out, ",\"path\":", Some(line.path()));
        number(out, ",\"status\":", line.status.into());
        plain(out, ",\"reason\":", line.reason.map(Code::as_str));
        plain(out, ",\"service\":", trace.service.as_ref().map(|service| &*service.name));
        text(out, ",\"key\":", trace.key.as_deref());
        plain(out, ",\"owner\":", trace.upstream.as_ref().map(|upstream| &*upstream.name));
        text(out, ",\"endpoint\":", trace.endpoint.as_ref().map(|endpoint| endpoint.as_str().as_bytes()));
        match trace.epoch {
            Some(epoch) => number(out, ",\"epoch\":", epoch),
            None => out.extend_from_slice(b",\"epoch\":null"),
        }
        number(out, ",\"revision\":", trace.revision);
        number(out, ",\"hops\":", trace.hops.into());
        number(out, ",\"bytes_in\":", line.bytes_in);
        number(out, ",\"bytes_out\":", line.bytes_out);
        number(out, ",\"duration_us\":", micros(line.duration));
        number(out, ",\"upstream_us\":", micros(line.upstream));
        plain(out, ",\"protocol\":", Some(line.protocol));
        text(out, ",\"user_agent\":", line.user_agent);
        if trace.dispatches.are_a_chain() {
            out.extend_from_slice(b",\"chain\":");
            let chain: Vec<String> = trace.dispatches.iter().map(ToString::to_string).collect();
            // A vector takes it.
            let _ = serde_json::to_writer(&mut *out, &chain);
        }
        out.push(b'}');
    }

    /// What came, what was answered, who answered, how long it took.
    fn put_text(&mut self, line: &Line<'_>, ended: SystemTime, out: &mut Vec<u8>) {
        let trace = line.trace;
        let or_dash = |text: Option<Cow<'_, str>>| text.filter(|text| !text.is_empty()).unwrap_or("-".into()).escape_debug().to_string();
        let key = trace.key.as_deref().map(String::from_utf8_lossy);
        self.put_time(ended, out);
        // A vector takes all of it.
        let _ = write!(
            out,
            " {} {} {}{} {} {} {} key={} owner={} endpoint={} epoch={} hops={} in={} out={} {}us id={}",
            line.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
            or_dash(Some(line.method.into())),
            String::from_utf8_lossy(line.host.unwrap_or_default()).escape_debug(),
            String::from_utf8_lossy(line.path()).escape_debug(),
            line.status,
            or_dash(line.reason.map(|code| code.as_str().into())),
            or_dash(trace.service.as_ref().map(|service| (&*service.name).into())),
            or_dash(key),
            or_dash(trace.upstream.as_ref().map(|upstream| (&*upstream.name).into())),
            or_dash(trace.endpoint.as_ref().map(|endpoint| endpoint.as_str().into())),
            trace.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
            trace.hops,
            line.bytes_in,
            line.bytes_out,
            micros(line.duration),
            line.request_id,
        );
        if trace.dispatches.are_a_chain() {
            let chain: Vec<String> = trace.dispatches.iter().map(ToString::to_string).collect();
            let _ = write!(out, " chain={:?}", chain.join(" > "));
        }
    }

    /// `2026-05-04T09:12:44.118230Z`; nothing before the fraction in years that have more than four digits.
    fn put_time(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.second_text.clear();
            let _ = write!(self.second_text, "{}", humantime::format_rfc3339_seconds(time));
            self.second_text.pop();
        }
        out.extend_from_slice(self.second_text.as_bytes());
        let seven_digits = 1_000_000 + since.subsec_micros();
        out.push(b'.');
        out.extend_from_slice(&itoa::Buffer::new().format(seven_digits).as_bytes()[1..]);
        out.push(b'Z');
    }
}

/// A field whose value may need escapes.
fn text(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    out.extend_from_slice(name.as_bytes());
    match value {
        Some(value) if is_plain(value) => quoted(out, value),
        // A vector takes it.
        Some(value) => drop(serde_json::to_writer(&mut *out, &String::from_utf8_lossy(value))),
        None => out.extend_from_slice(b"null"),
    }
}

/// A field whose value needs none: of a record's name no character does.
fn plain(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    out.extend_from_slice(name.as_bytes());
    match value {
        Some(value) => quoted(out, value.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Whether a text stands in JSON as it is.
fn is_plain(text: &[u8]) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = b' ';
        while byte < 0x7f {
            plain[byte as usize] = byte != b'"' && byte != b'\\';
            byte += 1;
        }
        plain
    };
    text.iter().all(|byte| PLAIN[usize::from(*byte)])
}

fn put_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;
    use waypost_policy::exchange::Trace;

    use super::*;

    /// The same by the library.
    #[derive(Serialize)]
    struct Fields<'a> {
        time: String,
        request_id: &'a str,
        client: Option<IpAddr>,
        method: &'a str,
        host: Option<Cow<'a, str>>,
        path: Cow<'a, str>,
        status: u16,
        reason: Option<&'static str>,
        service: Option<&'a str>,
        key: Option<Cow<'a, str>>,
        owner: Option<&'a str>,
        endpoint: Option<&'a str>,
        epoch: Option<u64>,
        revision: u64,
        hops: u32,
        bytes_in: u64,
        bytes_out: u64,
        duration_us: u64,
        upstream_us: u64,
        protocol: &'a str,
        user_agent: Option<Cow<'a, str>>,
    }

    fn by_library(line: &Line<'_>, ended: SystemTime) -> String {
        let text = String::from_utf8_lossy;
        let trace = line.trace;
        let fields = Fields {
            time: humantime::format_rfc3339_micros(ended).to_string(),
            request_id: line.request_id,
            client: line.client,
            method: line.method,
            host: line.host.map(text),
            path: text(line.path()),
            status: line.status,
            reason: line.reason.map(Code::as_str),
            service: trace.service.as_ref().map(|service| &*service.name),
            key: trace.key.as_deref().map(text),
            owner: trace.upstream.as_ref().map(|upstream| &*upstream.name),
            endpoint: trace.endpoint.as_ref().map(|endpoint| endpoint.as_str()),
            epoch: trace.epoch,
            revision: trace.revision,
            hops: trace.hops,
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
            duration_us: micros(line.duration),
            upstream_us: micros(line.upstream),
            protocol: line.protocol,
            user_agent: line.user_agent.map(text),
        };
        serde_json::to_string(&fields).unwrap() + "\n"
    }

    /// Mostly plain bytes, some that need escapes, some that are no text.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[ -~]{0,40}".prop_map(String::into_bytes),
            "\\PC{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..20)
        ]
    }

    prop_compose! {
        fn traces()(key in proptest::option::of(bytes()), epoch in any::<Option<u64>>(), revision in any::<u64>(), hops in any::<u32>()) -> Trace {
            Trace { key: key.map(Into::into), epoch, revision, hops, ..Trace::default() }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_json_line_is_what_the_library_would_write(
            texts in [bytes(), bytes(), bytes()],
            (request_id, method) in (".{0,20}", ".{0,10}"),
            (client, reason, has_texts) in (any::<Option<IpAddr>>(), proptest::bool::ANY, proptest::bool::ANY),
            trace in traces(),
            (status, bytes_in, bytes_out, micros) in (any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>()),
            times in proptest::collection::vec((0..3_u64, 0..1_000_000_000_u32), 1..4),
        ) {
            let mut form = Form::new(LogFormat::Json);
            let (mut written, mut expected) = (Vec::new(), String::new());
            for (second, nanos) in times {
                let ended = UNIX_EPOCH + Duration::new(1_700_000_000 + second, nanos);
                let line = Line {
                    request_id: &request_id,
                    client,
                    method: &method,
                    host: has_texts.then_some(&texts[0]),
                    target: &texts[1],
                    status,
                    reason: reason.then_some(Code::NoRoute),
                    trace: &trace,
                    bytes_in,
                    bytes_out,
                    duration: Duration::from_micros(micros),
                    upstream: Duration::from_nanos(micros),
                    protocol: "HTTP/2",
                    user_agent: has_texts.then_some(&texts[2]),
                };
                form.put(&line, ended, &mut written);
                expected += &by_library(&line, ended);
            }
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }

    #[test]
    fn a_line_for_people_is_one_line_whatever_was_asked() {
        let trace = Trace { key: Some(b"a\nb".as_slice().into()), epoch: Some(3), ..Trace::default() };
        let line = Line::without_request(Code::NoRoute, "id-1", [10, 0, 0, 1].into(), &trace);
        let line = Line { method: "GET", host: Some(b"h"), target: b"/x\r?secret", ..line };
        let mut written = Vec::new();
        Form::new(LogFormat::Text).put(&line, UNIX_EPOCH + Duration::from_millis(1_500), &mut written);
        let expected = "1970-01-01T00:00:01.500000Z 10.0.0.1 GET h/x\\r 404 no_route - key=a\\nb owner=- endpoint=- epoch=3 hops=0 in=0 out=0 0us id=id-1\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
