//! What `pkg-config` prints, taken apart.

use std::path::PathBuf;

/// The C compiler's flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompileFlags {
    /// All flags, in order, as a compiler takes them. Give these to libclang and to the C compiler.
    pub all: Vec<String>,
    /// The folders among them (`-I`, `-isystem`).
    pub include_paths: Vec<PathBuf>,
}

impl CompileFlags {
    /// Takes apart one line of `pkg-config --cflags`.
    pub fn parse(line: &str) -> Self {
        let all = split(line);
        let mut include_paths = Vec::new();
        let mut words = all.iter();
        while let Some(word) = words.next() {
            for flag in ["-isystem", "-I"] {
                if let Some(path) = word.strip_prefix(flag) {
                    // The folder is either glued to the flag or the next word.
                    let path =
                        if path.is_empty() { words.next().map(String::as_str) } else { Some(path) };
                    include_paths.extend(path.map(PathBuf::from));
                    break;
                }
            }
        }
        Self { all, include_paths }
    }
}

/// One instruction to the linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// `-L`: a folder to search.
    Search(PathBuf),
    /// `-l`: a shared library.
    Library(String),
    /// Anything else, for example `-Wl,--as-needed` or `-pthread`.
    Argument(String),
}

impl Link {
    /// The directive that makes cargo do it.
    pub fn cargo_directive(&self) -> String {
        match self {
            Self::Search(path) => format!("cargo::rustc-link-search=native={}", path.display()),
            Self::Library(name) => format!("cargo::rustc-link-lib=dylib={name}"),
            Self::Argument(text) => format!("cargo::rustc-link-arg={text}"),
        }
    }
}

/// Takes apart one line of `pkg-config --libs`.
pub(crate) fn parse_link(line: &str) -> Vec<Link> {
    let mut words = split(line).into_iter();
    let mut link = Vec::new();
    while let Some(word) = words.next() {
        let (flag, value) = match word.get(..2) {
            Some(flag @ ("-L" | "-l")) => (flag, &word[2..]),
            _ => {
                link.push(Link::Argument(word));
                continue;
            }
        };
        let value = if value.is_empty() { words.next() } else { Some(value.to_owned()) };
        let Some(value) = value else { continue };
        link.push(if flag == "-L" { Link::Search(value.into()) } else { Link::Library(value) });
    }
    link
}

/// Splits as a shell would: blanks separate, `\` keeps the next character, quotes keep blanks.
/// `pkg-config` escapes blanks in paths this way.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default().extend(characters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(open)) if c == open => quote = None,
            (_, None) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_compiler_flag_in_order() {
        let flags = CompileFlags::parse(
            "-I/usr/include/dpdk -I /opt/x -include rte_config.h -march=corei7 -isystem /sys -mno-avx512f ",
        );
        assert_eq!(
            flags.all,
            [
                "-I/usr/include/dpdk",
                "-I",
                "/opt/x",
                "-include",
                "rte_config.h",
                "-march=corei7",
                "-isystem",
                "/sys",
                "-mno-avx512f"
            ]
        );
        assert_eq!(flags.include_paths, ["/usr/include/dpdk", "/opt/x", "/sys"].map(PathBuf::from));
    }

    #[test]
    fn include_of_a_header_is_not_a_folder() {
        assert!(CompileFlags::parse("-include rte_config.h").include_paths.is_empty());
    }

    #[test]
    fn links_in_order() {
        assert_eq!(
            parse_link("-L/opt/lib -Wl,--as-needed -lrte_eal -l rte_ethdev -pthread"),
            [
                Link::Search("/opt/lib".into()),
                Link::Argument("-Wl,--as-needed".into()),
                Link::Library("rte_eal".into()),
                Link::Library("rte_ethdev".into()),
                Link::Argument("-pthread".into()),
            ]
        );
    }

    #[test]
    fn blanks_in_paths_survive() {
        assert_eq!(
            parse_link(r#"-L/a\ b "-L/c d" -L'/e "f'"#),
            ["/a b", "/c d", "/e \"f"].map(|path| Link::Search(path.into()))
        );
    }

    #[test]
    fn directives_are_cargo_syntax() {
        let line = |link: Link| link.cargo_directive();
        assert_eq!(line(Link::Library("rte_eal".into())), "cargo::rustc-link-lib=dylib=rte_eal");
        assert_eq!(line(Link::Search("/x".into())), "cargo::rustc-link-search=native=/x");
        assert_eq!(line(Link::Argument("-pthread".into())), "cargo::rustc-link-arg=-pthread");
    }
}
