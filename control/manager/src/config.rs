//! `manager.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidegate_api::endpoint::Endpoint;
use tidegate_config::ConfigError;
use toml::Spanned;

use crate::{
    error::Error,
    peers::{Inventory, Peer},
};

/// What the manager is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it serves the API.
    pub listen: Vec<Endpoint>,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// The switches and hosts it drives.
    pub inventory: Inventory,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    api: Api,
    state_dir: PathBuf,
    #[serde(default)]
    switch: Vec<Node>,
    #[serde(default)]
    host: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Api {
    listen: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: Spanned<String>,
    endpoint: Spanned<String>,
}

impl Config {
    /// Read the file at `path`.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line and column.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parse `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line and column.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let file: File = tidegate_config::parse(path, text)?;
        let endpoint = |entry: &Spanned<String>| {
            entry
                .get_ref()
                .parse::<Endpoint>()
                .map_err(|error| ConfigError::at(path, text, entry.span(), error.to_string()))
        };
        let peers = |role: &'static str, nodes: &[Node]| {
            let mut peers: Vec<Peer> = Vec::new();
            for node in nodes {
                let name = node.name.get_ref();
                let problem = if name.is_empty() {
                    Some(format!("a {role} needs a name"))
                } else if peers.iter().any(|peer| peer.name() == name) {
                    Some(format!("there are two {role} entries named `{name}`"))
                } else {
                    None
                };
                if let Some(problem) = problem {
                    return Err(ConfigError::at(path, text, node.name.span(), problem));
                }
                peers.push(Peer::new(role, name, endpoint(&node.endpoint)?));
            }
            Ok(peers)
        };
        let listen = file.api.listen.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        if listen.is_empty() {
            let problem = "api.listen is empty: nobody could reach the manager";
            return Err(ConfigError::at(path, text, 0..0, problem).into());
        }
        Ok(Self {
            listen,
            state_dir: file.state_dir,
            inventory: Inventory {
                switches: peers("switch", &file.switch)?,
                hosts: peers("host", &file.host)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
state_dir = "/var/lib/tidegate/manager"

[api]
listen = ["unix:/run/tidegate/manager.sock", "127.0.0.1:7432"]

[[switch]]
name = "edge"
endpoint = "unix:/run/tidegate/switch.sock"

[[host]]
name = "h1"
endpoint = "127.0.0.1:7431"
"#;

    fn message(text: &str) -> String {
        Config::parse(Path::new("manager.toml"), text).expect_err("refused").to_string()
    }

    #[test]
    fn reads_what_the_manual_shows() {
        let config = Config::parse(Path::new("manager.toml"), GOOD).expect("good");
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.inventory.hosts[0].name(), "h1");
    }

    #[test]
    fn an_unknown_key_says_where_and_what_is_allowed() {
        let text = message(&GOOD.replace("[api]\n", "[api]\n  lisen = 1\n"));
        assert!(text.starts_with("manager.toml:5:3: unknown key `lisen`"), "{text}");
        assert!(text.contains("allowed here: `listen`"), "{text}");
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let twice = format!("{GOOD}\n[[host]]\nname = \"h1\"\nendpoint = \"127.0.0.1:1\"\n");
        assert_eq!(message(&twice), "manager.toml:16:8: there are two host entries named `h1`");
        let text = message(&GOOD.replace("127.0.0.1:7431", "nowhere"));
        assert!(text.starts_with("manager.toml:13:12: `nowhere` is not an endpoint"), "{text}");
        assert!(message("[api]\nlisten = []\n").contains("state_dir"));
    }
}
