//! Whom a request is for: authorities and paths, and what is sent on after them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::{http::uri, route::normalise};

fuzz_target!(|text: &str| {
    if let Ok(authority) = uri::parse(text) {
        assert!(!authority.host.bytes().any(|b| b.is_ascii_uppercase() || b <= b' '));
        assert_eq!(uri::parse(&authority.host).map(|again| again.host), Ok(authority.host.clone()));
    }
    if let Ok(path) = normalise(text) {
        assert!(path.starts_with('/') && !path.contains("//"));
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
        assert_eq!(normalise(&path).as_deref(), Ok(&*path), "normal is normal");
        let _ = uri::path_and_query(&path, None);
    }
});
