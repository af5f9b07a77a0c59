//! Where it is said: a table drawn in place in a terminal, plain lines in a log.

use std::io::Write as _;

use console::Term;

use super::exit::Error;
use crate::demo_view::Screen;

/// Where progress goes. With `--json` stdout belongs to the JSON, and everything for people goes to stderr.
pub struct Out {
    screen: Option<Screen>,
    stderr: bool,
}

impl Out {
    /// A table if a person sits there, else lines.
    pub fn new(json: bool) -> Self {
        let term = if json { Term::stderr() } else { Term::stdout() };
        // A CI system may give its jobs a terminal, but nobody sits there.
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
        let live = term.features().is_attended() && !in_ci && !dumb;
        Self {
            screen: live.then(|| Screen::on(term)),
            stderr: json,
        }
    }

    /// Whether a table can be drawn in place.
    pub fn is_live(&self) -> bool {
        self.screen.is_some()
    }

    /// Draws the table over the one before, if somebody sees it.
    pub fn draw(&mut self, lines: &[String]) {
        if let Some(screen) = &mut self.screen {
            // A terminal that is gone is no reason to stop waiting.
            let _ = screen.draw(lines);
        }
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        let _ = match &mut self.screen {
            Some(screen) => screen.say(line),
            None if self.stderr => writeln!(std::io::stderr(), "{line}"),
            None => writeln!(std::io::stdout(), "{line}"),
        };
    }
}

/// Prints what somebody asked for. Unlike progress, it must arrive.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::Output(format!("stdout can't be written: {error}")))
}
