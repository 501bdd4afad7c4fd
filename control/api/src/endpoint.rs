//! Where a gRPC server listens or a client connects: `host:port`, `http://host:port` or `unix:/path`.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    service::Routes,
    transport::{Channel, Server, Uri},
};

/// A place to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Plain TCP, `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why an endpoint could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is neither `host:port` nor `unix:/path`.
    #[error(
        "`{0}` is not an endpoint; write `host:port`, `http://host:port` or `unix:/absolute/path`"
    )]
    Syntax(String),
    /// Binding failed.
    #[error("cannot listen on {endpoint}: {source}")]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// Connecting failed.
    #[error("cannot reach {endpoint}: {reason}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// Why, innermost cause.
        reason: String,
    },
    /// The server stopped with an error.
    #[error("server on {endpoint} failed: {reason}")]
    Serve {
        /// Where.
        endpoint: Endpoint,
        /// Why, innermost cause.
        reason: String,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => f.write_str(authority),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Syntax(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() { Ok(Self::Unix(path.to_owned())) } else { Err(bad()) };
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Self::Tcp(authority.to_owned()))
    }
}

/// A bound listener, so that a caller knows the address is taken before it announces itself.
pub struct Listener {
    endpoint: Endpoint,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Bind `endpoint`. A Unix socket nobody listens on any more is replaced; its mode is 0600.
    ///
    /// # Errors
    /// [`EndpointError::Listen`] when the address is taken or not permitted.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        let listen = |source| EndpointError::Listen { endpoint: endpoint.clone(), source };
        let socket = match endpoint {
            Endpoint::Tcp(authority) => {
                Socket::Tcp(TcpListener::bind(authority.as_str()).await.map_err(listen)?)
            }
            Endpoint::Unix(path) => {
                remove_stale_socket(path).await.map_err(listen)?;
                let listener = UnixListener::bind(path).map_err(listen)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(listen)?;
                Socket::Unix(listener)
            }
        };
        Ok(Self { endpoint: endpoint.clone(), socket })
    }

    /// The TCP address that was bound, to learn the port after binding port 0.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Serve `routes` until `shutdown` resolves and every connection has ended. A Unix socket's file is removed as
    /// soon as `shutdown` resolves, while it is still ours: another process may listen there before the last
    /// connection has ended.
    ///
    /// # Errors
    /// [`EndpointError::Serve`] when accepting fails for good.
    pub async fn serve(
        self,
        routes: Routes,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), EndpointError> {
        let router = Server::builder().add_routes(routes);
        let shutdown = async {
            shutdown.await;
            self.endpoint.remove_socket();
        };
        let served = match self.socket {
            Socket::Tcp(listener) => {
                router
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown)
                    .await
            }
            Socket::Unix(listener) => {
                router
                    .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
                    .await
            }
        };
        served.map_err(|error| {
            self.endpoint.remove_socket();
            EndpointError::Serve { endpoint: self.endpoint.clone(), reason: innermost(&error) }
        })
    }
}

impl Endpoint {
    fn remove_socket(&self) {
        if let Self::Unix(path) = self {
            // Already gone is fine: somebody tidied up before us.
            let _ = fs::remove_file(path);
        }
    }
}

async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process is listening there",
                ));
            }
            fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is there",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connect to `endpoint`.
///
/// # Errors
/// [`EndpointError::Connect`] when nothing answers within five seconds.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, EndpointError> {
    let refused = |error: &dyn std::error::Error| EndpointError::Connect {
        endpoint: endpoint.clone(),
        reason: innermost(error),
    };
    let limit = Duration::from_secs(5);
    match endpoint {
        Endpoint::Tcp(authority) => {
            let uri: Uri = format!("http://{authority}")
                .parse()
                .map_err(|_| EndpointError::Syntax(authority.clone()))?;
            let channel = Channel::builder(uri).connect_timeout(limit).tcp_nodelay(true);
            channel.connect().await.map_err(|error| refused(&error))
        }
        Endpoint::Unix(path) => {
            let path = path.clone();
            let dial = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            // The authority is only a name here: the connector ignores it.
            let channel = Channel::from_static("http://localhost").connect_timeout(limit);
            channel.connect_with_connector(dial).await.map_err(|error| refused(&error))
        }
    }
}

/// The transport's own text is "transport error"; what an operator needs is the cause at the bottom.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        let tcp = |text: &str| Endpoint::Tcp(text.to_owned());
        assert_eq!("127.0.0.1:7430".parse::<Endpoint>().expect("tcp"), tcp("127.0.0.1:7430"));
        assert_eq!("http://box:1/".parse::<Endpoint>().expect("http"), tcp("box:1"));
        assert_eq!("unix:/a/b".parse::<Endpoint>().expect("unix"), Endpoint::Unix("/a/b".into()));
        assert_eq!("unix:///a".parse::<Endpoint>().expect("unix"), Endpoint::Unix("/a".into()));
        for bad in ["", "box", "unix:relative", "box:port", ":1", "http://a/b:1"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
