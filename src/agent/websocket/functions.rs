//! Functions: what a model has an app do, a few at a time. They end with the model's connection, whatever they wait for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing::info;

use crate::agent::model::function::{AppFunction, client};
use crate::agent::model::tools::FunctionResult;
use crate::agent::port::AgentPort;

/// Functions under way at a time; the model learns that one more is too many. Their results fit into the queue of replies.
const MAX_UNDER_WAY: usize = 8;

/// One call of a function.
pub(super) struct Called {
    /// The model's.
    pub request_id: Value,
    pub function: Arc<AppFunction>,
    pub arguments: Value,
}

/// The functions of one connection.
#[derive(Default)]
pub(super) struct Functions {
    /// At most [`MAX_UNDER_WAY`], with those that were begun.
    waiting: RefCell<Vec<Called>>,
    under_way: Cell<usize>,
    came: Notify,
}

impl Functions {
    /// Begins a function, or gives the answer that refuses it.
    pub fn begin(&self, called: Called) -> Result<(), FunctionResult> {
        if self.under_way.get() >= MAX_UNDER_WAY {
            return Err(FunctionResult::error("too many functions are under way: wait for their results"));
        }
        self.under_way.set(self.under_way.get() + 1);
        self.waiting.borrow_mut().push(called);
        self.came.notify_one();
        Ok(())
    }

    /// Has the app perform what was begun, and hands each result to `answer`.
    pub async fn perform(
        &self,
        port: &AgentPort,
        tls: &rustls::ClientConfig,
        parameters: &BTreeMap<String, String>,
        answer: impl Fn(&Value, &FunctionResult),
    ) -> Infallible {
        let mut http = None;
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.came.notified() => {
                    for called in self.waiting.take() {
                        let http = http.get_or_insert_with(|| client(tls)).as_ref().ok().cloned();
                        running.push(perform(http, called, port, parameters));
                    }
                }
                Some((request_id, result)) = running.next() => {
                    self.under_way.set(self.under_way.get().saturating_sub(1));
                    answer(&request_id, &result);
                }
            }
        }
    }
}

async fn perform(
    http: Option<reqwest::Client>,
    called: Called,
    port: &AgentPort,
    parameters: &BTreeMap<String, String>,
) -> (Value, FunctionResult) {
    let Called { request_id, function, arguments } = called;
    // The system has no room for a client of HTTP.
    let Some(http) = http else { return (request_id, FunctionResult::error("the function cannot be reached")) };
    let id = format!("fn_{}", ulid::Ulid::new().to_string().to_lowercase());
    let request = json!({
        "id": id,
        "function": function.name,
        "arguments": arguments,
        "call": port.facts(),
        "parameters": parameters,
    });
    let result = function.call(&http, &id, &request, port.standstills()).await;
    if result.is_error {
        info!(call.id = %port.call_id(), "the model's function {} has no result: {}", function.name, result.text);
    }
    (request_id, result)
}
