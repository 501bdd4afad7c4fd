//! Loads a TOML configuration file. An error says file, line, column, the offending key and what is
//! allowed; as a [`miette::Diagnostic`] it shows the line itself.
//!
//! ```no_run
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     name: String,
//! }
//! # fn main() -> Result<(), tidegate_config::ConfigError> {
//! let config: Config = tidegate_config::load("hostd.toml".as_ref())?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::de::DeserializeOwned;

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read configuration {}: {source}", path.display())]
    #[diagnostic(help("give the file's path with --config"))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not TOML, or a key or value is not one that is known.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, with the key and what is allowed.
        message: String,
        /// The file's text, for showing the line.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Where in the text.
        #[label("here")]
        span: SourceSpan,
    },
}

impl ConfigError {
    /// An error at `span` (bytes) of `text`, for checks that serde cannot make: two entries with the same
    /// address, a reference to a port that is not configured.
    #[must_use]
    pub fn at(path: &Path, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Invalid {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            text: Arc::new(NamedSource::new(path.display().to_string(), text.to_owned())),
            span: (start, span.end.saturating_sub(span.start)).into(),
        }
    }
}

/// Read and parse the file at `path`. Give the structs `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// [`ConfigError::Read`], or [`ConfigError::Invalid`] with the place.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parse `text`; `path` is only named in errors.
///
/// # Errors
/// [`ConfigError::Invalid`] with the place.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        // An error about the file as a whole (a key is missing) has the whole file or nothing as its span.
        let span = error.span().unwrap_or(0..0);
        ConfigError::at(path, text, span, explain(error.message()))
    })
}

/// serde's words for the commonest mistake, in an operator's.
fn explain(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else {
        return message.to_owned();
    };
    match rest.split_once(", expected ") {
        Some((key, allowed)) => {
            let allowed = allowed.strip_prefix("one of ").unwrap_or(allowed);
            format!("unknown key {key}; allowed here: {}", allowed.replace("` or `", "`, `"))
        }
        None => format!(
            "unknown key {}",
            rest.replace(", there are no fields", "; none is allowed here")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Config {
        name: String,
        #[serde(default)]
        api: Option<Api>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Api {
        listen: Vec<String>,
        backlog: Option<u32>,
    }

    fn message(text: &str) -> String {
        parse::<Config>(Path::new("hostd.toml"), text).expect_err("refused").to_string()
    }

    #[test]
    fn unknown_key_says_where_and_what_is_allowed() {
        assert_eq!(
            message("name = \"h1\"\n\n[api]\nlisten = []\n  lisen = 3\n"),
            "hostd.toml:5:3: unknown key `lisen`; allowed here: `listen`, `backlog`"
        );
        assert_eq!(
            message("nam = 1\n"),
            "hostd.toml:1:1: unknown key `nam`; allowed here: `name`, `api`"
        );
    }

    #[test]
    fn wrong_type_and_syntax_have_a_place() {
        assert!(message("name = 3\n").starts_with("hostd.toml:1:8: invalid type"));
        assert!(message("name = \"x\"\nwhat\n").starts_with("hostd.toml:2:"));
        assert!(message("").contains("missing field `name`"));
    }

    #[test]
    fn columns_count_characters() {
        assert!(message("name = \"x\" # é\n[api]\n\"é\" = 1\n").starts_with("hostd.toml:3:1:"));
        let error = ConfigError::at(Path::new("a"), "é = 1", 3..4, "x");
        assert_eq!(error.to_string(), "a:1:3: x");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>(Path::new("/nonexistent/hostd.toml")).expect_err("missing");
        assert!(
            error.to_string().starts_with("cannot read configuration /nonexistent/hostd.toml:")
        );
    }

    #[test]
    fn rendering_shows_the_line() {
        let error =
            parse::<Config>(Path::new("hostd.toml"), "name = \"a\"\nfoo = 1\n").expect_err("bad");
        let shown = format!("{:?}", miette::Report::new(error));
        assert!(shown.contains("foo = 1"), "{shown}");
    }
}
