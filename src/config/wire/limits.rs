//! Limits, as they are written.

use http::HeaderName;
use serde_json::{Value as Json, json};

use super::{
    Many, Shown, Takes, Text, choose,
    file::MatchWire,
    scalars::{Delay, Int, words},
    short::{Scalar, Short},
    wire,
};
use crate::config::{
    codes::Code,
    documents::Kind,
    fault::{Problem, shown},
    limit::{Cost, Limit, LimitHeaders, LimitScope, LimitShare, LimitState},
    policy::KeyPart,
    units::{self, Rate},
};

wire! {
    /// A rate limit.
    LimitWire as "limit" {
        /// Which requests it counts; left out, all.
        matches("match"): MatchWire = empty,
        /// How many it grants in how much time: 500/s, 30/m or 10/h.
        rate: Rate = required,
        /// Most that is granted at once. Default: one second's worth, at least 1. Windows have none.
        burst: Int<1, { Limit::MAX_COUNT }>,
        /// How it counts: `token_bucket`, `leaky_bucket` (requests leave at the rate), `sliding_window` or `fixed_window` (as
        /// long as the rate's unit).
        algorithm: AlgorithmWord = default(AlgorithmWord::TokenBucket),
        /// How long a request may wait for its turn; 0 = it is refused. For `leaky_bucket` only. Default 0.
        max_wait: Delay,
        /// What has a bucket of its own: client, header:NAME, query:NAME, cookie:NAME, route, host or method, or a list
        /// of them. Default: one bucket for all requests.
        key: Many<KeyPart>,
        /// Most buckets; the least recently used goes.
        max_keys: Int<1, 10_000_000> = default(Int(10_000)),
        /// Whose rate it is: instance (each has all of it), or service (all live instances have it together).
        scope: LimitScope = default(LimitScope::Instance),
        /// How instances share the rate of a service: even, or redis (exact; even while Redis is away).
        share: LimitShare = default(LimitShare::Even),
        /// How much of the rate one request takes: a number, or header:NAME.
        cost: Cost = default(Cost::Fixed(1)),
        /// Whether it acts: on, off, or observe (it counts what it would refuse).
        state: LimitState = default(LimitState::On),
        /// Which answers say what is left: `on_refusal` or always.
        headers: LimitHeaders = default(LimitHeaders::OnRefusal),
    }
}

impl Short for LimitWire {
    const KIND: Kind = Kind::Limit;

    fn describe() -> Json {
        json!({ "anyOf": [LimitState::describe(), Rate::describe()] })
    }
}

impl Text for Rate {
    const WHAT: &'static str = "a rate such as `500/s`";
    const DEF: &'static str = "rate";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let rate = units::rate(text)?;
        if rate.count > u64::from(Limit::MAX_COUNT) {
            return Err(Problem::new(Code::OutOfBounds, format!("`{}` is out of bounds", shown(text)))
                .help(format!("a rate's number is 1 to {}", Limit::MAX_COUNT)));
        }
        Ok(rate)
    }

    fn describe() -> Json {
        json!({
            "description": "A rate: a whole number of at least 1, and /s, /m or /h.",
            "type": "string",
            "pattern": "^0*[1-9][0-9]*/(s|m|h)$",
        })
    }
}

/// How a limit counts, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlgorithmWord {
    /// With `burst`.
    TokenBucket,
    /// With `burst` and `max_wait`.
    LeakyBucket,
    /// With neither.
    SlidingWindow,
    /// With neither.
    FixedWindow,
}

words!(AlgorithmWord, "an algorithm" {
    "token_bucket" => TokenBucket,
    "leaky_bucket" => LeakyBucket,
    "sliding_window" => SlidingWindow,
    "fixed_window" => FixedWindow,
});
words!(LimitScope, "a scope" { "instance" => Instance, "service" => Service });
words!(LimitShare, "a way to share" { "even" => Even, "redis" => Redis });
words!(LimitHeaders, "a choice of answers" { "on_refusal" => OnRefusal, "always" => Always });

impl Text for LimitState {
    const WHAT: &'static str = "`on`, `off` or `observe`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, LimitState); 3] =
            [("on", LimitState::On), ("off", LimitState::Off), ("observe", LimitState::Observe)];
        choose(Scalar::of(text), "a state of limits", &CHOICES, &[]).map_err(|problem| match &problem.help {
            // As a whole document it may have been meant for one.
            Some(help) => {
                let help = format!("{help}; a rate is written like `200/s`");
                problem.help(help)
            }
            None => problem,
        })
    }

    fn describe() -> Json {
        json!({ "enum": ["on", "off", "observe", true, false] })
    }
}

impl Shown for LimitState {
    fn show(&self) -> Json {
        match self {
            Self::On => "on".into(),
            Self::Off => "off".into(),
            Self::Observe => "observe".into(),
        }
    }
}

impl Text for Cost {
    const WHAT: &'static str = "a number or `header:NAME`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::parse(name).map(Self::Header);
        }
        let number = Int::<1, { Limit::MAX_COUNT }>::parse(text);
        number.map(|number| Self::Fixed(number.0)).map_err(|problem| match problem.code {
            Code::OutOfBounds => problem,
            _ => Problem::new(Code::UnknownChoice, format!("`{}` is not a cost", shown(text)))
                .help("write a number of at least 1, or `header:NAME`"),
        })
    }

    fn describe() -> Json {
        json!({ "anyOf": [
            Int::<1, { Limit::MAX_COUNT }>::describe(),
            { "type": "string", "pattern": "^header:[A-Za-z0-9!#$%&'*+.^_`|~-]+$" },
        ]})
    }
}

impl Shown for Cost {
    fn show(&self) -> Json {
        match self {
            Self::Fixed(number) => (*number).into(),
            Self::Header(name) => format!("header:{name}").into(),
        }
    }
}
