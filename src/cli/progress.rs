//! Progress in a terminal, and in a file.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::processes;

/// How far, how fast and how long still: a bar in a terminal, now and then a line elsewhere.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// Where lines go that stand in for the bar: to standard error, if results go to standard output as they come.
    aside: bool,
    /// When the last line was printed.
    line: Mutex<Instant>,
}

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Nothing of `total` done yet.
    pub fn new(total: usize, what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg}").expect("a valid template");
        let bar = if processes::speaks() { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        let bar = bar.with_style(style).with_prefix(what);
        Progress { bar, what, aside: false, line: Mutex::new(Instant::now()) }
    }

    /// For work whose results are printed as they come: leaves standard output to them, and is to be
    /// [cleared](Self::clear) before each.
    pub fn beside_results(total: usize, what: &'static str) -> Self {
        Progress { aside: true, ..Progress::new(total, what) }
    }

    /// `by` more are done; `message` says how it goes.
    pub fn advance(&self, by: usize, message: impl FnOnce() -> String) {
        self.bar.inc(by as u64);
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let finished = by > 0 && done >= total;
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        } else if let Ok(mut line) = self.line.lock()
            && (finished || line.elapsed() >= LINE_EVERY)
        {
            *line = Instant::now();
            let line = format!("{} {done}/{total} {}", self.what, message());
            if self.aside { note!("{line}") } else { say!("{line}") }
        }
    }

    /// All are done, and now this is.
    pub fn note(&self, message: String) {
        self.advance(0, || message);
    }

    /// Leaves the place of the bar to what is printed next.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        self.bar.finish();
    }
}
