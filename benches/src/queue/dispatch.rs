//! Claims from a short queue and from a long one, in turns.

use super::{QueueArgs, enqueue_bulk, job, now};
use crate::probe::milliseconds;
use crate::stats::percentile;
use anyhow::{Result, ensure};
use ostler_domain::{Run, RunOutcome, RunStatus, ServerId};
use ostler_store::{ClaimRuns, FinishRun, Store};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const CLASSES: u32 = 50;
const TEN: u32 = 10;

struct Queue<'a> {
    store: &'a Arc<dyn Store>,
    server: ServerId,
    classes: Vec<i64>,
    next: u32,
}

/// Milliseconds.
#[derive(Default)]
struct Block {
    /// From the enqueue of a run of high priority to its claim.
    fresh: Vec<f64>,
    /// That claim alone.
    claim: Vec<f64>,
    /// A claim of ten.
    ten: Vec<f64>,
}

impl Block {
    fn medians(&self) -> Value {
        json!({
            "fresh_ms": percentile(&self.fresh, 0.5),
            "claim_ms": percentile(&self.claim, 0.5),
            "ten_ms": percentile(&self.ten, 0.5),
        })
    }
}

pub(super) async fn dispatch(
    short: &Arc<dyn Store>,
    long: &Arc<dyn Store>,
    args: &QueueArgs,
) -> Result<Value> {
    let mut short = Queue::fill(short, args.short, args).await?;
    let mut long = Queue::fill(long, args.count, args).await?;
    // Warm-up.
    for queue in [&mut short, &mut long] {
        queue.block(args.samples.min(20)).await?;
    }
    let mut blocks = Vec::new();
    for _ in 0..args.blocks {
        let (of_short, of_long) = (short.block(args.samples).await?, long.block(args.samples).await?);
        blocks.push(json!({ "short": of_short.medians(), "long": of_long.medians() }));
    }
    short.store.close().await;
    Ok(json!({ "short": args.short, "classes": CLASSES, "blocks": blocks }))
}

impl<'a> Queue<'a> {
    async fn fill(store: &'a Arc<dyn Store>, count: u32, args: &QueueArgs) -> Result<Self> {
        enqueue_bulk(store, count, args, CLASSES).await?;
        let classes: Vec<i64> = store.classes().await?.iter().map(|class| class.id).collect();
        ensure!(classes.len() == CLASSES as usize, "{} classes", classes.len());
        Ok(Self {
            store,
            server: ServerId::new(),
            classes,
            next: count,
        })
    }

    async fn claim(&self, limit: u32) -> Result<Vec<Run>> {
        let claim = ClaimRuns {
            server_id: self.server,
            classes: self.classes.clone(),
            limit,
            now: now(),
            picks: Vec::new(),
            sandbox: None,
        };
        Ok(self.store.claim(claim).await?)
    }

    async fn finish(&self, runs: &[Run]) -> Result<()> {
        let ends = runs.iter().map(|run| FinishRun {
            id: run.submitted.id,
            attempt: run.attempt,
            status: RunStatus::Succeeded,
            outcome: RunOutcome::default(),
            at: now(),
            then: Vec::new(),
        });
        ensure!(
            self.store
                .finish(ends.collect())
                .await?
                .iter()
                .all(|ended| *ended)
        );
        Ok(())
    }

    /// The number of waiting runs is the same before and after.
    async fn block(&mut self, samples: u32) -> Result<Block> {
        let mut block = Block::default();
        for sample in 0..samples {
            let urgent = job(self.next, sample % CLASSES + 1, 9);
            self.next += 1;
            let id = urgent.id;
            let start = Instant::now();
            self.store.enqueue(vec![urgent]).await?;
            let enqueued = start.elapsed();
            let runs = self.claim(1).await?;
            let claimed = start.elapsed();
            ensure!(
                runs.len() == 1 && runs[0].submitted.id == id,
                "the run of high priority was not the first"
            );
            self.finish(&runs).await?;
            block.fresh.push(milliseconds(claimed));
            block.claim.push(milliseconds(claimed) - milliseconds(enqueued));

            let start = Instant::now();
            let runs = self.claim(TEN).await?;
            block.ten.push(milliseconds(start.elapsed()));
            ensure!(runs.len() == TEN as usize, "{} runs instead of {TEN}", runs.len());
            self.finish(&runs).await?;
            let back = runs.iter().map(|run| {
                self.next += 1;
                job(self.next, run.submitted.ordinal % CLASSES + 1, 0)
            });
            self.store.enqueue(back.collect()).await?;
        }
        Ok(block)
    }
}
