//! What the services do, and how they call each other.

use std::error::Error;
use std::time::Duration;

use macula::{
    Call, CallRequest, Decode, HandlerError, IntoPayload, Json, Node, RegisterOptions, Reply, Strategy,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::instance::{self, Service};

pub(crate) const ORDER: &str = "shop.order";
const PRICE: &str = "prices.of";
const CHARGE: &str = "payments.charge";

/// The handler error of an order that certainly was not charged: it may be ordered again.
pub(crate) const NOT_CHARGED: u32 = 503;
/// The handler error of an order that may have been charged: somebody has to look.
pub(crate) const UNCLEAR: u32 = 504;

/// How long each part of an order may take. An order has less time than its parts together: its caller's deadline holds.
const PRICE_WAIT: Duration = Duration::from_millis(500);
const CHARGE_WAIT: Duration = Duration::from_secs(1);

/// How long others may keep a price.
const PRICE_KEPT: Duration = Duration::from_secs(1);

/// What looking up a price and talking to a bank take.
const PRICE_WORK: Duration = Duration::from_millis(2);
const CHARGE_WORK: Duration = Duration::from_millis(10);

#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) item: String,
}

#[derive(Serialize, Deserialize)]
struct Charge {
    order: String,
    cents: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) cents: u64,
    /// The instance that charged it.
    pub(crate) charged_by: String,
}

pub(crate) async fn prices(node: &Node) -> Result<(), Box<dyn Error>> {
    let options = RegisterOptions { cache_for: Some(PRICE_KEPT), ..RegisterOptions::default() };
    let service = Service { name: "prices", procedure: PRICE, options };
    instance::run(node, service, |call: Call| async move {
        let item = call.text()?;
        tokio::time::sleep(PRICE_WORK).await;
        macula::reply(Json(item.len() as u64 * 100))
    })
    .await
}

pub(crate) async fn payments(node: &Node) -> Result<(), Box<dyn Error>> {
    // A bank takes few calls at once; more are told so, and go elsewhere.
    let options = RegisterOptions { concurrency_max: 16, ..RegisterOptions::default() };
    let service = Service { name: "payments", procedure: CHARGE, options };
    let me = node.node_id().short().to_string();
    instance::run(node, service, move |call: Call| {
        let me = me.clone();
        async move {
            let Json(charge) = call.decode::<Json<Charge>>()?;
            // This is where money moves: it must not happen twice for one order.
            println!("charged {}", charge.order);
            tokio::time::sleep(CHARGE_WORK).await;
            macula::reply(Json(me))
        }
    })
    .await
}

pub(crate) async fn shop(node: &Node) -> Result<(), Box<dyn Error>> {
    let service = Service { name: "shop", procedure: ORDER, options: RegisterOptions::default() };
    let shop = node.clone();
    instance::run(node, service, move |call: Call| {
        let shop = shop.clone();
        async move { order(&shop, call).await }
    })
    .await
}

async fn order(node: &Node, call: Call) -> Result<Reply, HandlerError> {
    let Json(order) = call.decode::<Json<Order>>()?;
    // Asking for a price twice does no harm: if an instance is lost, another one is asked within the same call.
    let ask = request(node, PRICE, order.item)?.strategy(Strategy::Nearest).idempotent(true);
    let cents: u64 = ask_for(node, ask.timeout(PRICE_WAIT.min(call.remaining()))).await?;
    // Charging twice does: an instance that may have charged is not tried again elsewhere, and the error says so.
    let charge = request(node, CHARGE, Json(Charge { order: order.id, cents }))?;
    let charge = charge.strategy(Strategy::LeastLoaded).timeout(CHARGE_WAIT.min(call.remaining()));
    let charged_by: String = ask_for(node, charge).await?;
    macula::reply(Json(Receipt { cents, charged_by }))
}

pub(crate) fn request(
    node: &Node,
    procedure: &str,
    payload: impl IntoPayload,
) -> Result<CallRequest, macula::Error> {
    let (payload, content_type) = payload.into_payload()?;
    let request = CallRequest::new(procedure.parse()?).realm(node.realm());
    Ok(request.payload(payload).content_type(content_type))
}

/// Calls, and tells failures after which nothing has happened from those after which something may have.
async fn ask_for<A: DeserializeOwned>(node: &Node, request: CallRequest) -> Result<A, HandlerError> {
    let is_charge = request.procedure.as_str() == CHARGE;
    match node.call_with(request).await {
        Ok(reply) => Ok(reply.decode::<Json<A>>()?.0),
        Err(macula::Error::Call(error)) if is_charge && error.may_have_run() => {
            Err(HandlerError::new(error.to_string()).code(UNCLEAR))
        }
        Err(error) => Err(HandlerError::new(error.to_string()).code(NOT_CHARGED)),
    }
}
