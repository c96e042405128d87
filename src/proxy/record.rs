//! What is written of an exchange when it has ended.

use std::time::Duration;

use ::http::Version;
use smallvec::SmallVec;

use super::exchange::{Attempt, Exchange, client_closed};
use crate::{
    config::Name,
    http::trace::TraceId,
    telemetry::{AccessRecord, AttemptRecord, Outcome},
};

impl Exchange {
    /// Writes the access record, where one is wanted, and keeps what Weir answered or sent again itself.
    pub(super) fn write_record(&self, took: Duration) {
        let telemetry = &self.connection.worker.shared.telemetry;
        let status = self.status.unwrap_or(client_closed());
        let reason = self.made.as_ref().map(|made| made.0);
        let worker = &self.connection.worker;
        let replayed = self.attempts.len() > 1;
        let now = self.started + took;
        let wanted = worker.rng(|rng| telemetry.access.wants(status, reason, self.ended, now, rng));
        if !wanted && reason.is_none() && !replayed {
            return;
        }
        let endpoints: SmallVec<[String; 2]> = self
            .attempts
            .iter()
            .map(|attempt| attempt.endpoint().map(|e| e.address().to_string()).unwrap_or_default())
            .collect();
        let attempts = self
            .attempts
            .iter()
            .zip(&endpoints)
            .map(|(attempt, endpoint)| AttemptRecord {
                endpoint: Some(endpoint),
                outcome: attempt.outcome.unwrap_or(Outcome::Cancelled),
                took: attempt.took,
                reused: attempt.reused,
            })
            .collect();
        let record = AccessRecord {
            ts: jiff::Timestamp::now()
                .checked_sub(jiff::SignedDuration::try_from(took).unwrap_or_default())
                .unwrap_or_default(),
            request_id: self.id_text(),
            trace_id: self.trace_id.as_ref().map(TraceId::as_str),
            listener: self.connection.listener.config.name.as_str(),
            client: self.client,
            peer: self.connection.remote(),
            method: &self.method,
            scheme: if self.connection.secure.get() { "https" } else { "http" },
            host: self.host.as_ref().and_then(|host| host.text.to_str().ok()).unwrap_or("-"),
            path: self.target().path(),
            proto: proto(self.version()),
            route: self.route().map(|route| route.config.name.as_str()),
            upstream: self.upstream.as_ref().map(|upstream| upstream.name().as_str()),
            endpoint: endpoints.last().map(String::as_str),
            status,
            grpc_status: self.grpc_status,
            reason,
            policy: self.made.as_ref().and_then(|made| made.1.as_ref()).map(Name::as_str),
            detail: self.made.as_ref().and_then(|made| made.2.as_deref()),
            attempts,
            duration: took,
            upstream_time: self.upstream_time(),
            overhead: self.overhead.unwrap_or_else(|| self.own_share(took)),
            request_bytes: self.flow.request_bytes(),
            response_bytes: self.flow.response_bytes(),
            ended: self.ended,
            revision: self.view.snapshot().generation,
        };
        if reason.is_some() || replayed {
            telemetry.recent.note(&record, now);
        }
        if wanted {
            telemetry.access.write(&record);
        }
    }

    fn upstream_time(&self) -> Option<Duration> {
        let answered =
            |attempt: &&Attempt| matches!(attempt.outcome, Some(Outcome::Success | Outcome::ServerError));
        self.attempts.last().filter(answered).map(|attempt| attempt.took)
    }
}

fn proto(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
