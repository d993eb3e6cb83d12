//! Tests whose failures count for nothing, until somebody takes them off the list.

use super::history::TestIdentity;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::QuarantinedTestView;
use ostler_domain::{Permission, QuarantinedTest, TestRecord};
use ostler_store::{Change, Filter, Op, StoreError, StoreExt};
use serde_json::json;

/// Longest reason, bytes.
const REASON: usize = 4096;

impl Control {
    /// The tests of the tenant that are in quarantine, by plan and name.
    pub async fn quarantined_tests(&self, caller: &Caller) -> Result<Vec<QuarantinedTestView>> {
        caller.require(Permission::RunsRead)?;
        let listed = Filter::<QuarantinedTest>::by("tenant_id", caller.tenant_id);
        let mut listed = self.parts.store.list(listed).await?;
        listed.sort_by(|a, b| (&a.plan, &a.name).cmp(&(&b.plan, &b.name)));
        Ok(listed.into_iter().map(QuarantinedTestView::from).collect())
    }

    /// Puts a test in quarantine: in plans that are submitted from now on its failures count for nothing. One that is there
    /// already gets the new reason. A test that is named by its key must have been executed before.
    pub async fn quarantine_test(
        &self,
        caller: &Caller,
        test: TestIdentity,
        reason: String,
    ) -> Result<QuarantinedTestView> {
        caller.require(Permission::RunsRead)?;
        caller.require(Permission::TestsWrite)?;
        if reason.len() > REASON {
            return Err(ControlError::Unprocessable(format!(
                "the reason is longer than {REASON} bytes"
            )));
        }
        let key = test.clone().key();
        let (plan, name) = match test {
            TestIdentity::Names { plan, test } => (plan, test),
            TestIdentity::Key(key) => {
                let newest = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
                    .and("key", Op::Eq, key.clone())
                    .order_by_desc("created_at");
                match self.parts.store.first(newest).await? {
                    Some(record) => (record.plan, record.name),
                    None => return Err(not_found(key)),
                }
            }
        };
        let listed = QuarantinedTest {
            tenant_id: caller.tenant_id,
            key,
            plan,
            name,
            reason,
            created_by: caller.user_id,
            created_at: self.now(),
        };
        let details = json!({ "plan": listed.plan, "test": listed.name, "reason": listed.reason });
        let by = self.acting(caller, "test.quarantine", &listed.key, details);
        let changes = vec![Change::delete(&listed), Change::insert(&listed)];
        match by.commit(changes).await {
            // Somebody else has put it there at the same moment.
            Err(ControlError::Store(StoreError::Duplicate { .. })) => {}
            done => done?,
        }
        Ok(listed.into())
    }

    /// Takes a test off the list.
    pub async fn release_test(&self, caller: &Caller, key: &str) -> Result<()> {
        caller.require(Permission::RunsRead)?;
        let listed =
            Filter::<QuarantinedTest>::by("tenant_id", caller.tenant_id).and("key", Op::Eq, key.to_owned());
        let listed = self.parts.store.first(listed).await?;
        let Some(listed) = listed else {
            return Err(not_found(key.to_owned()));
        };
        caller.require(Permission::TestsWrite)?;
        let details = json!({ "plan": listed.plan, "test": listed.name });
        let by = self.acting(caller, "test.release", key, details);
        by.commit(vec![Change::delete(&listed)]).await
    }
}

fn not_found(key: String) -> ControlError {
    ControlError::NotFound {
        what: "test",
        id: key,
    }
}
