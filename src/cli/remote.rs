//! `weir drain` and `weir status`: clients of a running instance's admin interface.

use std::{io::Write, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime::Builder,
    time::timeout,
};

use super::{AdminArgs, ExitStatus, Output, print, source};
use crate::{config::bootstrap::ListenAddress, net::Socket};

/// Where the admin interface is when no file says otherwise.
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 9901);
/// How long the instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Drains the inbound side of a running instance. Returns at once; the drain goes on there.
pub fn drain(args: &AdminArgs) -> ExitStatus {
    match call(args, Method::POST, "/drain") {
        Err(status) => status,
        Ok(answer) => show(args.output, &answer, |_| "the inbound side drains\n".to_owned()),
    }
}

/// Shows what a running instance is doing.
pub fn status(args: &AdminArgs) -> ExitStatus {
    match call(args, Method::GET, "/status") {
        Err(status) => status,
        Ok(answer) => show(args.output, &answer, |status| table(status, 0)),
    }
}

fn show(output: Output, answer: &Value, text: impl Fn(&Value) -> String) -> ExitStatus {
    match output {
        Output::Json => print(format!("{answer:#}\n").as_bytes()),
        Output::Text => print(text(answer).as_bytes()),
    }
}

/// An object as indented lines.
fn table(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let Value::Object(fields) = value else { return format!("{indent}{}\n", plain(value)) };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, value): (&String, &Value)| match value {
        Value::Object(_) => format!("{indent}{name}\n{}", table(value, depth + 1)),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| format!("\n{indent}  {}", in_line(item))).collect();
            format!("{indent}{name}{}\n", items.concat())
        }
        other => format!("{indent}{name:width$}  {}\n", plain(other)),
    };
    fields.iter().map(line).collect::<Vec<_>>().concat()
}

fn in_line(item: &Value) -> String {
    match item {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join("  "),
        other => plain(other),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn call(args: &AdminArgs, method: Method, path: &str) -> Result<Value, ExitStatus> {
    let address = address(args)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| unavailable(&e))?;
    let asked = async { timeout(PATIENCE, ask(&address, method, path)).await };
    match runtime.block_on(asked) {
        Err(_) => Err(unavailable(&format!("{address} did not answer within {PATIENCE:?}"))),
        Ok(Err(error)) => Err(unavailable(&format!(
            "no Weir answers at {address}: {error}; `--admin http://ADDRESS:PORT` (or `unix:PATH`) names another"
        ))),
        Ok(Ok((status, body))) if status.is_success() => Ok(body),
        Ok(Ok((status, body))) => {
            let _ = writeln!(std::io::stderr(), "weir: {address} answered {status}: {}", plain(&body));
            Err(ExitStatus::No)
        }
    }
}

/// Where the admin interface is: as said, or as the file says.
fn address(args: &AdminArgs) -> Result<ListenAddress, ExitStatus> {
    if let Some(url) = &args.admin {
        return parse(url).map_err(|wrong| {
            let _ = writeln!(std::io::stderr(), "weir: {wrong}");
            ExitStatus::Usage
        });
    }
    // Beside an instance that runs with another file (`weir demo`) there is often none here.
    if args.config.is_default() && !args.config.config.exists() {
        return Ok(ListenAddress::Socket(SocketAddr::from(DEFAULT_ADMIN)));
    }
    let loaded = source::load_file(&args.config.config);
    let Some(file) = loaded.file else {
        let _ = std::io::stderr().write_all(loaded.render(false).as_bytes());
        return Err(ExitStatus::BadConfig);
    };
    let admin = file.bootstrap.admin.map(|admin| admin.listen);
    admin.ok_or_else(|| unavailable(&"the file turns the admin interface off"))
}

/// The address that a URL of an admin interface names; the error says what would be right.
pub(super) fn parse(url: &str) -> Result<ListenAddress, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok(ListenAddress::Unix(Arc::from(Path::new(path))));
    }
    let wrong = || format!("--admin {url}: expected http://ADDRESS:PORT or unix:PATH");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.as_str().replacen("localhost", "127.0.0.1", 1);
    authority.parse().map(ListenAddress::Socket).map_err(|_| wrong())
}

/// One request to an admin interface: its status, and its body as JSON (or as a text, where it is none).
pub(super) async fn ask(
    address: &ListenAddress,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Value), Box<dyn std::error::Error>> {
    let (stream, host) = match address {
        ListenAddress::Socket(tcp) => (Socket::Tcp(TcpStream::connect(tcp).await?), tcp.to_string()),
        ListenAddress::Unix(path) => (Socket::Unix(UnixStream::connect(path).await?), "localhost".to_owned()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}

fn unavailable(what: &dyn std::fmt::Display) -> ExitStatus {
    let _ = writeln!(std::io::stderr(), "weir: {what}");
    ExitStatus::Unavailable
}
