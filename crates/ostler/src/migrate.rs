//! `ostler migrate`: the schema of the database.

use clap::Subcommand;
use ostler_store::Store;
use std::fmt::Write;

/// What to do with the schema.
#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Apply migrations.
    Up {
        /// Up to this one; all when absent.
        #[arg(long, value_name = "N")]
        to: Option<i64>,
    },
    /// Take migrations back, with the data that only they made room for.
    Down {
        /// Down to this one, which stays in force; 0 for none.
        #[arg(long, value_name = "N")]
        to: i64,
    },
    /// List migrations.
    Status,
}

impl Migrate {
    pub(crate) async fn run(self, store: &dyn Store, json: bool) -> anyhow::Result<()> {
        let (verb, changed) = match self {
            Self::Up { to } => ("applied", store.migrate_up(to).await?),
            Self::Down { to } => ("taken back", store.migrate_down(to).await?),
            Self::Status => ("", Vec::new()),
        };
        for version in &changed {
            eprintln!("migration {version} was {verb}");
        }
        let status = store.migrations().await?;
        if json {
            let rows: Vec<_> = status
                .iter()
                .map(|m| serde_json::json!({ "version": m.version, "name": m.name, "applied": m.applied }))
                .collect();
            crate::print(&format!("{:#}\n", serde_json::Value::from(rows)))?;
        } else {
            let mut text = String::new();
            for migration in status {
                let mark = if migration.applied { "applied" } else { "pending" };
                writeln!(text, "{:>4}  {mark}  {}", migration.version, migration.name)?;
            }
            crate::print(&text)?;
        }
        Ok(())
    }
}
