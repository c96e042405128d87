//! What there is in the place of a connection in a Weir that was built without the feature `redis`: nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use rustls::ClientConfig;

use super::call::{Call, Reply};
use crate::config::bootstrap::RedisUrl;

/// Whether this Weir was built with it.
pub(super) const BUILT: bool = false;

/// There is none.
#[derive(Debug)]
pub(super) struct Link(Infallible);

impl Link {
    /// How long [`Self::open`] may take.
    pub(super) const OPENING: Duration = Duration::from_secs(1);

    #[expect(clippy::unused_async, reason = "as in the real one")]
    pub(super) async fn open(_: &RedisUrl, _: Option<&Arc<ClientConfig>>) -> Result<Self, String> {
        Err("this Weir was built without Redis".to_owned())
    }

    #[expect(clippy::unused_async, reason = "as in the real one")]
    pub(super) async fn ask(&mut self, _: &[Call]) -> Result<Vec<Reply>, String> {
        match self.0 {}
    }

    pub(super) fn is_closed(&self) -> bool {
        match self.0 {}
    }
}
