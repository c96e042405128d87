//! The control listener of the toys: stops, starts, slows and breaks them. Loopback only.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::toys::{MAX_EXTRA_MS, Toy, ToyBody, json as as_json, text};

const HELP: &str = "\
GET  /toys                        how they are
POST /toys/{a,b,c}/stop           close its port and break its connections
POST /toys/{a,b,c}/start          open its port again
POST /toys/{a,b,c}/slow?ms=500    add this delay to every answer (0 takes it away)
POST /toys/{a,b,c}/fail?percent=30  let this share of answers fail (0 takes it away)
POST /toys/{a,b,c}/reset          as it was at the start
";

/// Serves the control listener until it is dropped.
pub(super) async fn serve(listener: TcpListener, toys: Arc<[Arc<Toy>]>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let toys = Arc::clone(&toys);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let response = handle(&toys, &request);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            // A person's curl that goes away is nothing to report.
            drop(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn handle<B>(toys: &[Arc<Toy>], request: &Request<B>) -> Response<ToyBody> {
    // A page in a browser may reach loopback ports; it must not be able to meddle.
    if request.headers().contains_key(header::ORIGIN) || request.headers().contains_key("sec-fetch-site") {
        return text(StatusCode::FORBIDDEN, "The toys take orders from a terminal, not from a web page.\n");
    }
    let path = request.uri().path().trim_matches('/');
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("toys"), None, None, None) if request.method() == Method::GET => {
            as_json(&Value::Array(toys.iter().map(|toy| state(toy)).collect()))
        }
        (Some("toys"), Some(name), Some(action), None) => match toys.iter().find(|toy| toy.name == name) {
            None => text(StatusCode::NOT_FOUND, HELP),
            Some(_) if request.method() != Method::POST => {
                let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, HELP);
                refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                refused
            }
            Some(toy) => match order(toy, action, request.uri().query().unwrap_or("")) {
                Ok(()) => as_json(&state(toy)),
                Err(what) => text(StatusCode::BAD_REQUEST, &format!("{what}\n\n{HELP}")),
            },
        },
        _ => text(StatusCode::NOT_FOUND, HELP),
    }
}

fn order(toy: &Toy, action: &str, query: &str) -> Result<(), String> {
    match action {
        "stop" => toy.set_running(false),
        "start" => toy.set_running(true),
        "slow" => toy.set_extra_ms(number(query, "ms", MAX_EXTRA_MS)?),
        "fail" => toy.set_fail_percent(number(query, "percent", 100)?),
        "reset" => {
            toy.set_extra_ms(0);
            toy.set_fail_percent(0);
            toy.set_running(true);
        }
        other => return Err(format!("There is no order `{other}`.")),
    }
    Ok(())
}

fn number(query: &str, name: &str, most: u32) -> Result<u32, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then(|| value.parse().ok()).flatten())
        .filter(|number| *number <= most)
        .ok_or_else(|| format!("This order needs `?{name}=N` with N from 0 to {most}."))
}

fn state(toy: &Toy) -> Value {
    json!({
        "name": toy.name,
        "address": toy.address.to_string(),
        "character": toy.character.as_str(),
        "running": toy.is_running(),
        "extra_ms": toy.extra_ms(),
        "fail_percent": toy.fail_percent(),
        "answered": toy.answered(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::toys::Character;

    fn request(method: &str, target: &str) -> Request<()> {
        Request::builder().method(method).uri(target).body(()).unwrap()
    }

    #[tokio::test]
    async fn orders_reach_the_toy_they_name() {
        let toys = [
            Toy::start("a", Character::Normal).await.unwrap(),
            Toy::start("b", Character::Slow).await.unwrap(),
        ];
        let order = |target: &str| handle(&toys, &request("POST", target)).status();
        assert_eq!(order("/toys/b/stop"), StatusCode::OK);
        assert!(toys[0].is_running() && !toys[1].is_running());
        assert_eq!(order("/toys/b/slow?ms=500"), StatusCode::OK);
        assert_eq!(order("/toys/b/fail?x=1&percent=30"), StatusCode::OK);
        assert_eq!((toys[1].extra_ms(), toys[1].fail_percent()), (500, 30));
        assert_eq!(order("/toys/b/reset"), StatusCode::OK);
        assert_eq!((toys[1].is_running(), toys[1].extra_ms(), toys[1].fail_percent()), (true, 0, 0));
    }

    #[tokio::test]
    async fn wrong_orders_change_nothing_and_say_what_is_right() {
        let toys = [Toy::start("a", Character::Normal).await.unwrap()];
        for (method, target, status) in [
            ("POST", "/toys/a/slow", StatusCode::BAD_REQUEST),
            ("POST", "/toys/a/slow?ms=-1", StatusCode::BAD_REQUEST),
            ("POST", "/toys/a/slow?ms=60001", StatusCode::BAD_REQUEST),
            ("POST", "/toys/a/fail?percent=101", StatusCode::BAD_REQUEST),
            ("POST", "/toys/a/paint", StatusCode::BAD_REQUEST),
            ("POST", "/toys/z/stop", StatusCode::NOT_FOUND),
            ("POST", "/toys/a/stop/now", StatusCode::NOT_FOUND),
            ("GET", "/toys/a/stop", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/elsewhere", StatusCode::NOT_FOUND),
        ] {
            assert_eq!(handle(&toys, &request(method, target)).status(), status, "{method} {target}");
        }
        let mut from_a_page = request("POST", "/toys/a/stop");
        from_a_page
            .headers_mut()
            .insert(header::ORIGIN, HeaderValue::from_static("http://elsewhere.example"));
        assert_eq!(handle(&toys, &from_a_page).status(), StatusCode::FORBIDDEN);
        assert_eq!((toys[0].is_running(), toys[0].extra_ms(), toys[0].fail_percent()), (true, 0, 0));
    }
}
