//! How a case is run and judged.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    recorder::{Read1, Recorder, Request, read_requests},
    support::{
        raw::{Message, Raw},
        wait_until,
        weir::{File, Weir},
    },
};

/// What waits behind every hostile message.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a.test\r\n\r\n";

/// What must become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 400 that explains itself, and the end of the connection. The endpoint's socket sees nothing.
    Refused,
    /// As refused, with this status.
    Status(u16),
    /// The head passed, its body did not: 400 or no answer, and the end of the connection. The endpoint may see the
    /// beginning of the message, never its end.
    Broken,
    /// One message, re-framed, with this body. The client gets one answer, and the connection ends.
    Closed(&'static str),
    /// One message, re-framed, with this body. The request that follows is one of its own, and is answered.
    Passed(&'static str),
}

/// Weir with a recorder behind it.
#[derive(Debug)]
pub struct Stage {
    pub weir: Weir,
    pub origin: Recorder,
    /// How much of each connection's bytes is accounted for.
    seen: Vec<usize>,
}

/// All cases of all tests of this process.
static CASES: AtomicUsize = AtomicUsize::new(0);

impl Stage {
    /// With the usual file.
    pub fn start() -> Self {
        Self::with(|file| file)
    }

    /// With a file of its own.
    pub fn with(change: impl Fn(File) -> File) -> Self {
        let origin = Recorder::start();
        let weir = change(File::to(&[origin.address])).start();
        Self { weir, origin, seen: Vec::new() }
    }

    /// What the endpoint got since this was called last. A request goes through first, so that whatever was on its
    /// way before it is there.
    pub fn take(&mut self) -> Result<Read1, String> {
        let mark = format!("/mark-{}", CASES.fetch_add(1, Ordering::SeqCst));
        let mut client = Raw::connect(self.weir.at("inbound"));
        let answer = client.get("a.test", &mark);
        if (answer.status(), answer.text().as_str()) != (200, "ok") {
            return Err(format!("the request after it got {answer:?}"));
        }
        let mut all = Read1::default();
        for (number, bytes) in self.origin.bytes().into_iter().enumerate() {
            if self.seen.len() <= number {
                self.seen.push(0);
            }
            let read = read_requests(&bytes[self.seen[number]..])
                .map_err(|e| format!("{e} in {:?}", String::from_utf8_lossy(&bytes[self.seen[number]..])))?;
            self.seen[number] = bytes.len();
            all.whole.extend(read.whole);
            all.rest.extend(read.rest);
        }
        let marks = all.whole.iter().filter(|r| r.line.contains(&mark)).count();
        all.whole.retain(|r| !r.line.contains(&mark));
        if marks == 1 { Ok(all) } else { Err(format!("{marks} of {mark}")) }
    }

    /// Sends `bytes`, and the smuggled request in the same write.
    fn play(&self, bytes: &[u8]) -> Raw {
        let mut raw = Raw::connect(self.weir.at("inbound"));
        // Weir may refuse before it has all of it.
        let _ = raw.try_send([bytes, SMUGGLED.as_bytes()].concat());
        raw
    }

    /// Runs one case; says what is wrong.
    pub fn judge(&mut self, bytes: &[u8], wanted: Outcome) -> Result<Read1, String> {
        let mut raw = self.play(bytes);
        let client = judge_client(&mut raw, wanted);
        let seen = self.take()?;
        client.map_err(|e| format!("{e}; the endpoint saw {seen:?}"))?;
        judge_endpoint(&seen, wanted).map_err(|e| format!("{e}; the endpoint saw {seen:?}"))?;
        Ok(seen)
    }
}

fn judge_client(raw: &mut Raw, wanted: Outcome) -> Result<(), String> {
    let count = match wanted {
        Outcome::Passed(_) => 2,
        _ => 1,
    };
    let mut answers = Vec::new();
    for _ in 0..count {
        match next_answer(raw) {
            Some(answer) => answers.push(answer),
            None => break,
        }
    }
    if !matches!(wanted, Outcome::Passed(_)) {
        match raw.exactly(1) {
            Ok(_) => return Err("a second answer".into()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("not closed after {answers:?}"));
            }
            Err(_) => {}
        }
    }
    let statuses: Vec<u16> = answers.iter().map(Message::status).collect();
    let explained = |answer: &Message, reason: &str| answer.json()["reason"] == reason;
    let closing = |answer: &Message| answer.header("connection").as_deref() == Some("close");
    let fine = match wanted {
        Outcome::Refused => statuses == [400] && explained(&answers[0], "malformed") && closing(&answers[0]),
        Outcome::Status(status) => statuses == [status],
        Outcome::Broken => statuses.is_empty() || statuses == [400] && explained(&answers[0], "malformed"),
        Outcome::Closed(_) => statuses == [200] && answers[0].text() == "ok" && closing(&answers[0]),
        Outcome::Passed(_) => statuses == [200, 200] && !closing(&answers[0]),
    };
    if fine { Ok(()) } else { Err(format!("the client got {answers:?}")) }
}

fn judge_endpoint(seen: &Read1, wanted: Outcome) -> Result<(), String> {
    let smuggled = seen.whole.iter().filter(|r| r.line.contains("/smuggled")).count();
    let others: Vec<&Request> = seen.whole.iter().filter(|r| !r.line.contains("/smuggled")).collect();
    let one = |body: &str| others.len() == 1 && others[0].body == body.as_bytes() && seen.rest.is_empty();
    let fine = match wanted {
        Outcome::Refused | Outcome::Status(_) => seen.whole.is_empty() && seen.rest.is_empty(),
        Outcome::Broken => {
            let heads = seen.rest.windows(9).filter(|w| w == b" HTTP/1.1").count();
            seen.whole.is_empty() && heads <= 1
        }
        Outcome::Closed(body) => smuggled == 0 && one(body),
        Outcome::Passed(body) => smuggled == 1 && one(body),
    };
    if fine { Ok(()) } else { Err("not what the endpoint may see".into()) }
}

/// The next answer, 1xx passed over; `None` when the connection ends first.
fn next_answer(raw: &mut Raw) -> Option<Message> {
    loop {
        let head = raw.head().ok()?;
        if head.status() >= 200 {
            return raw.body_of(head, true).ok();
        }
    }
}

/// Runs a table of cases; fails with all that went wrong.
#[track_caller]
pub fn run(class: &str, stage: &mut Stage, cases: &[(&str, &str, Outcome)]) {
    let mut wrong = Vec::new();
    for (what, bytes, wanted) in cases {
        if let Err(error) = stage.judge(bytes.as_bytes(), *wanted) {
            wrong.push(format!("{class}: {what} ({wanted:?}): {error}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Waits until the endpoint has the beginning of a request.
pub fn wait_begun(stage: &Stage) {
    wait_until("the endpoint to get a request", || {
        stage.origin.bytes().iter().any(|bytes| !bytes.is_empty())
    });
}
