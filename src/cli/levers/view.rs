//! Where lists look: the layers over the file, an instance, or the overlays alone.

use std::time::Duration;

use ::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::timeout};

use super::{
    Look,
    fields::{Present, leaves},
    preview,
    write::BYPASSED,
};
use crate::{
    cli::{
        failure::{Failure, note},
        policy::{
            document::{self, Envelope},
            outlook::Outlook,
            place::{self, Place, ScopeName},
            read, show,
            store::Contents,
            write,
        },
        remote,
    },
    config::{File, Kind, Name, bootstrap::ListenAddress},
    store::{
        Item,
        key::{Identity, Subject},
        layers::Baseline,
    },
};

/// How long an instance may take to answer that was named.
const PATIENCE: Duration = Duration::from_secs(5);

/// And one that is only probably there.
const GLANCE: Duration = Duration::from_millis(500);

/// What lists are made of.
pub(super) struct View {
    /// The effective documents, as `/policy` shows them.
    pub(super) documents: Value,
    /// What an instance says of its own, by name; `None` when none was asked or answered.
    pub(super) instance: Option<Value>,
}

impl View {
    /// Looks, and asks the instance for `path`.
    pub(super) fn find(look: &Look, kind: Kind, path: &str) -> Result<Self, Failure> {
        let mut admin = look.admin.as_deref().map(Admin::named).transpose()?;
        let documents = match (place::given(&look.common.store), &admin) {
            (false, Some(admin)) => admin.policy()?,
            _ => match of_store(look, kind, &mut admin) {
                Err(Failure::Unavailable(why)) if look.admin.is_some() => {
                    note(&format!("{why}; shown is what the instance says"));
                    admin.as_ref().map_or_else(|| Err(Failure::Unavailable(why)), Admin::policy)?
                }
                other => other?,
            },
        };
        let instance = match &admin {
            Some(admin) => admin.get(path, look.admin.is_some())?,
            None => None,
        };
        let bypass = documents.pointer("/bypass/document/state");
        if bypass.is_some() && preview::state(bypass, "off") == "on" {
            note(BYPASSED);
        }
        Ok(Self { documents, instance })
    }

    /// The resources of a kind, by name.
    pub(super) fn resources(&self, kind: Kind) -> impl Iterator<Item = (&str, &Value)> {
        let found = self.documents.get(kind.as_str()).and_then(Value::as_object);
        found.into_iter().flatten().map(|(name, shown)| (name.as_str(), shown))
    }

    /// What the instance says of one.
    pub(super) fn said(&self, name: &str) -> Option<&Value> {
        self.instance.as_ref()?.get(name)
    }
}

/// The documents over the file, or the overlays alone. Finds the file's instance, where none was named.
fn of_store(look: &Look, kind: Kind, admin: &mut Option<Admin>) -> Result<Value, Failure> {
    let args = &look.common.store;
    let file = place::file(args)?;
    let without_store =
        args.store.is_none() && file.as_ref().is_some_and(|file| file.bootstrap.store.is_none());
    if let (true, Some(file)) = (without_store, &file) {
        if admin.is_none() {
            *admin = Admin::of_file(file);
        }
        let (service, instance) = (file.bootstrap.service.clone(), file.bootstrap.instance.clone());
        same_service(admin, Some(&service), look)?;
        let identity = Identity { service, instance };
        return Ok(Outlook::of((&identity, &Baseline::new(file)), &[], &[], Timestamp::now()).new.to_json());
    }
    let mut place = Place::find(args, look.common.scope.as_ref())?;
    if let (None, Some(file), true) = (&admin, &file, place.baseline.is_some()) {
        *admin = Admin::of_file(file);
    }
    same_service(admin, place.service.as_ref(), look)?;
    // The view is that of the instance that answers, unless another one is said.
    let own = !matches!(look.common.scope, Some(ScopeName::Instance(..)));
    if let Some(instance) = admin.as_ref().and_then(|admin| admin.instance.clone()).filter(|_| own) {
        place.identity.instance = instance;
    }
    let contents = write::contents(&mut place)?;
    read::faults(&contents);
    let Some(outlook) = write::foreseen(&place, &contents, &[]) else {
        note(
            "no file says what lies below: only what overlays say is shown (`-c FILE`, or `--admin URL` of an instance)",
        );
        return Ok(of_overlays(&place, &contents, kind));
    };
    let word = format!("/{}/", kind.as_str());
    for refused in outlook.all_refusals().filter(|refused| refused.key.contains(&word)) {
        note(&format!("refused: {}: {}", refused.key, refused.reason));
    }
    Ok(outlook.new.to_json())
}

