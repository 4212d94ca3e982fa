//! The program: its start time, and its resources without calls.

use std::time::Duration;

use crate::agent::{Agents, Talk};
use crate::machine;
use crate::meta;
use crate::service::{self, PROGRAM, Service, ServiceOptions};
use crate::table::{Goal, Table, quantile};

const STARTS: usize = 5;
const IDLE: Duration = Duration::from_secs(1);

/// Start to ready, memory at rest, size on disk.
pub async fn program() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let agents = Agents::start(Talk::Echo).await?;
    let options = ServiceOptions {
        // Never dialled.
        graph_url: "http://127.0.0.1:9".to_owned(),
        app_secret: meta::APP_SECRET.to_owned(),
        phone_number_id: meta::PHONE_NUMBER_ID.to_owned(),
        access_token: meta::ACCESS_TOKEN.to_owned(),
        route: service::to_agent(&agents.url, "opus"),
        sections: String::new(),
        refuses: false,
    };
    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let service = Service::start(&options).await?;
        starts.push(service.ready_after.as_secs_f64() * 1e3);
        tokio::time::sleep(IDLE).await;
        memory.push(machine::resident_kb(service.process())? / 1e3);
    }
    table.row(format!("start to ready, worst of {STARTS}"), quantile(&mut starts, 1.0), "ms", Goal::AtMost(200.0));
    table.row("memory at rest", quantile(&mut memory, 1.0), "MB", Goal::AtMost(20.0));
    let bytes = std::fs::metadata(PROGRAM)?.len();
    table.row("program on disk", bytes as f64 / 1e6, "MB", Goal::AtMost(25.0));
    Ok(table)
}
