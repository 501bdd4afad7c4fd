//! Where answers go: for people or for programs.

use std::io::{self, Write};

use serde::Serialize;

/// Standard output, or a test's buffer.
pub struct Output {
    writer: Box<dyn Write + Send>,
    /// One JSON object per line.
    pub json: bool,
    /// Bars make sense.
    pub terminal: bool,
}

/// A JSON object that says what it is.
#[derive(Serialize)]
struct Tagged<'a, T> {
    event: &'a str,
    #[serde(flatten)]
    value: &'a T,
}

impl Output {
    /// Write to `writer`.
    #[must_use]
    pub fn new(writer: Box<dyn Write + Send>, json: bool, terminal: bool) -> Self {
        Self { writer, json, terminal: terminal && !json }
    }

    /// For people: `text`. For programs: nothing.
    ///
    /// # Errors
    /// Writing failed.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    /// For programs: `value` as a line. For people: nothing.
    ///
    /// # Errors
    /// Writing failed.
    pub fn object(&mut self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        serde_json::to_writer(&mut self.writer, value)?;
        self.writer.write_all(b"\n")?;
        self.writer.flush()
    }

    /// As [`Self::object`], with `event` saying what it is.
    ///
    /// # Errors
    /// Writing failed.
    pub fn event(&mut self, event: &str, value: &impl Serialize) -> io::Result<()> {
        self.object(&Tagged { event, value })
    }
}
