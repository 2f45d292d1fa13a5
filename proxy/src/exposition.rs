//! Prometheus' classic text format (0.0.4) out of OpenMetrics' text, which is what the metrics library writes.
//!
//! Samples are alike in both. In the classic one a counter's description carries the name of its samples, with `_total`, and there are
//! neither units nor a mark of the end.

/// The same metrics in the classic format.
pub(crate) fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len() + 1024);
    let mut help = None;
    for line in openmetrics.lines() {
        let described = line.strip_prefix("# ").map(|rest| rest.splitn(3, ' ').collect::<Vec<_>>());
        match described.as_deref() {
            Some(["HELP", name, text]) => help = Some((*name, *text)),
            Some(["TYPE", name, kind]) => {
                let ending = if *kind == "counter" { "_total" } else { "" };
                if let Some((_, text)) = help.take().filter(|(described, _)| described == name) {
                    out.push_str(&format!("# HELP {name}{ending} {text}\n"));
                }
                out.push_str(&format!("# TYPE {name}{ending} {kind}\n"));
            }
            Some(_) => {}
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_by_the_name_of_its_samples() {
        let openmetrics = "# HELP w_r Requests.\n# TYPE w_r counter\nw_r_total{a=\"x\"} 1\n# HELP w_s Size.\n# TYPE w_s gauge\n\
                           # UNIT w_s bytes\nw_s 2\n# EOF\n";
        let expected =
            "# HELP w_r_total Requests.\n# TYPE w_r_total counter\nw_r_total{a=\"x\"} 1\n# HELP w_s Size.\n# TYPE w_s gauge\nw_s 2\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
