//! From the names of files to keys. Pure.

/// What stands between the parts of a key in a flat name.
const BETWEEN: &str = "__";

/// What may follow the name of a value.
const EXTENSIONS: [&str; 3] = [".yaml", ".yml", ".json"];

/// Whether a name is no part of the tree: what Kubernetes (`..data`), editors and Weir itself put beside files.
pub(super) fn ignored(name: &str) -> bool {
    let ends = ["~", ".swp", ".swx", ".tmp"];
    name.starts_with('.')
        || ends.iter().any(|end| name.ends_with(end))
        || (name.starts_with('#') && name.ends_with('#'))
}

/// The name of a value, without the extension of its file.
pub(super) fn stem(name: &str) -> &str {
    EXTENSIONS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The key of a file that lies in the directory itself and has its whole key in its name:
/// `orders__switches__no-recommendations.yaml`. The parts of a name may hold what stands between them: the scope ends
/// at the first, the kind at the second, and an endpoint's upstream at the third.
pub(super) fn flat(name: &str) -> Option<(&str, String)> {
    // The scope `_all` begins with an underscore of its own.
    let from = name.len() - name.trim_start_matches('_').len();
    let at = from + name.get(from..)?.find(BETWEEN)?;
    let (segment, rest) = (name.get(..at)?, stem(name.get(at + BETWEEN.len()..)?));
    let parts = if rest.starts_with("endpoints__") { 3 } else { 2 };
    let path = rest.splitn(parts, BETWEEN).collect::<Vec<_>>().join("/");
    (!segment.is_empty()).then(|| (segment, format!("{segment}/{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_names() {
        for (name, key) in [
            ("orders__switches__no-recs.yaml", "orders/switches/no-recs"),
            ("orders__switches__v1.2", "orders/switches/v1.2"),
            ("_all__bypass", "_all/bypass"),
            ("_all__limits__a_b.json", "_all/limits/a_b"),
            ("orders__switches__a__b.yml", "orders/switches/a__b"),
            ("orders__endpoints__app__a__1", "orders/endpoints/app/a__1"),
            ("orders@pod-1__switches__x", "orders@pod-1/switches/x"),
            ("orders__nonsense", "orders/nonsense"),
        ] {
            assert_eq!(flat(name).map(|(_, key)| key).as_deref(), Some(key), "{name}");
        }
        for name in ["", "_", "__", "___", "README.md", "orders", "_all", "orders_switches_x"] {
            assert_eq!(flat(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_read() {
        for name in ["..data", "..2026_11_21", ".x.swp", "x.yaml~", "x.swp", "x.tmp", "#x#", ".git", ".audit"]
        {
            assert!(ignored(name), "{name}");
        }
        for name in ["x", "x.yaml", "x.y.z", "tmp", "_all", "4913"] {
            assert!(!ignored(name), "{name}");
        }
        assert_eq!(
            ["a.yaml", "a.yml", "a.json", "a.txt", "a.yaml.yaml"].map(stem),
            ["a", "a", "a", "a.txt", "a.yaml"]
        );
    }
}
