//! What an agent is told about `bd`.

use super::Graph;

pub(super) fn text(graph: &Graph) -> String {
    let prefix = graph.prefix();
    format!(
        "\
# Issues: the `bd` command

Work is kept as issues with dependencies. Every command is stored at once; nothing has to be saved, synced or committed.
Add --json to any command for JSON. Ids look like {prefix}-3f2, parts of an issue like {prefix}-3f2.1.

Find work
  bd ready                          what can be done now (waits for nothing)
  bd show ID                        everything about an issue
  bd blocked                        what waits, and for what
  bd list [--all]                   all open (or all) issues

Do work
  bd update ID --claim              take it
  bd comments add ID \"text\"         note what you found out
  bd close ID --reason \"what was done\" [--suggest-next]

Plan work
  bd create \"Title\" -t epic -d \"…\"                      a collection; -t task, bug, feature, chore for work
  bd create \"Title\" --parent EPIC -d \"…\" --acceptance \"…\"   a part of it
  bd dep add ISSUE BLOCKER          ISSUE waits until BLOCKER is closed
  bd create --graph - < plan.json   many issues and dependencies at once

Rules
- Close an issue only when its acceptance criteria are met and the work is committed.
- Work found on the way: bd create \"Title\" --deps discovered-from:ID
- Dependencies must not form a cycle; bd says which one it would be.
"
    )
}
