//! The codes of all faults, in one table.
//!
//! A code is a contract: scripts, editors and people search for it. It never changes its meaning and is never
//! used again for another.

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal;)*) => {
        /// What kind of fault it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[doc = $doc])* $variant,)* }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it is printed, for instance `WEIR-0201`.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),*).trim_ascii(),)* } }
        }
    };
}

codes! {
    /// The file cannot be read.
    Unreadable = "WEIR-0001";
    /// The file is larger than 1 MiB.
    TooLarge = "WEIR-0002";
    /// The file is not UTF-8.
    NotUtf8 = "WEIR-0003";
    /// A byte order mark: the file is UTF-8 without one.
    ByteOrderMark = "WEIR-0004";
    /// A control character that YAML does not allow.
    ControlCharacter = "WEIR-0005";
    /// The text is not YAML.
    Syntax = "WEIR-0006";
    /// The file holds nothing.
    Empty = "WEIR-0007";
    /// The file holds more than one YAML document.
    ManyDocuments = "WEIR-0008";
    /// Lists and maps lie more than 64 levels deep.
    TooDeep = "WEIR-0009";
    /// The same key twice in one map.
    DuplicateKey = "WEIR-0010";
    /// A map key that is not a plain text.
    BadKey = "WEIR-0011";
    /// An alias that refers to nothing or to itself, or aliases that expand without measure.
    Alias = "WEIR-0012";
    /// A YAML tag that has no meaning here.
    Tag = "WEIR-0013";
    /// An environment variable that is not set and has no default.
    Unset = "WEIR-0014";
    /// `${…}` that is not written as it must be, or that expands without measure.
    Expansion = "WEIR-0015";
    /// More faults than are worth showing.
    TooManyFaults = "WEIR-0016";

    /// A field that does not exist.
    UnknownField = "WEIR-0101";
    /// A field that is known, but that this version does not have yet.
    LaterVersion = "WEIR-0102";
    /// A field that must be there is not.
    Missing = "WEIR-0103";
    /// A value of another type than the field takes.
    WrongType = "WEIR-0104";
    /// A list or map with fewer entries than it needs.
    TooFew = "WEIR-0105";

    /// A value that cannot be read as what the field takes.
    BadValue = "WEIR-0201";
    /// Not one of the values that the field takes.
    UnknownChoice = "WEIR-0202";
    /// A number, size or duration outside its bounds.
    OutOfBounds = "WEIR-0203";
    /// A duration, size or rate whose unit is missing or unknown.
    BadUnit = "WEIR-0204";
    /// Not a name.
    BadName = "WEIR-0205";
    /// Not an address.
    BadAddress = "WEIR-0206";
    /// A path that is not normalised, or not a path.
    BadPath = "WEIR-0207";
    /// A regular expression that does not compile, or compiles to too much.
    BadRegex = "WEIR-0208";
    /// Not a host, or not a pattern of hosts.
    BadHost = "WEIR-0209";
    /// Not a header's name or value.
    BadHeader = "WEIR-0210";

    /// An upstream that does not exist is named.
    UnknownUpstream = "WEIR-0301";
    /// A listener that does not exist is named.
    UnknownListener = "WEIR-0302";
    /// A file that does not exist or is not what it must be.
    BadFile = "WEIR-0303";
    /// A route that does not exist is named.
    UnknownRoute = "WEIR-0304";
    /// A limit that does not exist is named.
    UnknownLimit = "WEIR-0305";
    /// A switch that does not exist is named.
    UnknownSwitch = "WEIR-0306";

    /// The same thing twice where it may stand once.
    Duplicate = "WEIR-0401";
    /// Two that cannot be given together.
    Conflict = "WEIR-0402";
    /// One that makes no sense without the other.
    Incomplete = "WEIR-0403";
    /// Two values that do not fit each other.
    Inconsistent = "WEIR-0404";
    /// Two addresses that cannot both be bound.
    AddressInUse = "WEIR-0405";
    /// A split in which no upstream has a weight.
    NoWeight = "WEIR-0406";
    /// A header that only Weir itself may change.
    ForbiddenHeader = "WEIR-0407";
    /// An overlay that does not fit what lies below it.
    Misfit = "WEIR-0408";
    /// Fallbacks that lead back to where they began.
    Circle = "WEIR-0409";

    /// Warning: a route that can never match.
    Shadowed = "WEIR-0901";
    /// Warning: an upstream that no route uses.
    Unused = "WEIR-0902";
    /// Warning: no route at all.
    NoRoutes = "WEIR-0903";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
        assert!(Code::ALL.iter().all(|code| code.meaning().ends_with('.')));
    }
}
