//! What is wrong with a message.

use std::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// Why a message is refused. A request gets 400 (`malformed`), an answer becomes 502 (`upstream_protocol`),
        /// and its connection ends either way. Where the body is at fault and the head has passed, the message
        /// ends as broken, never as complete.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// Every fault.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What is wrong, for the log.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

faults! {
    /// A line ends with LF alone (RFC 9112 §2.2).
    BareLf = "a line ends without CR";
    /// A CR is not followed by LF (RFC 9112 §2.2).
    BareCr = "a CR stands alone";
    /// A control character, NUL and DEL among them (RFC 9110 §5.5).
    Control = "a control character";
    /// A line begins with white space: a folded field (RFC 9112 §5.2), or one before the first (§2.2).
    Folded = "a line begins with white space";
    /// White space between a field's name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon = "white space before a colon";
    /// A field without a name, without a colon, or with a name that is no token (RFC 9110 §5.1).
    Name = "a field has no proper name";
    /// A name that an application may take for `Content-Length` or `Transfer-Encoding`, because it cannot tell `_`
    /// from `-` (CGI, WSGI, Rack).
    LookAlike = "a field looks like a length and is none";
    /// The first line is not `method SP target SP version` (RFC 9112 §3).
    RequestLine = "the request line is malformed";
    /// The target has a byte that no URI has: a control character, a space, a `#`, or one beyond ASCII (RFC 3986).
    Target = "the target is no URI";
    /// The first line is not `version SP status [SP reason]` (RFC 9112 §4).
    StatusLine = "the status line is malformed";
    /// Neither HTTP/1.1 nor HTTP/1.0.
    Version = "the version is neither HTTP/1.1 nor HTTP/1.0";
    /// Empty lines before a message: more than one before a request (RFC 9112 §2.2), any before an answer.
    EmptyLines = "empty lines before the message";
    /// `Content-Length` is repeated, a list, signed, or anything else but one number below 2⁶³; in a request also one
    /// with leading zeros, which some read as octal (RFC 9110 §8.6).
    ContentLength = "Content-Length is not exactly one number";
    /// `Transfer-Encoding` is anything but one `chunked` (RFC 9112 §6.1 allows more).
    TransferEncoding = "Transfer-Encoding is not exactly one `chunked`";
    /// `Transfer-Encoding` in HTTP/1.0 (RFC 9112 §6.1).
    TransferEncodingVersion = "Transfer-Encoding exists in HTTP/1.1 only";
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    BothLengths = "Transfer-Encoding and Content-Length together";
    /// A chunk's size is not 1 to 16 hexadecimal digits below 2⁶³ with nothing around them (RFC 9112 §7.1).
    ChunkSize = "a chunk has no proper size";
    /// A chunk's extensions are longer than [`super::Framer::MAX_EXTENSIONS`] bytes, or have a byte that no text has.
    ChunkExtension = "a chunk's extensions are too long or no text";
    /// A chunk is longer than its size says, or shorter.
    ChunkEnd = "a chunk does not end where it should";
    /// A line is longer than the bound.
    TooLong = "a line is too long";
    /// An interim answer (1xx) says that it has a body (RFC 9110 §15.2).
    InterimLength = "an interim answer with a length";
    /// More interim answers than [`super::Framer::MAX_INTERIM`] before an answer.
    InterimStorm = "too many interim answers";
    /// The endpoint says something that nobody asked for: bytes after an answer, or a switch of protocols.
    Unasked = "an answer that nobody asked for";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Fault {}
