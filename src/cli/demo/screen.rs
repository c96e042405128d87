//! The screen: figures in, lines out. Pure, so that it can be tested without a terminal.

use std::time::Duration;

use super::{
    figures::{Blame, Figures, Row, WeirFigures},
    places::{Places, Thing},
    text::{Line, Tone, bar, bytes, clock, ms, per_second, percent, sparkline},
};

/// How large the terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Characters in a line.
    pub(super) columns: usize,
    /// Lines.
    pub(super) rows: usize,
}

/// What the screen shows beside the figures.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// Where everything is.
    pub(super) places: &'a Places,
    /// Since the start.
    pub(super) elapsed: Duration,
    /// When it ends by itself.
    pub(super) limit: Option<Duration>,
    /// The load that was asked for, requests a second.
    pub(super) rate: u32,
    /// Weir's process; `None` while it is away.
    pub(super) pid: Option<u32>,
    /// What each instance is like now, such as `slow, +500 ms` or `stopped`; same order as the figures.
    pub(super) moods: Vec<String>,
    /// Something that just happened.
    pub(super) notice: Option<&'a str>,
}

/// The lines of the screen: at most one fewer than there are rows, none wider than the terminal.
pub(super) fn lines(scene: &Scene<'_>, figures: &Figures, size: Size) -> Vec<Line> {
    let most = size.rows.saturating_sub(1);
    let table = Table::new(size.columns);
    // Where the terminal is low, the least busy routes go first.
    let sections = |routes: usize| {
        [
            vec![header(scene)],
            callers(&table, scene, figures),
            history(figures, size.columns),
            weir(&table, figures.weir.as_ref(), routes, size.columns),
            addresses(scene.places, size.columns),
            things(scene, size.columns),
        ]
    };
    let height = |sections: &[Vec<Line>; 6]| sections.iter().map(Vec::len).sum::<usize>();
    let fitting = (0..=ROUTES).rev().map(sections).find(|sections| height(sections) <= most);
    let mut lines = join(&fitting.unwrap_or_else(|| sections(0)), most);
    lines.truncate(most);
    for line in &mut lines {
        line.cut(size.columns);
    }
    lines
}

/// Most routes that are shown.
const ROUTES: usize = 4;

/// Joins sections with as many empty lines between them as fit, the first gaps first.
fn join(sections: &[Vec<Line>], most: usize) -> Vec<Line> {
    let used: usize = sections.iter().map(Vec::len).sum();
    let mut spare = most.saturating_sub(used);
    let mut lines = Vec::new();
    for section in sections.iter().filter(|section| !section.is_empty()) {
        if spare > 0 && !lines.is_empty() {
            lines.push(Line::default());
            spare -= 1;
        }
        lines.extend(section.iter().cloned());
    }
    lines
}

fn header(scene: &Scene<'_>) -> Line {
    let time = match scene.limit {
        Some(limit) => format!("{} of {}", clock(scene.elapsed), clock(limit)),
        None => clock(scene.elapsed),
    };
    let line = Line::default().then(Tone::Strong, " Weir demo").then(Tone::Dim, format!("   {time}   "));
    match (scene.notice, scene.pid) {
        (Some(notice), _) => line.then(Tone::Warn, notice),
        (None, Some(pid)) => line.then(Tone::Dim, format!("Weir is pid {pid} · Ctrl-C ends it")),
        (None, None) => line.then(Tone::Warn, "Weir is away"),
    }
}

fn callers(table: &Table, scene: &Scene<'_>, figures: &Figures) -> Vec<Line> {
    let mut lines = vec![table.head("Callers see", "per s")];
    lines.push(table.row(&figures.callers, &format!("all, {}/s due", scene.rate)));
    for (row, mood) in figures.instances.iter().zip(&scene.moods) {
        lines.push(table.row(row, &format!("{} {mood}", row.name)));
    }
    lines
}

