//! One thread per session: read a line, count, answer.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    mem,
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use crate::{
    counters::{Counters, CountersError},
    identity::Identity,
    protocol::{Answer, BadLine, Line, MAX_LINE_BYTES},
};

/// How soon a silent session notices that it was cloned.
const IDENTITY_CHECK: Duration = Duration::from_millis(500);
/// A session's thread reads a line and writes a line.
const STACK_BYTES: usize = 128 * 1024;

/// What every session needs.
pub struct Service {
    /// Which guest this is.
    pub identity: Identity,
    /// Where requests are counted.
    pub counters: Counters,
}

/// Why a session ended otherwise than by its client closing it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection, or asking for the identity, failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client said something else.
    #[error(transparent)]
    BadLine(#[from] BadLine),
    /// A line without end.
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    LongLine,
    /// A request for another session, or before `HELLO`.
    #[error("`{line}` does not belong to this connection")]
    OtherSession {
        /// What was said.
        line: Line,
    },
    /// The region failed.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// This guest is a clone; the session belongs to the guest it was cloned from.
    #[error("the session belongs to {born}, this is {now}")]
    Inherited {
        /// Name of the guest that accepted it.
        born: String,
        /// Name of this guest.
        now: String,
    },
}

/// Accept sessions for ever.
///
/// # Errors
/// When a session's thread cannot be started, or accepting fails for good.
pub fn serve(listener: &TcpListener, service: Service) -> io::Result<()> {
    let service = Arc::new(service);
    loop {
        let (stream, client) = match listener.accept() {
            Ok(accepted) => accepted,
            // The client went away before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let service = Arc::clone(&service);
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            if let Err(error) = session(stream, &service) {
                println!("session of {client} ended: {error}");
            }
        })?;
    }
}

fn session(stream: TcpStream, service: &Service) -> Result<(), SessionError> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDENTITY_CHECK))?;
    let born = service.identity.read()?;
    let mut lines = BufReader::with_capacity(MAX_LINE_BYTES * 4, &stream);
    let mut text = Vec::with_capacity(MAX_LINE_BYTES);
    let mut hello = None;
    let mut linger = Duration::ZERO;
    loop {
        let more = read_line(&mut lines, &mut text)?;
        let now = service.identity.read()?;
        if now != born {
            // The source's client must not hear from us: reset instead of an orderly end that would be repeated.
            set_socket_linger(&stream, Some(Duration::ZERO)).map_err(io::Error::from)?;
            return Err(SessionError::Inherited { born, now });
        }
        match more {
            Read::Line => {}
            Read::Silence => continue,
            Read::End if linger.is_zero() => return Ok(()),
            Read::End => {
                thread::sleep(mem::take(&mut linger));
                // Whether this is a clone is asked once more; the end stays where it is.
                continue;
            }
        }
        let line: Line = String::from_utf8_lossy(&text).parse()?;
        text.clear();
        match line {
            Line::Hello { session } if hello.is_none() => hello = Some(session),
            Line::Request { session, sequence } if hello == Some(session) => {
                service.counters.count(session)?;
                let answer = Answer { identity: now, session, sequence };
                (&stream).write_all(format!("{answer}\n").as_bytes())?;
            }
            Line::Linger { ms } if hello.is_some() => linger = Duration::from_millis(ms.into()),
            line => return Err(SessionError::OtherSession { line }),
        }
    }
}

enum Read {
    Line,
    Silence,
    End,
}

/// Read up to the end of a line into `text`, without it. What came before a silence stays there.
fn read_line(lines: &mut BufReader<&TcpStream>, text: &mut Vec<u8>) -> Result<Read, SessionError> {
    loop {
        let bytes = match lines.fill_buf() {
            Ok([]) => return Ok(Read::End),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                return Ok(Read::Silence);
            }
            Err(error) => return Err(error.into()),
        };
        let (line, used) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (Some(end), end + 1),
            None => (None, bytes.len()),
        };
        text.extend_from_slice(&bytes[..line.unwrap_or(used)]);
        lines.consume(used);
        if text.len() >= MAX_LINE_BYTES {
            return Err(SessionError::LongLine);
        }
        if line.is_some() {
            return Ok(Read::Line);
        }
    }
}

#[cfg(test)]
mod tests;
