//! Which of the fields that Weir looks at a message has, found in one pass.
//!
//! A message has ten fields, and Weir has rules for thirty: to ask for each of them costs a hash and a search, to look at
//! each of those that are there costs a comparison or two. The rules themselves are elsewhere ([`super::hygiene`],
//! [`super::forwarded`] …); this says which of them have anything to do.

use std::ops::BitOr;

use ::http::{HeaderMap, HeaderValue};

/// A set of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u32);

impl Set {
    /// Those of either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of this set that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Set {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

macro_rules! fields {
    ($($name:ident $bit:literal $text:literal)*) => {
        $(
            #[doc = concat!("`", $text, "`")]
            pub const $name: Set = Set(1 << $bit);
        )*

        /// The field of this name. By length first: nearly all names are ruled out by that alone.
        fn known(name: &str) -> Set {
            let same = |known: &str| name.as_bytes() == known.as_bytes();
            $(
                if name.len() == $text.len() && same($text) {
                    return $name;
                }
            )*
            Set(0)
        }

        #[cfg(test)]
        const ALL: &[(Set, &str)] = &[$(($name, $text)),*];
    };
}

fields! {
    TE 0 "te"
    VIA 1 "via"
    COOKIE 2 "cookie"
    EXPECT 3 "expect"
    UPGRADE 4 "upgrade"
    CONNECTION 5 "connection"
    KEEP_ALIVE 6 "keep-alive"
    TRACEPARENT 7 "traceparent"
    TRACESTATE 8 "tracestate"
    GRPC_STATUS 9 "grpc-status"
    GRPC_TIMEOUT 10 "grpc-timeout"
    CONTENT_TYPE 11 "content-type"
    CONTENT_LENGTH 12 "content-length"
    X_REQUEST_ID 13 "x-request-id"
    X_WEIR_RETRY 14 "x-weir-retry"
    HTTP2_SETTINGS 15 "http2-settings"
    PROXY_CONNECTION 16 "proxy-connection"
    PROXY_AUTHENTICATE 17 "proxy-authenticate"
    PROXY_AUTHORIZATION 18 "proxy-authorization"
    PROXY_AUTHENTICATION_INFO 19 "proxy-authentication-info"
    TRANSFER_ENCODING 20 "transfer-encoding"
    X_WEIR_TIMEOUT_MS 21 "x-weir-timeout-ms"
    X_FORWARDED_FOR 22 "x-forwarded-for"
    HOST 23 "host"
    X_FORWARDED_PROTO 24 "x-forwarded-proto"
    X_FORWARDED_HOST 25 "x-forwarded-host"
    DATE 26 "date"
    X_WEIR_ATTEMPT 27 "x-weir-attempt"
}

/// All that concern one connection only ([`super::hygiene::is_hop_by_hop`]), and `TE`, which has a rule of its own.
pub const HOP_BY_HOP: Set = CONNECTION
    .and(KEEP_ALIVE)
    .and(UPGRADE)
    .and(HTTP2_SETTINGS)
    .and(PROXY_CONNECTION)
    .and(PROXY_AUTHENTICATE)
    .and(PROXY_AUTHORIZATION)
    .and(PROXY_AUTHENTICATION_INFO)
    .and(TRANSFER_ENCODING)
    .and(TE);

/// Those of a trace.
pub const TRACE: Set = TRACEPARENT.and(TRACESTATE);

/// Those that carry a deadline.
pub const DEADLINE: Set = GRPC_TIMEOUT.and(X_WEIR_TIMEOUT_MS);

/// What a message has, as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    there: Set,
    repeated: Set,
}

impl Census {
    /// Looks through a message's fields once.
    pub fn of(headers: &HeaderMap) -> Self {
        Self::with_host(headers, |_| ())
    }

    /// [`Census::of`], which shows the values of `Host` on its way.
    pub fn with_host(headers: &HeaderMap, mut host: impl FnMut(&HeaderValue)) -> Self {
        let mut census = Self::default();
        for (name, value) in headers {
            let field = known(name.as_str());
            census.repeated = Set(census.repeated.0 | census.there.0 & field.0);
            census.there = census.there | field;
            if field == HOST {
                host(value);
            }
        }
        census
    }

    /// Whether any of `set` is there.
    pub const fn any(self, set: Set) -> bool {
        self.there.meets(set)
    }

    /// Whether any of `set` is there on more than one line.
    pub const fn repeats(self, set: Set) -> bool {
        self.repeated.meets(set)
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::http::{fields, hygiene};

    #[test]
    fn every_field_has_a_bit_of_its_own_and_is_found() {
        let mut seen = Set(0);
        for (bit, name) in ALL {
            assert!(!seen.meets(*bit), "{name}");
            seen = seen | *bit;
            assert_eq!(known(name), *bit, "{name}");
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("x"))]);
            assert!(Census::of(&headers).any(*bit) && !Census::of(&headers).repeats(*bit));
        }
        assert_eq!(known("x-other"), Set(0));
    }

    #[test]
    fn what_is_hop_by_hop_is_in_its_set() {
        for (bit, name) in ALL {
            let is = hygiene::is_hop_by_hop(&HeaderName::from_static(name)) || *bit == TE;
            assert_eq!(HOP_BY_HOP.meets(*bit), is, "{name}");
        }
    }

    #[test]
    fn lines_of_one_name_are_counted() {
        let found = Census::of(&fields(&[("cookie", "a"), ("via", "x"), ("cookie", "b"), ("x", "y")]));
        assert!(found.any(COOKIE) && found.repeats(COOKIE));
        assert!(found.any(VIA) && !found.repeats(VIA));
        assert!(!found.any(TE | CONNECTION));
    }
}