fn history(figures: &Figures, columns: usize) -> Vec<Line> {
    const NOTE: usize = 41;
    let room = columns.saturating_sub(TITLE + 1);
    let wide = columns >= 80;
    let width = if wide { room.saturating_sub(NOTE).min(60) } else { room };
    let line = |title: &str, tone: Tone, values: &[f64], top: Option<f64>, note: String| {
        let line = Line::default().then(Tone::Dim, format!(" {title:<TITLE$}"));
        let line = line.then(tone, sparkline(values, width, top));
        if wide { line.then(Tone::Dim, format!("  {note}")) } else { line }
    };
    let slow: Vec<f64> = figures.p99s.iter().map(|p99| p99.unwrap_or(0.0)).collect();
    let slowest = slow.iter().rev().take(width).copied().fold(0.0, f64::max);
    let of = |who: &str, share: f64| format!("{who} {}", percent(share, 1));
    let Blame { shop, weir, silent } = figures.blame;
    let blame = [of("shop", shop), of("Weir", weir), of("silent", silent)].join(", ");
    vec![
        line("p99, by second", Tone::Calm, &slow, None, format!("up to {}", ms(Some(slowest)))),
        line("errors", Tone::Bad, &figures.wrong, Some(1.0), blame),
    ]
}

fn weir(table: &Table, figures: Option<&WeirFigures>, routes: usize, columns: usize) -> Vec<Line> {
    // An unoptimised build costs many times as much: nobody should take its figures for Weir's.
    let title = if cfg!(debug_assertions) { "Weir says (debug)" } else { "Weir says" };
    let mut lines = vec![table.head(title, "per s")];
    let Some(figures) = figures else {
        lines.push(Line::default().then(Tone::Warn, " nothing: it cannot be asked"));
        return lines;
    };
    lines.push(table.row(&figures.all, &figures.all.name));
    lines.extend(figures.routes.iter().take(routes).map(|row| table.row(row, &row.name)));
    lines.extend(flow(work(figures), columns));
    lines.extend(flow(made(figures), columns));
    lines
}

/// What Weir's work costs and how much of it there is.
fn work(figures: &WeirFigures) -> Vec<Line> {
    [
        format!("CPU {:.0} ms/s", figures.cpu * 1000.0),
        format!("memory {}", bytes(figures.memory)),
        format!("overhead p99 {}", ms(figures.overhead_p99)),
        format!("connections {:.0} in, {:.0} out", figures.connections, figures.pool),
    ]
    .map(|text| Line::default().then(Tone::Plain, text))
    .into()
}

/// The answers that Weir made, by reason, and the attempts behind them.
fn made(figures: &WeirFigures) -> Vec<Line> {
    let tone = if figures.attempts_failed > 0.0 { Tone::Warn } else { Tone::Plain };
    let attempts = Line::default()
        .then(Tone::Plain, format!("attempts {}/s", per_second(figures.attempts)))
        .then(tone, format!(", {} failed", per_second(figures.attempts_failed)));
    let itself = Line::default().then(Tone::Plain, "answered by itself ");
    let itself = if figures.made.is_empty() {
        itself.then(Tone::Good, "nothing")
    } else {
        let reasons: Vec<String> =
            figures.made.iter().map(|(reason, rate)| format!("{reason} {}/s", per_second(*rate))).collect();
        itself.then(Tone::Bad, reasons.join(", "))
    };
    vec![attempts, itself]
}

/// The addresses.
fn addresses(places: &Places, columns: usize) -> Vec<Line> {
    let item = |(name, url)| Line::default().then(Tone::Dim, format!("{name} ")).then(Tone::Calm, url);
    flow(places.addresses().map(item).into(), columns)
}

/// Puts items into as few lines as the width allows.
fn flow(items: Vec<Line>, columns: usize) -> Vec<Line> {
    const BETWEEN: &str = " · ";
    let mut lines: Vec<Line> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(last) if last.width() + BETWEEN.chars().count() + item.width() <= columns => {
                last.extend(Line::default().then(Tone::Dim, BETWEEN));
                last.extend(item);
            }
            _ => {
                let mut line = Line::default().then(Tone::Plain, " ");
                line.extend(item);
                lines.push(line);
            }
        }
    }
    lines
}

fn things(scene: &Scene<'_>, columns: usize) -> Vec<Line> {
    let things = scene.places.things(scene.pid);
    let widest = things.iter().map(|thing| thing.command.chars().count()).max().unwrap_or(0);
    let left = columns.saturating_sub(3 + 9 + widest + 2);
    let line = |(n, thing): (usize, &Thing)| {
        let line = Line::default()
            .then(Tone::Dim, format!(" {n} "))
            .then(Tone::Plain, format!("{:<9}", thing.what))
            .then(Tone::Calm, &thing.command);
        // Half a sentence helps nobody: it is shown whole or not at all.
        match [thing.more, thing.then].into_iter().find(|text| text.chars().count() <= left) {
            Some(text) => {
                let gap = widest.saturating_sub(thing.command.chars().count()) + 2;
                line.then(Tone::Dim, format!("{:gap$}{text}", ""))
            }
            None => line,
        }
    };
    (1..).zip(&things).map(line).collect()
}

