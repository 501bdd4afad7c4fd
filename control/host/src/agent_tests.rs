use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;

/// An agent that takes a line and says the next of `answers`; `ID` in it is the number it was asked with. Then it
/// closes, or keeps silent when `silent`.
struct Fake {
    _dir: tempfile::TempDir,
    path: PathBuf,
    commands: Arc<Mutex<Vec<String>>>,
}

fn fake(answers: Vec<Vec<u8>>, silent: bool) -> Fake {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).expect("bind");
    let commands = Arc::<Mutex<Vec<String>>>::default();
    let heard = commands.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        for answer in answers {
            let mut line = Vec::new();
            let _ = reader.read_until(b'\n', &mut line).await;
            let line = line.strip_prefix(&[DELIMITER]).unwrap_or(&line);
            // Nobody asks for more.
            let Ok(request) = serde_json::from_slice::<Value>(line) else { return };
            let command = request["execute"].as_str().expect("a command").to_owned();
            heard.lock().expect("lock").push(command);
            let id = request["arguments"]["id"].to_string();
            let answer = match answer.windows(2).position(|two| two == b"ID") {
                Some(at) => [&answer[..at], id.as_bytes(), &answer[at + 2..]].concat(),
                None => answer,
            };
            // The other side may have heard enough.
            if writer.write_all(&answer).await.is_err() {
                return;
            }
        }
        if silent {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    });
    Fake { _dir: dir, path, commands }
}

/// Enough for this fake on a busy machine, and not too long for those that say nothing.
const PATIENCE: Duration = Duration::from_millis(300);
const FOUND: &[u8] = b"\xff{\"return\": ID}\n";
const OPENED: &[u8] = b"{\"return\": 1000}\n";
const CLOSED: &[u8] = b"{\"return\": {}}\n";

fn read(bytes: &[u8], eof: bool) -> Vec<u8> {
    let (count, text) = (bytes.len(), BASE64.encode(bytes));
    let answer = json!({ "return": { "count": count, "buf-b64": text, "eof": eof } });
    format!("{answer}\n").into_bytes()
}

/// What reading a file of at most 100 bytes gives when the agent answers so, and how often it was asked to close it.
async fn reading_and_closing(answers: &[&[u8]], silent: bool) -> (Result<Vec<u8>, String>, usize) {
    let fake = fake(answers.iter().map(|answer| answer.to_vec()).collect(), silent);
    let read =
        async { Agent::connect(&fake.path, PATIENCE).await?.read_file("/proc/x", 100).await };
    let read = read.await.map_err(|error| error.to_string());
    let commands = fake.commands.lock().expect("lock");
    (read, commands.iter().filter(|command| *command == "guest-file-close").count())
}

async fn reading(answers: &[&[u8]], silent: bool) -> Result<Vec<u8>, String> {
    reading_and_closing(answers, silent).await.0
}

#[tokio::test]
async fn a_file_comes_in_pieces() {
    let (first, last) = (read(b"one ", false), read(b"two", true));
    let contents = reading(&[FOUND, OPENED, &first, &last, CLOSED], false).await;
    assert_eq!(contents.expect("read"), b"one two");
    let contents = reading(&[FOUND, OPENED, &read(b"", true), CLOSED], false).await;
    assert_eq!(contents.expect("read"), b"");
}

#[tokio::test]
async fn answers_to_somebody_else_are_passed_over() {
    let stale = b"{\"return\":{\"count\":3}}\nhalf a li\xff{\"return\": 5}\n\xff{\"return\": ID}\n";
    let contents = reading(&[stale, OPENED, &read(b"x", true), CLOSED], false).await;
    assert_eq!(contents.expect("read"), b"x");
}

#[tokio::test]
async fn what_does_not_fit_is_told() {
    let long = vec![b'x'; MAX_ANSWER_BYTES as usize + 1];
    let many = read(&[b'x'; 60], false);
    let wrong_count = br#"{"return":{"count":7,"buf-b64":"QQ==","eof":true}}"#.as_slice();
    let cases: [(&[u8], &str); 8] = [
        (
            b"{\"error\":{\"class\":\"X\",\"desc\":\"disabled\"}}\n",
            "it refused `guest-file-read`: disabled; allow",
        ),
        (b"not json\n", "its answer to `guest-file-read` makes no sense"),
        (b"{}\n", "neither `return` nor `error`"),
        (b"{\"return\":{}}\n", "there is no `buf-b64`"),
        (b"{\"return\":{\"count\":1,\"buf-b64\":\"*\",\"eof\":true}}\n", "is not base64"),
        (&[wrong_count, b"\n"].concat(), "`count` is not"),
        (&read(b"", false), "yet it is not the end"),
        (&long, "has no end within 131072 bytes"),
    ];
    for (answer, says) in cases {
        let (read, closed) = reading_and_closing(&[FOUND, OPENED, answer, CLOSED], false).await;
        let error = read.expect_err(says);
        assert!(error.contains(says), "`{says}` in: {error}");
        let goes_on = !says.contains("has no end");
        assert_eq!(closed, usize::from(goes_on), "{error}");
    }
    let (read, closed) = reading_and_closing(&[FOUND, OPENED, &many, &many, CLOSED], false).await;
    let error = read.expect_err("long");
    assert_eq!((error.as_str(), closed), ("/proc/x in the guest is longer than 100 bytes", 1));
    let error = reading(&[FOUND, OPENED, b"half an answer"], false).await.expect_err("closed");
    assert!(error.contains("closed its channel at `guest-file-read`"), "{error}");
}

#[tokio::test]
async fn nobody_is_waited_for_longer_than_said() {
    for answers in [&[][..], &[FOUND], &[FOUND, OPENED]] {
        let error = reading(answers, true).await.expect_err("silent");
        assert!(error.contains("within 300 ms; does it run in the guest"), "{error}");
    }
    // One that goes on talking nonsense is as good as silent.
    let stale = vec![b'x'; 1000];
    let error = reading(&[&stale], true).await.expect_err("silent");
    assert!(error.contains("`guest-sync-delimited` within 300 ms"), "{error}");
    let stale = vec![b'x'; MAX_STALE_BYTES as usize];
    let error = reading(&[&stale], true).await.expect_err("no end");
    assert!(error.contains("has no end within 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn without_a_channel_there_is_no_agent() {
    let error = Agent::connect(Path::new("/nowhere/agent"), PATIENCE).await.err().expect("refused");
    assert!(error.to_string().starts_with("its channel cannot be connected to: "), "{error}");
}
