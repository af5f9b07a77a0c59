//! How `hmd release` ends: exit codes that a script can go by, and errors with what a person needs.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Deserialize;

/// An exit code. From 64 on they are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The release succeeded, or the command did what it should.
    Succeeded,
    /// All traffic is on the old version again.
    Reverted,
    /// It ended without a result of its own: superseded or cancelled.
    Superseded,
    /// The time was up, and it still goes on.
    StillRunning,
    /// The command line can't be understood, or something that it needs is missing from it.
    Usage,
    /// HMD answered and refused.
    Refused,
    /// A file can't be read.
    NoInput,
    /// HMD could not be reached, or could not answer.
    Unreachable,
    /// An answer could not be written down.
    NoOutput,
    /// HMD does not accept the token.
    NotAuthorized,
    /// A signal ended the waiting; the release goes on.
    Signal(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Reverted => 1,
            Self::Superseded => 2,
            Self::StillRunning => 3,
            Self::Usage => 64,
            Self::Refused => 65,
            Self::NoInput => 66,
            Self::Unreachable => 69,
            Self::NoOutput => 74,
            Self::NotAuthorized => 77,
            Self::Signal(number) => 128 + number,
        }
    }

    /// What a release in this state means for whoever waited for its end.
    pub fn of_state(state: &str) -> Self {
        match state {
            "succeeded" => Self::Succeeded,
            "reverted" => Self::Reverted,
            "superseded" | "cancelled" => Self::Superseded,
            _ => Self::StillRunning,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A refusal as HMD words it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Problem {
    /// Short, the same for the same kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    #[serde(default)]
    pub detail: String,
    /// What is wrong with the body, field by field.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FieldError {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What.
    pub detail: String,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// Something is missing from the command line or the environment.
    Usage(String),
    /// A file can't be read.
    Input(String),
    /// HMD refused.
    Refused(Problem),
    /// HMD could not be reached, or what is there is not HMD.
    Unreachable(String),
    /// An answer could not be written down.
    Output(String),
}

impl Error {
    /// Its exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Input(_) => Exit::NoInput,
            Self::Refused(problem) if matches!(problem.status, 401 | 403) => Exit::NotAuthorized,
            Self::Refused(problem) if problem.status >= 500 => Exit::Unreachable,
            Self::Refused(_) => Exit::Refused,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Output(_) => Exit::NoOutput,
        }
    }

    /// For people, perhaps in several lines.
    pub fn text(&self) -> String {
        match self {
            Self::Usage(text) | Self::Input(text) | Self::Output(text) => text.clone(),
            Self::Unreachable(text) => format!("HMD can't be reached: {text}"),
            Self::Refused(problem) => {
                let mut text = format!("{} ({})", problem.title, problem.status);
                // The detail of a bad body only repeats its fields.
                if problem.errors.is_empty() && !problem.detail.is_empty() {
                    let _ = write!(text, ": {}", problem.detail);
                }
                for error in &problem.errors {
                    let _ = write!(text, "\n  {}: {}", error.pointer, error.detail);
                }
                if problem.status == 401 {
                    text += "\nhint: is HMD_API_TOKEN the token of this installation?";
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_release_has_its_code() {
        let codes = [
            ("succeeded", 0),
            ("reverted", 1),
            ("superseded", 2),
            ("cancelled", 2),
            ("rolling_out", 3),
            ("awaiting_approval", 3),
            ("reverting", 3),
            ("queued", 3),
        ];
        for (state, code) in codes {
            assert_eq!(Exit::of_state(state).code(), code, "{state}");
        }
    }

    fn problem(status: u16, errors: &[(&str, &str)]) -> Error {
        let errors = errors.iter().map(|(pointer, detail)| FieldError {
            pointer: (*pointer).to_owned(),
            detail: (*detail).to_owned(),
        });
        Error::Refused(Problem {
            title: "Invalid request".to_owned(),
            status,
            detail: "what happened".to_owned(),
            errors: errors.collect(),
        })
    }

    #[test]
    fn each_failure_has_its_code() {
        let codes = [
            (Error::Usage(String::new()), 64),
            (problem(422, &[]), 65),
            (problem(409, &[]), 65),
            (Error::Input(String::new()), 66),
            (problem(503, &[]), 69),
            (Error::Unreachable(String::new()), 69),
            (Error::Output(String::new()), 74),
            (problem(401, &[]), 77),
        ];
        for (error, code) in codes {
            assert_eq!(error.exit().code(), code, "{error:?}");
        }
        assert_eq!(Exit::Signal(2).code(), 130);
    }

    #[test]
    fn a_refusal_shows_its_detail_and_each_field() {
        assert_eq!(
            problem(409, &[]).text(),
            "Invalid request (409): what happened"
        );
        let fields = [("/plan", "is not there"), ("/stages/0", "is wrong")];
        assert_eq!(
            problem(422, &fields).text(),
            "Invalid request (422)\n  /plan: is not there\n  /stages/0: is wrong"
        );
        assert!(problem(401, &[]).text().contains("HMD_API_TOKEN"));
    }
}