/// Fails when an instance that was named is another service's; forgets one that was only found.
fn same_service(admin: &mut Option<Admin>, service: Option<&Name>, look: &Look) -> Result<(), Failure> {
    let (Some(found), Some(service)) = (admin.as_ref(), service) else { return Ok(()) };
    if found.service.as_ref() == Some(service) {
        return Ok(());
    }
    if look.admin.is_some() {
        let other = found.service.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        return Err(Failure::No(format!(
            "the instance at {} is of the service {other}, not of {service}",
            found.address
        )));
    }
    *admin = None;
    Ok(())
}

/// What overlays say of the resources of a kind, merged in the order of their layers.
fn of_overlays(place: &Place, contents: &Contents, kind: Kind) -> Value {
    let now = Timestamp::now();
    let mut all = json!({ kind.as_str(): {} });
    let Some(resources) = all.get_mut(kind.as_str()).and_then(Value::as_object_mut) else { return all };
    for (prefix, layer) in place.prefixes().iter().zip(["fleet", "service", "instance"]) {
        for item in contents.items.iter().filter(|item| item.key.starts_with(prefix.as_str())) {
            let Some(rest) = item.key.strip_prefix(prefix.as_str()) else { continue };
            let Ok(subject) = Subject::parse(rest) else { continue };
            let Subject::Overlay(of, name) = &subject else { continue };
            let Some(present) =
                Present::read(&subject, &item.value).filter(|it| *of == kind && !it.is_over(now))
            else {
                continue;
            };
            let Some(document) = present.document else {
                resources.remove(name.as_str());
                continue;
            };
            let shown =
                resources.entry(name.to_string()).or_insert_with(|| json!({ "document": {}, "fields": {} }));
            lay(shown, &Value::Object(document), &written(item, layer));
        }
    }
    all
}

/// Lays the fields of one overlay over what is shown.
fn lay(shown: &mut Value, overlay: &Value, place: &Value) {
    leaves(&mut String::new(), overlay, &mut |path, value| {
        if let Some(document) = shown.get_mut("document") {
            document::put(document, path, value.clone());
        }
        if let Some(fields) = shown.get_mut("fields").and_then(Value::as_object_mut) {
            fields.insert(path.to_owned(), place.clone());
        }
    });
}

/// Where an overlay is written, as `/policy` tells it.
fn written(item: &Item, layer: &str) -> Value {
    let (_, Envelope { by, why, until }) = show::opened(item);
    json!({
        "layer": layer,
        "key": &*item.key,
        "revision": item.revision,
        "by": by,
        "why": why,
        "until": until.map(|until| until.to_string()),
    })
}

/// An instance that answers.
struct Admin {
    address: ListenAddress,
    runtime: Runtime,
    service: Option<Name>,
    instance: Option<Name>,
}

impl Admin {
    /// The one that somebody named: it has to answer.
    fn named(url: &str) -> Result<Self, Failure> {
        let address = remote::parse(url).map_err(Failure::Usage)?;
        Self::at(address, PATIENCE)
    }

    /// The one that a file names, if it answers.
    fn of_file(file: &File) -> Option<Self> {
        let admin = file.bootstrap.admin.as_ref()?;
        Self::at(admin.listen.clone(), GLANCE).ok()
    }

    fn at(address: ListenAddress, patience: Duration) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Unavailable(format!("no runtime: {error}")))?;
        let (status, said) = ask(&runtime, &address, "/status", patience)?;
        let name = |field: &str| said.get(field).and_then(Value::as_str).and_then(Name::new);
        let (service, instance) = (name("service"), name("instance"));
        if !status.is_success() || instance.is_none() {
            return Err(Failure::Unavailable(format!("what answers at {address} is no Weir: {status}")));
        }
        Ok(Self { address, runtime, service, instance })
    }

    /// What it says at a path; `None` when it does not have that.
    fn get(&self, path: &str, named: bool) -> Result<Option<Value>, Failure> {
        let (status, said) = ask(&self.runtime, &self.address, path, PATIENCE)?;
        if status.is_success() {
            return Ok(Some(said));
        }
        if named {
            note(&format!("the instance at {} answers {path} with {status}: it may be older", self.address));
        }
        Ok(None)
    }

    fn policy(&self) -> Result<Value, Failure> {
        let none = || Failure::No(format!("the instance at {} does not tell its policy", self.address));
        self.get("/policy", true)?.ok_or_else(none)
    }
}

fn ask(
    runtime: &Runtime,
    address: &ListenAddress,
    path: &str,
    patience: Duration,
) -> Result<(StatusCode, Value), Failure> {
    let asked = async { timeout(patience, remote::ask(address, Method::GET, path)).await };
    match runtime.block_on(asked) {
        Err(_) => Err(Failure::Unavailable(format!("{address} did not answer within {patience:?}"))),
        Ok(answer) => answer.map_err(|error| {
            Failure::Unavailable(format!("no Weir answers at {address} (`--admin`): {error}"))
        }),
    }
}
