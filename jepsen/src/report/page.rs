//! `report.html`: one run on one page, without anything from elsewhere.

use serde_json::Value;

use super::chart::{Axis, Bar, Line, escaped};
use super::series::{COUNTED, Series, downs, leaders, seconds, series};
use crate::checker::Verdict;
use crate::checker::faults::{Window, windows};
use crate::history::Event;

/// Faults in the table, at most.
const ROWS_MAX: usize = 1000;
/// Colours of the lines of counts, in the order of [`COUNTED`], and of the shares of latencies.
const COUNT_COLORS: [&str; COUNTED.len()] = ["#2563eb", "#0f766e", "#a16207", "#9333ea"];
const MEDIAN: &str = "#0f766e";
const SLOW: &str = "#c2410c";
const SLOWEST: &str = "#b91c1c";
const DOWN: &str = "#e7e5e4";
const LEADS: &str = "#1c1917";
/// What a kind of fault is drawn in: by what it takes.
const FAMILIES: [(&str, &str, &[&str]); 5] = [
    ("process", "#ea580c", &["kill", "pause", "restart", "restart-rolling", "transfer-leader"]),
    ("power and disk", "#7c3aed", &["powercut", "powercut-all", "io-error", "disk-full", "slow-disk"]),
    ("network", "#0284c7", &["isolate-leader", "halves", "one-way", "ring", "loss"]),
    ("clock", "#0d9488", &["clock"]),
    ("damaged or lost data", "#be123c", &["rot-blob", "rot-sst", "rot-wal", "rot-snapshot", "wipe"]),
];

