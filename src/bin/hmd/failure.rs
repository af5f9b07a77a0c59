//! A failure with what a person needs to mend it: the tool's own last words and a command to try.

use std::fmt;

/// An error that carries the last lines of a tool's output and a hint. `main` prints all three.
#[derive(Debug)]
pub struct Failure {
    what: String,
    output: Vec<String>,
    hint: String,
}

impl Failure {
    /// A failure that says `what` went wrong and how to mend it.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            output: Vec::new(),
            hint: hint.into(),
        }
    }

    /// Adds the last lines that the failing tool printed.
    #[must_use]
    pub fn with_output(mut self, output: Vec<String>) -> Self {
        self.output = output;
        self
    }

    /// How to mend it.
    #[cfg(test)]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Prints an error with its causes, the failing tool's output and the hint, all to stderr.
pub fn print(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    // Not by way of the chain: there, a failure that was added as context has another type.
    if let Some(failure) = error.downcast_ref::<Failure>() {
        for line in &failure.output {
            eprintln!("  | {line}");
        }
        eprintln!("hint: {}", failure.hint);
    }
}
