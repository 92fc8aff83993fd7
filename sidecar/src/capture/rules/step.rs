//! One command of several.

use std::fmt;

/// One command, and when it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Has to succeed. The text is its standard input.
    Run(Vec<String>, String),
    /// The second has to succeed, and is run only where the first fails.
    Unless(Vec<String>, Vec<String>),
    /// May fail: what it takes away may not be there.
    Try(Vec<String>),
}

/// Words of a command line.
pub(super) fn words(line: &str) -> Vec<String> {
    line.split_ascii_whitespace().map(str::to_string).collect()
}

impl fmt::Display for Step {
    /// As a line of a shell script.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(command, input) => {
                write!(f, "{} <<'END'\n{}\nEND", command.join(" "), input.trim_end())
            }
            Self::Unless(test, command) => {
                write!(f, "{} 2>/dev/null || {}", test.join(" "), command.join(" "))
            }
            Self::Try(command) => write!(f, "{} 2>/dev/null || true", command.join(" ")),
        }
    }
}
