//! Orders at a steady rate, and a report of how they fared.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use macula::{CallError, Decode, Json, Node, Strategy};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::services::{NOT_CHARGED, ORDER, Order, Receipt, UNCLEAR, request};

/// How long one try of an order may take.
const ORDER_WAIT: Duration = Duration::from_secs(2);

/// Tries of one order, where it is certain that the one before was not charged.
const TRIES: u32 = 10;

/// Pause before the next try.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

const ITEMS: [&str; 4] = ["apple", "pear", "plum", "quince"];

/// What became of an order.
enum Outcome {
    Charged(Receipt),
    /// Nobody charged it.
    Failed(String),
    /// It may have been charged.
    Unclear(String),
}

pub(crate) async fn place(node: &Node, count: u64, rate: u32) -> Result<(), Box<dyn Error>> {
    let mut orders = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    println!("placing {count} orders, {rate} a second");
    for number in 0..count {
        ticks.tick().await;
        let (node, id) = (node.clone(), format!("{}-{number}", node.node_id().short()));
        let item = ITEMS[(number % ITEMS.len() as u64) as usize];
        orders.spawn(async move {
            let begun = Instant::now();
            let outcome = order(&node, Order { id, item: item.into() }).await;
            (outcome, begun.elapsed())
        });
    }
    report(node, orders.join_all().await);
    Ok(())
}

async fn order(node: &Node, order: Order) -> Outcome {
    let mut last = String::new();
    for _ in 0..TRIES {
        match order_once(node, &order).await {
            Ok(Outcome::Failed(text)) => last = text,
            Ok(outcome) => return outcome,
            Err(error) => return Outcome::Failed(error.to_string()),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Outcome::Failed(last)
}

async fn order_once(node: &Node, order: &Order) -> Result<Outcome, macula::Error> {
    let request = request(node, ORDER, Json(order))?.strategy(Strategy::RoundRobin).timeout(ORDER_WAIT);
    Ok(match node.call_with(request).await {
        Ok(reply) => Outcome::Charged(reply.decode::<Json<Receipt>>()?.0),
        // What the shop says about the payment is what counts.
        Err(macula::Error::Call(CallError::Handler(error))) => match error.code {
            Some(NOT_CHARGED) => Outcome::Failed(error.text),
            Some(UNCLEAR) => Outcome::Unclear(error.text),
            _ => Outcome::Failed(error.text),
        },
        // The shop itself was lost, or too late: it may have charged.
        Err(macula::Error::Call(error)) if error.may_have_run() => Outcome::Unclear(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    })
}

fn report(node: &Node, outcomes: Vec<(Outcome, Duration)>) {
    let (mut charged, mut cents, mut took) = (BTreeMap::<String, u64>::new(), 0, Vec::new());
    let (mut failed, mut unclear) = (0, 0);
    for (outcome, time) in outcomes {
        match outcome {
            Outcome::Charged(receipt) => {
                *charged.entry(receipt.charged_by).or_default() += 1;
                cents += receipt.cents;
                took.push(time);
            }
            Outcome::Failed(text) => {
                failed += 1;
                println!("failed: {text}");
            }
            Outcome::Unclear(text) => {
                unclear += 1;
                println!("unclear: {text}");
            }
        }
    }
    took.sort_unstable();
    let at =
        |percent: usize| took.get(took.len() * percent / 100).or(took.last()).copied().unwrap_or_default();
    println!("for {cents} cents; half within {:?}, 99 of 100 within {:?}", at(50), at(99));
    charged.iter().for_each(|(instance, count)| println!("charged by {instance}: {count}"));
    let metrics = node.metrics();
    let counters = ["macula_rpc_calls_retried_total", "macula_rpc_calls_completed_total"];
    let shown = metrics.lines().filter(|line| counters.iter().any(|counter| line.starts_with(counter)));
    shown.for_each(|line| println!("{line}"));
    println!("orders: {} charged, {failed} failed, {unclear} unclear", took.len());
}
