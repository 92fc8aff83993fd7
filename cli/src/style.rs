//! Colours, only where a person looks: on a terminal, and not when `NO_COLOR` is set.

use std::io::IsTerminal;

fn coloured(terminal: bool, code: &str, text: &str) -> String {
    if terminal && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// For what failed; judged by standard error, where it is printed.
pub fn red(text: &str) -> String {
    coloured(std::io::stderr().is_terminal(), "31;1", text)
}

/// For what passed.
pub fn green(text: &str) -> String {
    coloured(std::io::stdout().is_terminal(), "32;1", text)
}

/// For what matters less.
pub fn dim(text: &str) -> String {
    coloured(std::io::stdout().is_terminal(), "2", text)
}

/// For headings.
pub fn bold(text: &str) -> String {
    coloured(std::io::stdout().is_terminal(), "1", text)
}
