//! The cost of recording a relayed call: two copies, and pages for the disk.

use std::time::Duration;

use crate::agent::Talk;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene, Window};
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 200;
const PER_SECOND: u32 = 100;
const WINDOW: Duration = Duration::from_secs(5);
/// Alternates with and without, so that a machine that becomes slower affects both.
const ROUNDS: usize = 3;
/// A finished recording is on disk after this.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);

/// Opus both ways, with and without `record = true`.
pub async fn added() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let (mut plain, mut recorded, mut bytes) = (Costs::default(), Costs::default(), 0);
    for _ in 0..ROUNDS {
        plain.note(&watch(Route::Agent(Talk::Echo)).await?.0);
        let (window, written) = watch(Route::Recorded(Talk::Echo)).await?;
        recorded.note(&window);
        bytes += written;
        note_doubts(&mut table, CALLS, &window);
    }
    let [(plain, plain_process), (recorded, recorded_process)] = [plain, recorded].map(Costs::medians);
    let limit = |floor| match bytes {
        0 => Goal::Beside(floor),
        _ => Goal::TimesFloor { floor, most: 1.05 },
    };
    table.row(format!("{CALLS} calls recorded: worker, 20 ms both ways; unrecorded"), recorded, "µs", limit(plain));
    table.row("  whole process", recorded_process, "µs", limit(plain_process));
    if bytes == 0 {
        table.note("no recording appeared on the disk: the ratios say nothing about recording");
    } else {
        table.row("  recorded in all", bytes as f64 / 1e6, "MB", Goal::Shown);
    }
    table.note(format!("medians of {ROUNDS} services of each kind by turns"));
    Ok(table)
}

#[derive(Default)]
struct Costs {
    worker: Vec<f64>,
    process: Vec<f64>,
}

impl Costs {
    fn note(&mut self, window: &Window) {
        self.worker.push(window.worker_us());
        self.process.push(window.process_us());
    }

    fn medians(mut self) -> (f64, f64) {
        (quantile(&mut self.worker, 0.5), quantile(&mut self.process, 0.5))
    }
}

/// What the calls took, and how many bytes of recordings there were in the end.
async fn watch(route: Route) -> anyhow::Result<(Window, u64)> {
    let mut scene = Scene::start(route).await?;
    scene.place(CALLS, PER_SECOND).await?;
    let window = scene.watch(WINDOW).await?;
    if let Route::Recorded(_) = route {
        scene.hang_up(0).await?;
        tokio::time::sleep(WRITTEN_WITHIN).await;
    }
    Ok((window, scene.service.recorded_bytes()))
}
