//! `ostler project`.

super::noun!(Project {
    /// Add a project by cloning a repository.
    Add(add),
    /// List the projects.
    List(list),
    /// Show a project.
    Show(show),
    /// Remove a project with its tasks, clone and worktrees; its source is not touched.
    Remove(remove),
    /// Remove worktrees and branches that no subtask needs any more.
    Cleanup(cleanup),
});

use crate::table::{Colour, Fields};
use crate::when::ago;
use ostler_contracts::ProjectView;

fn fields(project: &ProjectView, colour: Colour) -> String {
    Fields::new(colour)
        .add("Id", project.id)
        .add("Name", &project.name)
        .add("Source", &project.source)
        .add("Branch", &project.default_branch)
        .add("Added", ago(project.created_at))
        .render()
}
