//! Which paths there are, and what each answers.

use std::{fmt::Write as _, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::ACCEPT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    BODY_TIMEOUT, Context, MAX_BODY, Surface,
    answer::{Answer, HTML, METRICS, TEXT},
    guard,
};
use crate::telemetry::log::{LEVELS, parse_level};

/// A path of the interface.
#[derive(Debug)]
struct Endpoint {
    path: &'static str,
    method: &'static str,
    on_telemetry: bool,
    what: &'static str,
}

const fn open(path: &'static str, what: &'static str) -> Endpoint {
    Endpoint { path, method: "GET", on_telemetry: true, what }
}

const fn inside(path: &'static str, what: &'static str) -> Endpoint {
    Endpoint { path, method: "GET", on_telemetry: false, what }
}

const fn change(method: &'static str, path: &'static str, what: &'static str) -> Endpoint {
    Endpoint { path, method, on_telemetry: false, what }
}

const ENDPOINTS: &[Endpoint] = &[
    open("/metrics", "metrics in the Prometheus text format"),
    open("/livez", "200 while the event loops turn"),
    open("/readyz", "200 while traffic should be sent here, else what stands in the way"),
    open("/startupz", "200 once the start is over"),
    inside("/", "this list"),
    inside("/status", "instance, version, where the policy came from, draining"),
    inside("/policy", "the policy in force"),
    inside("/upstreams", "upstreams, their endpoints and connections"),
    inside("/limits", "limits, what they grant and what they decided"),
    inside("/switches", "switches, how they stand and what they acted on"),
    inside("/requests", "the last requests that Weir answered or retried itself"),
    change("POST", "/drain", "drain the inbound side"),
    change("PUT", "/log", r#"change the level of the log: {"level": "debug"}"#),
];

impl Endpoint {
    fn writes(&self) -> bool {
        self.method != "GET"
    }

    /// What `Allow` says.
    fn allow(&self) -> &'static str {
        if self.writes() { self.method } else { "GET, HEAD" }
    }

    fn takes(&self, method: &Method) -> bool {
        method.as_str() == self.method || (!self.writes() && method == Method::HEAD)
    }
}

fn endpoints(surface: Surface) -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.iter().filter(move |endpoint| surface == Surface::Admin || endpoint.on_telemetry)
}

/// Answers one request.
pub(super) async fn handle(
    context: &Context,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    let answer = answer(context, peer, request).await.unwrap_or_else(|refusal| refusal);
    answer.into_response(&method)
}

/// The answer; `Err` is one too, of the kind that ends the way early.
async fn answer(context: &Context, peer: SocketAddr, request: Request<Incoming>) -> Result<Answer, Answer> {
    let (head, body) = request.into_parts();
    let refused = |(status, why)| Answer::problem(status, why);
    let found = endpoints(context.surface).find(|endpoint| endpoint.path == head.uri.path());
    if context.surface == Surface::Admin && !found.is_some_and(|endpoint| endpoint.on_telemetry) {
        guard::may_read(&head.uri, &head.headers).map_err(refused)?;
    }
    let endpoint = found.ok_or_else(|| not_found(context.surface))?;
    if !endpoint.takes(&head.method) {
        return Err(Answer::not_allowed(endpoint.allow()));
    }
    if endpoint.writes() {
        guard::may_write(peer, &head.headers).map_err(refused)?;
        let body = read(body).await?;
        return write(context, endpoint, &body);
    }
    Ok(show(context, endpoint, &head.headers))
}

fn show(context: &Context, endpoint: &Endpoint, headers: &HeaderMap) -> Answer {
    let view = &context.view;
    let document = |value: Value| Answer::json(StatusCode::OK, &value);
    match endpoint.path {
        "/metrics" => Answer::new(StatusCode::OK, METRICS, context.metrics.render()),
        "/livez" => probe("live", &view.live().err().unwrap_or_default()),
        "/readyz" => probe("ready", &view.ready().err().unwrap_or_default()),
        "/startupz" if view.started() => probe::<&str>("started", &[]),
        "/startupz" => probe("started", &["starting"]),
        "/status" => document(view.status()),
        "/policy" => document(view.policy()),
        "/upstreams" => document(view.upstreams()),
        "/limits" => document(view.limits()),
        "/switches" => document(view.switches()),
        "/requests" => document(view.requests()),
        _ => index(headers),
    }
}