/// Width of the first column.
const TITLE: usize = 18;

/// The columns: name, calls a second, a bar with the share, p50, p99, errors.
struct Table {
    bar: usize,
}

impl Table {
    fn new(columns: usize) -> Self {
        const OTHERS: usize = 1 + TITLE + 6 + 1 + 7 + 9 + 9 + 8;
        // A bar of a few blocks says less than the number beside it.
        const LEAST: usize = 4;
        let room = columns.saturating_sub(OTHERS);
        Self { bar: if room < LEAST { 0 } else { room.min(30) } }
    }

    fn head(&self, title: &str, rate: &str) -> Line {
        let share = self.bar + 7;
        Line::default()
            .then(Tone::Strong, format!(" {title:<TITLE$}"))
            .then(Tone::Dim, format!("{rate:>6} {:<share$}{:>9}{:>9}{:>8}", "share", "p50", "p99", "errors"))
    }

    fn row(&self, row: &Row, title: &str) -> Line {
        let title: String = title.chars().take(TITLE).collect();
        let wrong = match row.wrong {
            none if none <= 0.0 => Tone::Dim,
            few if few < 0.1 => Tone::Warn,
            _ => Tone::Bad,
        };
        let quiet = if row.rate > 0.0 { Tone::Plain } else { Tone::Dim };
        Line::default()
            .then(quiet, format!(" {title:<TITLE$}{:>6} ", per_second(row.rate)))
            .then(Tone::Calm, bar(row.share, self.bar))
            .then(quiet, format!("{:>6} ", percent(row.share, 0)))
            .then(quiet, format!("{:>9}{:>9}", ms(row.p50), ms(row.p99)))
            .then(wrong, format!("{:>8}", percent(row.wrong, 1)))
    }
}

/// One plain line for a log.
pub(super) fn plain(scene: &Scene<'_>, figures: &Figures) -> String {
    let callers = &figures.callers;
    let mut parts = vec![
        format!("{:>4}", clock(scene.elapsed)),
        format!("{}/s", per_second(callers.rate)),
        format!("errors {}", percent(callers.wrong, 1)),
        format!("p50 {}", ms(callers.p50)),
        format!("p99 {}", ms(callers.p99)),
        figures
            .instances
            .iter()
            .map(|row| format!("{} {}", row.name, percent(row.share, 0)))
            .collect::<Vec<_>>()
            .join(" "),
    ];
    match &figures.weir {
        None => parts.push("Weir is away".to_owned()),
        Some(weir) => {
            parts.push(format!("Weir: {}/s", per_second(weir.all.rate)));
            parts.push(format!("CPU {:.0} ms/s", weir.cpu * 1000.0));
            parts.push(bytes(weir.memory));
            parts.extend(weir.made.iter().map(|(reason, rate)| format!("{reason} {}/s", per_second(*rate))));
        }
    }
    parts.extend(scene.notice.map(str::to_owned));
    parts.join("  ")
}