const STYLE: &str = "
body{font:14px/1.5 system-ui,sans-serif;color:#1c1917;background:#fff;max-width:1160px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1rem;margin:2rem 0 .4rem}
.word{font-weight:700;padding:.1rem .5rem;border-radius:.3rem;color:#fff}
.good{background:#15803d}.bad{background:#b91c1c}
.what{color:#57534e;margin:.3rem 0 0}svg{width:100%;display:block}svg text{font:11px system-ui,sans-serif;fill:#57534e}
svg text.name{font-size:12px;fill:#1c1917}svg path{fill:none;stroke-width:1.5}
.grid{stroke:#e7e5e4;stroke-width:1}.band{fill:#fb923c;fill-opacity:.09}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;color:#44403c;font-size:12px}
.legend i{display:inline-block;width:.8rem;height:.6rem;margin-right:.35rem;border-radius:2px}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{text-align:left;vertical-align:top;padding:.25rem .6rem;
border-bottom:1px solid #e7e5e4}th{font-weight:600;color:#57534e}td:not(:last-child){white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}.problem{color:#b91c1c}
";

/// The whole page. `options` is what the run was asked for.
pub(super) fn page(name: &str, options: &Value, events: &[Event], verdicts: &[Verdict]) -> String {
    let series = series(events);
    let windows = windows(events);
    let is_good = verdicts.iter().all(|verdict| verdict.is_good);
    let mut html = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    html += &format!("<title>{}</title><style>{STYLE}</style>", escaped(name));
    html += &head(name, options, &series, is_good);
    html += &charts(events, &series, &windows);
    html += &judges(verdicts);
    html += &gaps(&series);
    html += &faults(events, &windows);
    html + "</html>\n"
}

fn head(name: &str, options: &Value, series: &Series, is_good: bool) -> String {
    let (class, word) = if is_good { ("good", "GOOD") } else { ("bad", "BAD") };
    let text = |key: &str| options.get(key).map_or_else(String::new, shown);
    let load = series.load_s.map_or(0.0, |(from, to)| to - from);
    format!(
        "<h1><span class=\"word {class}\">{word}</span> {}</h1><p class=\"what\">{} under {}, seed {}, {} nodes, {} \
         clients; {load:.0} s of load, {:.0} s in all</p>",
        escaped(name),
        escaped(&text("workload")),
        escaped(&text("nemesis")),
        escaped(&text("seed")),
        escaped(&text("nodes")),
        escaped(&text("clients")),
        series.total_s
    )
}

/// A value without the marks of JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn charts(events: &[Event], series: &Series, windows: &[Window<'_>]) -> String {
    let axis = Axis { total_s: series.total_s };
    let bands: Vec<(f64, f64)> = windows
        .iter()
        .filter(|window| window.outcome == Some("installed"))
        .map(|window| (seconds(window.from), window.to.map_or(series.total_s, seconds)))
        .collect();
    let at = |number: usize| (number as f64 + 0.5) * series.step_s;
    let line = |color, name, value: &dyn Fn(&super::series::Bucket) -> Option<f64>| Line {
        name,
        color,
        points: series.buckets.iter().enumerate().map(|(number, bucket)| (at(number), value(bucket))).collect(),
    };
    let per_s = |count: u64| Some(count as f64 / series.step_s);
    let counts: Vec<Line<'_>> = COUNTED
        .iter()
        .enumerate()
        .map(|(kind, (_, name))| line(COUNT_COLORS[kind], *name, &|bucket| per_s(bucket.ok[kind])))
        .collect();
    let latencies = [
        line(MEDIAN, "median", &|bucket| bucket.quantile_ms(0.5)),
        line(SLOW, "95 %", &|bucket| bucket.quantile_ms(0.95)),
        line(SLOWEST, "slowest", &|bucket| bucket.quantile_ms(1.0)),
    ];
    let failures = [line(SLOWEST, "failed", &|bucket| per_s(bucket.failed))];
    let families: Vec<(&str, &str)> = FAMILIES.iter().map(|(name, color, _)| (*name, *color)).collect();
    let families = [families, vec![("down, or not ready", DOWN), ("leads", LEADS)]].concat();
    let counted: Vec<(&str, &str)> = counts.iter().map(|line| (line.name, line.color)).collect();
    let quantiles: Vec<(&str, &str)> = latencies.iter().map(|line| (line.name, line.color)).collect();
    let mut html = String::new();
    html += &section("Faults", &families, &fault_rows(&axis, events, series, windows));
    html += &section("Operations a second", &counted, &axis.lines("operations", "", &counts, false, &bands));
    html +=
        &section("Time of an acknowledged write", &quantiles, &axis.lines("latency", "ms", &latencies, true, &bands));
    html + &section("Failed operations a second", &[], &axis.lines("failures", "", &failures, false, &bands))
}

fn section(title: &str, legend: &[(&str, &str)], svg: &str) -> String {
    let entry =
        |(name, color): &(&str, &str)| format!("<span><i style=\"background:{color}\"></i>{}</span>", escaped(name));
    let legend: String = legend.iter().map(entry).collect();
    format!("<h2>{}</h2><div class=\"legend\">{legend}</div>{svg}", escaped(title))
}

fn color(kind: &str) -> &'static str {
    FAMILIES.iter().find(|(_, _, kinds)| kinds.contains(&kind)).map_or(SLOWEST, |(_, color, _)| *color)
}

/// A row for each node: when it was down, what was done to it, when it led. The last row: no acknowledged write.
fn fault_rows(axis: &Axis, events: &[Event], series: &Series, windows: &[Window<'_>]) -> String {
    let (downs, leaders) = (downs(events, series.total_s), leaders(events, series.total_s));
    let of_nodes = events.iter().filter_map(|event| event.node.as_deref());
    let of_faults = windows.iter().flat_map(|window| window.nodes.iter().copied());
    let nodes: std::collections::BTreeSet<&str> = of_nodes.chain(of_faults).collect();
    let mut names: Vec<String> = nodes.iter().map(|name| (*name).to_owned()).collect();
    let row = |name: &str| names.iter().position(|other| other == name).unwrap_or_default();
    let mut bars = Vec::new();
    for (name, spans) in &downs {
        bars.extend(spans.iter().map(|(from_s, to_s)| {
            let title = format!("{name} down, {:.1} s", to_s - from_s);
            Bar { row: row(name), from_s: *from_s, to_s: *to_s, color: DOWN, top: 0.0, share: 1.0, title }
        }));
    }
    for window in windows.iter().filter(|window| window.outcome == Some("installed")) {
        let (from_s, to_s) = (seconds(window.from), window.to.map_or(series.total_s, seconds));
        let title = format!("{}: {} {}, {:.1} s", window.number, window.kind, window.nodes.join(" "), to_s - from_s);
        let (color, top) = (color(window.kind), 0.1 + 0.3 * (window.number % 2) as f64);
        let bar = |name: &&str| Bar { row: row(name), from_s, to_s, color, top, share: 0.3, title: title.clone() };
        bars.extend(window.nodes.iter().map(bar));
    }
    for (name, term, from_s, to_s) in &leaders {
        let title = format!("{name} leads in term {term}");
        bars.push(Bar { row: row(name), from_s: *from_s, to_s: *to_s, color: LEADS, top: 0.88, share: 0.12, title });
    }
    names.push("no write".to_owned());
    let last = names.len() - 1;
    bars.extend(series.gaps_s.iter().map(|(from_s, to_s)| {
        let title = format!("no acknowledged write for {:.1} s", to_s - from_s);
        Bar { row: last, from_s: *from_s, to_s: *to_s, color: SLOWEST, top: 0.1, share: 0.8, title }
    }));
    axis.rows("faults", &names, &bars)
}

fn judges(verdicts: &[Verdict]) -> String {
    let row = |verdict: &Verdict| {
        let (class, word) = if verdict.is_good { ("good", "good") } else { ("bad", "BAD") };
        let problems: String = verdict.problems.iter().map(|problem| format!("<br>{}", escaped(problem))).collect();
        let more = verdict.problem_count.saturating_sub(verdict.problems.len());
        let more = if more > 0 { format!("<br>… and {more} more") } else { String::new() };
        let (name, figures) = (escaped(verdict.checker), escaped(&verdict.figures.to_string()));
        format!(
            "<tr><td>{name}</td><td><span class=\"word {class}\">{word}</span></td><td><code>{figures}</code>\
             <span class=\"problem\">{problems}{more}</span></td></tr>"
        )
    };
    let rows: String = verdicts.iter().map(row).collect();
    format!("<h2>Judges</h2><table><tr><th>judge</th><th></th><th>read, and found wrong</th></tr>{rows}</table>")
}

fn gaps(series: &Series) -> String {
    let mut gaps = series.gaps_s.clone();
    gaps.sort_by(|one, other| (other.1 - other.0).total_cmp(&(one.1 - one.0)));
    let row = |(from, to): &(f64, f64)| {
        format!("<tr><td class=\"n\">{:.1} s</td><td class=\"n\">{from:.1} s</td></tr>", to - from)
    };
    let rows: String = gaps.iter().take(20).map(row).collect();
    format!(
        "<h2>Longest times without an acknowledged write ({} of a second and more)</h2>\
         <table style=\"width:auto\"><tr><th>how long</th><th>from</th></tr>{rows}</table>",
        gaps.len()
    )
}

fn faults(events: &[Event], windows: &[Window<'_>]) -> String {
    let is_told = |key: &str| !matches!(key, "fault" | "kind" | "nodes" | "safe" | "outcome");
    let told = |value: &Value| {
        let object = value.as_object().into_iter().flatten();
        object
            .filter(|(key, _)| is_told(key))
            .map(|(key, value)| format!("{key}: {}", shown(value)))
            .collect::<Vec<_>>()
    };
    let row = |window: &Window<'_>| {
        let detail = [told(window.begun), window.healed.map(told).unwrap_or_default()].concat().join("; ");
        let lasts = window.to.map_or_else(String::new, |to| format!("{:.1} s", seconds(to - window.from)));
        format!(
            "<tr><td class=\"n\">{}</td><td class=\"n\">{:.1} s</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class=\"n\">{lasts}</td><td><code>{}</code></td></tr>",
            window.number,
            seconds(window.from),
            escaped(window.kind),
            escaped(&window.nodes.join(" ")),
            window.outcome.unwrap_or("broke off"),
            escaped(&detail)
        )
    };
    let rows: String = windows.iter().take(ROWS_MAX).map(row).collect();
    format!(
        "<h2>{} faults, {} events</h2><table><tr><th>no</th><th>at</th><th>kind</th><th>nodes</th><th>outcome</th>\
         <th>lasted</th><th>more</th></tr>{rows}</table>",
        windows.len(),
        events.len()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::testing::history;
    use crate::history::{Act, Kind};

    // A page tells verdict, faults and problems, loads nothing from elsewhere, and lets no text of a node be markup.
    #[test]
    fn whole() {
        let fault = json!({"fault": 1, "kind": "pause", "nodes": ["a-1"], "outcome": "installed", "note": "<script>"});
        let events = history(&[
            (0.0, None, Kind::Info, Act::Load, "", "", Value::Null),
            (1.0, None, Kind::Invoke, Act::Inject, "", "a-1", fault.clone()),
            (1.0, None, Kind::Info, Act::Inject, "", "a-1", fault.clone()),
            (3.0, None, Kind::Info, Act::Heal, "", "a-1", fault),
            (9.0, None, Kind::Info, Act::Load, "", "", Value::Null),
        ]);
        let bad = Verdict {
            checker: "lost",
            is_good: false,
            figures: json!({"acknowledged": 1}),
            problems: vec!["r:t: LOST & gone".to_owned()],
            problem_count: 3,
        };
        let html = page("1-5", &json!({"workload": "push-set", "seed": 5}), &events, &[bad]);
        for part in ["BAD", "push-set under", "seed 5", "pause a-1, 2.0 s", "LOST &amp; gone", "and 2 more", "9.0 s"] {
            assert!(html.contains(part), "{part}");
        }
        for foreign in ["http:", "https:", "<script", "src=", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    // Every kind of fault has its colour.
    #[test]
    fn colors() {
        use clap::ValueEnum as _;
        for kind in crate::nemesis::FaultKind::value_variants() {
            assert_ne!(color(&kind.name()), SLOWEST, "{kind:?}");
        }
    }
}
