//! Live documents that are checked without a store: for the CI of policy repositories.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;

use super::{
    check::counted,
    policy::outlook::{self, Outlook},
    source,
};
use crate::{
    config::{
        Code, Fault, Loaded, MAX_VALUE, Name, Severity,
        node::{Origin, SourceId},
    },
    store::{
        Item,
        key::{Identity, Scope, Subject},
        layers::Baseline,
    },
};

/// A live document, and the key that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The scope; `None` = the file's service.
    scope: Option<Arc<str>>,
    subject: Subject,
    file: PathBuf,
}

impl Overlay {
    /// Reads `KEY=FILE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, file) = text.split_once('=').ok_or("it is KEY=FILE, such as orders/switches/x=x.yaml")?;
        if file.is_empty() {
            return Err("the file is missing: KEY=FILE".to_owned());
        }
        let file = PathBuf::from(file);
        if let Ok(subject) = Subject::parse(key) {
            return sound(Self { scope: None, subject, file });
        }
        let (scope, rest) = key.split_once('/').ok_or("a key is SCOPE/KIND/NAME or KIND/NAME")?;
        super::policy::place::ScopeName::parse(scope)?;
        let subject = Subject::parse(rest).map_err(|error| error.to_string())?;
        sound(Self { scope: Some(Arc::from(scope)), subject, file })
    }

    /// The key, for a file of `service`.
    fn key(&self, service: Option<&Name>) -> String {
        match (&self.scope, service) {
            (Some(scope), _) => format!("{scope}/{}", self.subject),
            (None, Some(service)) => format!("{service}/{}", self.subject),
            (None, None) => self.subject.to_string(),
        }
    }

    /// Whether it has a say in what an instance of the file's service does, and in which scope.
    fn of(&self, service: &Name) -> Option<Scope> {
        match self.scope.as_deref() {
            None => Some(Scope::Service),
            Some("_all") => Some(Scope::Fleet),
            Some(scope) if scope == service.as_str() => Some(Scope::Service),
            Some(scope) => {
                let (own, _) = scope.split_once('@')?;
                (own == service.as_str()).then_some(Scope::Instance)
            }
        }
    }
}

fn sound(overlay: Overlay) -> Result<Overlay, String> {
    if overlay.subject == Subject::Confirm {
        return Err("`confirm` is no document".to_owned());
    }
    Ok(overlay)
}

/// No file: overlays are checked by themselves.
pub(super) fn nothing() -> Loaded {
    outlook::nothing()
}

/// One that could be read.
struct Read<'a> {
    overlay: &'a Overlay,
    source: SourceId,
    item: Item,
    good: bool,
}

/// Checks each overlay by itself, and those that are good together over the file. All faults go to `loaded`.
pub(super) fn check(overlays: &[Overlay], loaded: &mut Loaded) {
    let service = loaded.file.as_ref().map(|file| file.bootstrap.service.clone());
    let mut read = Vec::new();
    for overlay in overlays {
        let key = overlay.key(service.as_ref());
        let name = source::name(&overlay.file);
        match source::read(&overlay.file) {
            Ok(bytes) => {
                let (good, source) = outlook::alone(&name, &overlay.subject, bounded(&bytes), loaded);
                let item = Item { key: key.into(), value: bytes.into(), revision: 1 };
                read.push(Read { overlay, source, item, good });
            }
            Err(error) => {
                let source = loaded.sources.add(&name, "");
                fail(loaded, source, Code::Unreadable, format!("cannot read the file: {error}"));
            }
        }
    }
    for (n, one) in read.iter().enumerate() {
        let twice = read.iter().take(n).any(|other| other.item.key == one.item.key);
        if twice {
            fail(loaded, one.source, Code::Duplicate, format!("{} is given twice", one.item.key));
        }
    }
    together(&read, loaded);
}

/// As much of a value as shows that it is too long.
fn bounded(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len().min(MAX_VALUE + 1)).unwrap_or_default()
}

/// Lays what is good by itself over the file: the fleet's and the service's together, and those of each instance over
/// them.
fn together(read: &[Read<'_>], loaded: &mut Loaded) {
    let Some(file) = loaded.file.as_ref() else { return };
    let (service, baseline) = (file.bootstrap.service.clone(), Baseline::new(file));
    let good = |one: &&Read<'_>| one.good && one.overlay.of(&service).is_some();
    let good: Vec<_> = read.iter().filter(good).collect();
    let mut instances: Vec<Name> = vec![file.bootstrap.instance.clone()];
    instances.extend(good.iter().filter_map(|one| {
        let (_, instance) = one.overlay.scope.as_deref()?.split_once('@')?;
        Name::new(instance)
    }));
    instances.sort();
    instances.dedup();
    let mut reported: Vec<Arc<str>> = Vec::new();
    for instance in instances {
        let identity = Identity { service: service.clone(), instance };
        let mut items: Vec<_> = good.iter().map(|one| one.item.clone()).collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let seen = Outlook::of((&identity, &baseline), &items, &[], Timestamp::now());
        for refused in seen.all_refusals() {
            let Some(one) = good.iter().find(|one| one.item.key == refused.key) else { continue };
            if !reported.contains(&refused.key) {
                reported.push(Arc::clone(&refused.key));
                loaded.faults.push(outlook::fault(refused, one.source));
            }
        }
    }
}

fn fail(loaded: &mut Loaded, source: SourceId, code: Code, message: String) {
    let origin = Origin { source, ..Origin::default() };
    let (path, help) = (String::new(), None);
    loaded.faults.push(Fault { severity: Severity::Error, code, path, origin, message, help });
}

/// The last line: how many were checked, against what, and what came of it.
pub(super) fn summary(overlays: &[Overlay], loaded: &Loaded, file: Option<&String>) -> String {
    let what = counted(overlays.len(), "overlay");
    let over = file.map_or_else(|| "checked without a file".to_owned(), |file| format!("over {file}"));
    let errors = loaded.faults.count(Severity::Error);
    let warnings = loaded.faults.count(Severity::Warning);
    let found = match (errors, warnings) {
        (0, 0) => "fine".to_owned(),
        (0, _) => format!("fine; {}", counted(warnings, "warning")),
        _ => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    };
    format!("{what} {over}: {found}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_files() {
        let overlay = Overlay::parse("orders/switches/x=a=b.yaml").unwrap();
        assert_eq!(overlay.file, PathBuf::from("a=b.yaml"));
        let orders = Name::new("orders").unwrap();
        assert_eq!(
            (overlay.key(None).as_str(), overlay.of(&orders)),
            ("orders/switches/x", Some(Scope::Service))
        );
        let own = Overlay::parse("endpoints/app/a=-").unwrap();
        assert_eq!(own.key(Some(&orders)), "orders/endpoints/app/a");
        assert_eq!(Overlay::parse("_all/bypass=f").unwrap().of(&orders), Some(Scope::Fleet));
        assert_eq!(Overlay::parse("orders@p/bypass=f").unwrap().of(&orders), Some(Scope::Instance));
        assert_eq!(Overlay::parse("orders2/bypass=f").unwrap().of(&orders), None);
        for wrong in
            ["", "x", "x=", "switches=f", "a/b/c/d=f", "confirm=f", "_any/switches/x=f", "orders/switchs/x=f"]
        {
            assert!(Overlay::parse(wrong).is_err(), "{wrong}");
        }
    }
}
