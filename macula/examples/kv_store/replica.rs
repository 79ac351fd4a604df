//! What a holder does for coordinators and other holders: `kv.replica`, always called at a given node.

use std::sync::Arc;
use std::time::Duration;

use macula::{
    Call, CallRequest, Decode, Error, HandlerError, Json, Node, NodeId, RegisterOptions, Registration, Reply,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::owners::REPLICA;
use crate::store::{Digest, Entry, Store};

/// How long one holder may take; the others are asked at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Calls that one holder serves at once.
const CALLS_MAX: u32 = 256;

/// What is asked of a holder.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered with an `Option<Entry>`.
    Get(String),
    /// Answered with `()`.
    Put(String, Entry),
    /// Which of these do you lack? Answered with a list of keys.
    Compare(Digest),
}

pub(crate) async fn offer(node: &Node, store: &Arc<Store>) -> Result<Registration, Error> {
    let store = store.clone();
    let handler = move |call: Call| {
        let store = store.clone();
        async move { serve(&store, call) }
    };
    let options = RegisterOptions { concurrency_max: CALLS_MAX, ..RegisterOptions::default() };
    node.register_in(node.realm(), REPLICA, options, handler).await
}

fn serve(store: &Store, call: Call) -> Result<Reply, HandlerError> {
    match call.decode::<Json<Request>>()?.0 {
        Request::Get(key) => macula::reply(Json(store.get(&key))),
        Request::Put(key, entry) => {
            store.put(key, entry);
            macula::reply(Json(()))
        }
        Request::Compare(offered) => macula::reply(Json(store.wanted(offered))),
    }
}

/// Asks one holder. All requests may be repeated without harm, and say so.
pub(crate) async fn ask<A: DeserializeOwned>(
    node: &Node,
    holder: NodeId,
    request: &Request,
) -> Result<A, Error> {
    let (payload, content_type) = macula::IntoPayload::into_payload(Json(request))?;
    let call = CallRequest::new(REPLICA.parse()?)
        .realm(node.realm())
        .payload(payload)
        .content_type(content_type)
        .to(holder)
        .timeout(PATIENCE)
        .idempotent(true);
    Ok(node.call_with(call).await?.decode::<Json<A>>()?.0)
}