/// The lines before the first plain line: where everything is, and what to do.
pub(super) fn welcome(places: &Places, pid: Option<u32>) -> String {
    let mut lines =
        vec!["Weir demo: three toy instances of a shop, Weir before them, a steady load.".to_owned()];
    lines.extend(places.addresses().iter().map(|(name, url)| format!("  {name:<8} {url}")));
    lines.push(format!("  {:<8} {}", "log", places.log().display()));
    lines.push("Five things to do:".to_owned());
    for (n, thing) in (1..).zip(places.things(pid)) {
        lines.push(format!("  {n} {:<9}{}   ({})", thing.what, thing.command, thing.more));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::places::tests::places, *};

    fn row(name: &str, rate: f64, share: f64, wrong: f64) -> Row {
        Row { name: name.into(), rate, share, wrong, p50: Some(0.0042), p99: Some(0.0813) }
    }

    fn figures() -> Figures {
        Figures {
            callers: row("all callers", 198.0, 1.0, 0.011),
            instances: vec![row("a", 90.0, 0.45, 0.0), row("b", 24.0, 0.12, 0.0), row("c", 84.0, 0.43, 0.3)],
            weir: Some(WeirFigures {
                all: row("all requests", 198.0, 1.0, 0.011),
                routes: ["page", "recommendations", "checkout", "everything-else"]
                    .map(|name| row(name, 50.0, 0.25, 0.0))
                    .to_vec(),
                made: vec![("connect_refused".into(), 31.0)],
                attempts: 198.0,
                attempts_failed: 31.0,
                connections: 9.0,
                pool: 14.0,
                overhead_p99: Some(0.000_12),
                cpu: 0.008,
                memory: 12.0 * 1024.0 * 1024.0,
            }),
            p99s: vec![Some(0.08); 30],
            wrong: vec![0.01; 30],
            blame: Blame { shop: 0.013, weir: 0.24, silent: 0.0 },
            policy: std::collections::BTreeMap::new(),
        }
    }

    fn scene(places: &Places) -> Scene<'_> {
        Scene {
            places,
            elapsed: Duration::from_secs(12),
            limit: Some(Duration::from_secs(20)),
            rate: 200,
            pid: Some(4711),
            moods: vec!["normal".into(), "stopped".into(), "flaky".into()],
            notice: None,
        }
    }

    fn shown(columns: usize, rows: usize) -> Vec<String> {
        let places = places();
        lines(&scene(&places), &figures(), Size { columns, rows })
            .iter()
            .map(|line| line.render(false))
            .collect()
    }

    #[test]
    fn a_small_terminal_shows_everything() {
        for columns in [60, 80, 100, 140] {
            let text = shown(columns, 24).join("\n");
            for word in [
                "12s of 20s",
                "4711",
                "b stopped",
                "connect_refused 31/s",
                "CPU 8 ms/s",
                "12.0 MiB",
                "http://127.0.0.1:9902/metrics",
                "http://127.0.0.1:9900/toys",
                "kill -TERM 4711",
                "/toys/b/stop",
            ] {
                assert!(text.contains(word), "{word} is missing at {columns}:\n{text}");
            }
            assert!(!text.contains('…'), "cut at {columns}:\n{text}");
            let routes = ["page", "recommendations", "checkout", "everything-else"];
            let seen = routes.iter().filter(|route| text.contains(*route)).count();
            assert!(seen == 4 || columns < 80, "{seen} routes at {columns}:\n{text}");
        }
    }

    #[test]
    fn columns_line_up() {
        let lines = shown(80, 40);
        let head = lines.iter().find(|line| line.contains("Callers see")).unwrap();
        let width = head.chars().count();
        let rows: Vec<_> =
            lines.iter().filter(|line| line.ends_with(" %") && line.contains(" ms ")).collect();
        assert_eq!(rows.len(), 9);
        for row in rows {
            assert_eq!(row.chars().count(), width, "{row}");
        }
    }

    #[test]
    fn a_wide_terminal_says_what_to_watch() {
        let has = |columns, words: &str| shown(columns, 24).join("\n").contains(words);
        assert!(has(80, "shop 1.3 %, Weir 24.0 %, silent 0.0 %") && has(80, "up to 80 ms"));
        assert!(has(150, "again and again: x-instance"));
        assert!(has(80, "x-instance changes") && !has(80, "again and again"));
        assert!(!has(60, "x-instance"));
    }

    #[test]
    fn while_weir_is_away_it_says_so() {
        let places = places();
        let (mut scene, mut figures) = (scene(&places), figures());
        (scene.pid, figures.weir) = (None, None);
        let lines = lines(&scene, &figures, Size { columns: 80, rows: 24 });
        let text: Vec<_> = lines.iter().map(|line| line.render(false)).collect();
        assert!(text[0].contains("Weir is away") && text.iter().any(|line| line.contains("cannot be asked")));
        assert!(plain(&scene, &figures).contains("Weir is away"));
    }

    #[test]
    fn a_plain_line_has_no_escapes_and_all_that_counts() {
        let places = places();
        let line = plain(&scene(&places), &figures());
        assert!(!line.contains(['\u{1b}', '\n']));
        for word in [
            "12s",
            "198/s",
            "errors 1.1 %",
            "p50 4.2 ms",
            "p99 81 ms",
            "a 45 % b 12 % c 43 %",
            "connect_refused 31/s",
        ] {
            assert!(line.contains(word), "{word} is missing: {line}");
        }
        assert_eq!(welcome(&places, Some(1)).lines().count(), 12);
    }

    proptest! {
        #[test]
        fn it_never_leaves_the_terminal(columns in 0usize..200, rows in 0usize..60) {
            let lines = shown(columns, rows);
            prop_assert!(lines.len() <= rows.saturating_sub(1));
            prop_assert!(lines.iter().all(|line| line.chars().count() <= columns));
        }
    }
}