fn write(context: &Context, endpoint: &Endpoint, body: &[u8]) -> Result<Answer, Answer> {
    if endpoint.path == "/drain" {
        context.view.drain();
        return Ok(Answer::json(StatusCode::ACCEPTED, &json!({ "draining": true })));
    }
    let bad = |why: String| Answer::problem(StatusCode::BAD_REQUEST, why);
    let wanted = || format!("send {{\"level\": L}} with L one of {}", LEVELS.join(", "));
    let document: Value =
        serde_json::from_slice(body).map_err(|error| bad(format!("{error}; {}", wanted())))?;
    let fields = document.as_object().filter(|fields| fields.len() == 1).ok_or_else(|| bad(wanted()))?;
    let text = fields.get("level").and_then(Value::as_str).ok_or_else(|| bad(wanted()))?;
    let level = parse_level(text).ok_or_else(|| bad(wanted()))?;
    if !context.view.set_log_level(level) {
        return Err(Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the log's level cannot be changed"));
    }
    Ok(Answer::json(StatusCode::OK, &json!({ "level": text })))
}

async fn read(body: Incoming) -> Result<Bytes, Answer> {
    let slow = || Answer::problem(StatusCode::REQUEST_TIMEOUT, "the body took too long");
    let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await.map_err(|_| slow())?;
    let large = || Answer::problem(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {MAX_BODY} bytes"));
    // Another error means that the client has gone, and with it whoever could read this answer.
    Ok(body.map_err(|_| large())?.to_bytes())
}

/// 200 and the word when nothing is in the way, else 503 and what is, one a line.
fn probe<T: AsRef<str>>(word: &str, in_the_way: &[T]) -> Answer {
    if in_the_way.is_empty() {
        return Answer::new(StatusCode::OK, TEXT, format!("{word}\n"));
    }
    let lines: Vec<_> = in_the_way.iter().map(AsRef::as_ref).collect();
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines.join("\n") + "\n")
}

fn not_found(surface: Surface) -> Answer {
    let list: Vec<_> = endpoints(surface).map(|e| format!("{} {}", e.method, e.path)).collect();
    let members = json!({ "detail": "there is nothing at this path", "endpoints": list });
    Answer::problem_with(StatusCode::NOT_FOUND, &members)
}

/// The list of endpoints: a page for browsers, text for everyone else.
fn index(headers: &HeaderMap) -> Answer {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    if accepts.into_iter().any(|accept| accept.contains("text/html")) {
        // Without a style sheet, because the pages allow none; the table is as old as the web, and lines up.
        out.push_str(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>Weir</title>\n<h1>Weir</h1>\n<p>What this instance can tell. \
             Prometheus reads /metrics; Kubernetes asks the probes; the rest is JSON.</p>\n<table cellpadding=\"4\">\n",
        );
        for Endpoint { path, method, what, .. } in ENDPOINTS {
            let what = what.replace('"', "&quot;");
            let link =
                if *method == "GET" { format!("<a href=\"{path}\">{path}</a>") } else { (*path).to_owned() };
            let _ = writeln!(out, "<tr><td>{method}</td><td>{link}</td><td>{what}</td></tr>");
        }
        out.push_str("</table></html>\n");
        return Answer::new(StatusCode::OK, HTML, out);
    }
    for Endpoint { path, method, what, .. } in ENDPOINTS {
        let _ = writeln!(out, "{method:<4} {path:<11}{what}");
    }
    Answer::new(StatusCode::OK, TEXT, out)
}
