//! Sends one event to the collector at QUESTLOG_URL with the write key QUESTLOG_KEY: rustc questlog.rs && ./questlog
//!
//! Uses only the standard library, so plain http; for https, replace `post` with your HTTP crate's and keep the loop.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Answer {
    status: u16,
    retry_after: u64,
    body: String,
}

/// Sends one request on its own connection.
fn post(host: &str, key: &str, body: &str) -> Result<Answer, Error> {
    let address = host.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "POST /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut all = String::new();
    stream.read_to_string(&mut all)?;
    let (head, body) = all.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|text| text.parse().ok());
    let retry_after = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    Ok(Answer { status: status.ok_or(ErrorKind::InvalidData)?, retry_after, body: body.to_string() })
}

/// Returns the receipts of a JSON array of events; retries until the collector has acknowledged it.
fn send(host: &str, key: &str, events: &str) -> Result<String, String> {
    let mut pause = 1;
    loop {
        let mut wait = pause;
        match post(host, key, events) {
            Ok(answer) if answer.status == 200 => return Ok(answer.body),
            // 401: wrong key; 413: send fewer events
            Ok(answer) if answer.status < 500 && answer.status != 429 => {
                return Err(format!("{}: {}", answer.status, answer.body))
            }
            Ok(answer) => {
                eprintln!("retrying after status {}", answer.status);
                wait = wait.max(answer.retry_after);
            }
            Err(error) => eprintln!("no response, retrying: {error}"),
        }
        std::thread::sleep(Duration::from_secs(wait));
        pause = (2 * pause).min(60);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, key) = (std::env::var("QUESTLOG_URL")?, std::env::var("QUESTLOG_KEY")?);
    let host = url.strip_prefix("http://").ok_or("QUESTLOG_URL must be like http://127.0.0.1:8090")?.trim_end_matches('/');
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // The id is generated once, before the first attempt, so an event that arrives twice counts once.
    // The uuid crate makes better ids.
    let id = format!("{}-{}", now.as_nanos(), std::process::id());
    let event = format!(
        r#"{{"event_type": "level_failed", "event_id": "{id}", "event_time": {}, "player_id": "ann", "level": 3, "client": "rust"}}"#,
        now.as_millis()
    );
    println!("{}", send(host, &key, &format!("[{event}]"))?);
    Ok(())
}
