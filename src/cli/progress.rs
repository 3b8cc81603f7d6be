//! Progress in a terminal, and in a file.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How far, how fast and how long still: a bar in a terminal, now and then a line elsewhere.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// When the last line was printed.
    line: Mutex<Instant>,
}

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Nothing of `total` done yet.
    pub fn new(total: usize, what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg}").expect("a valid template");
        let bar = ProgressBar::new(total as u64).with_style(style).with_prefix(what);
        Progress { bar, what, line: Mutex::new(Instant::now()) }
    }

    /// `by` more are done; `message` says how it goes.
    pub fn advance(&self, by: usize, message: impl FnOnce() -> String) {
        self.bar.inc(by as u64);
        let finished = self.bar.position() >= self.bar.length().unwrap_or(0);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        } else if let Ok(mut line) = self.line.lock()
            && (finished || line.elapsed() >= LINE_EVERY)
        {
            *line = Instant::now();
            say!("{} {}/{} {}", self.what, self.bar.position(), self.bar.length().unwrap_or(0), message());
        }
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        self.bar.finish();
    }
}
