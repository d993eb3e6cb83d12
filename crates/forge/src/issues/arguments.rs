//! The command line.

use clap::{Args, Parser, Subcommand};

/// Issues of this project, with their dependencies. Every command is stored at once.
#[derive(Debug, Parser)]
#[command(
    name = "bd",
    disable_version_flag = true,
    term_width = 100,
    max_term_width = 100
)]
pub(super) struct Line {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Act in the name of somebody else
    #[arg(long, global = true)]
    pub actor: Option<String>,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Options of the real program that mean nothing here
    #[command(flatten)]
    _ignored: Ignored,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
struct Ignored {
    #[arg(long, global = true, hide = true)]
    db: Option<String>,
    #[arg(long, global = true, hide = true)]
    no_daemon: bool,
    #[arg(long, global = true, hide = true)]
    no_db: bool,
    #[arg(long, global = true, hide = true)]
    no_auto_flush: bool,
    #[arg(long, global = true, hide = true)]
    no_auto_import: bool,
    #[arg(long, global = true, hide = true)]
    sandbox: bool,
    #[arg(long, global = true, hide = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an issue, or a whole graph of issues from a JSON plan
    #[command(visible_alias = "new")]
    Create(Create),
    /// Change issues, or claim them
    Update(Update),
    /// Close issues that are done
    #[command(visible_alias = "done")]
    Close(Close),
    /// Open closed issues again
    Reopen(Reopen),
    /// Show issues with all they have
    #[command(visible_alias = "view")]
    Show(Show),
    /// List issues; closed ones only with --all or --status
    List(List),
    /// List what could be worked on now: open, nothing to wait for, not an epic
    Ready(Ready),
    /// List what waits for other issues
    Blocked(Blocked),
    /// Dependencies between issues
    #[command(subcommand)]
    Dep(Dep),
    /// Epics
    #[command(subcommand)]
    Epic(Epic),
    /// List or add comments
    #[command(args_conflicts_with_subcommands = true)]
    Comments(Comments),
    /// Add a comment
    Comment(Comment),
    /// Labels
    #[command(subcommand)]
    Label(Label),
    /// Delete issues for good
    Delete(Delete),
    /// Counts by state
    #[command(visible_alias = "status")]
    Stats,
    /// Run several changes from standard input, all or none
    Batch(Batch),
    /// Write all issues as JSONL
    Export(Export),
    /// Read issues from JSONL
    Import(Import),
    /// Nothing to do here; kept for scripts
    Init(Anything),
    /// Explain to an agent how to work with issues
    Prime,
    /// The same as prime
    #[command(visible_alias = "quickstart")]
    Onboard,
    /// Nothing to do here; kept for scripts
    #[command(hide = true, aliases = ["dolt", "flush"])]
    Sync(Anything),
    /// Print the version
    Version,
}

/// Whatever the real program would take.
#[derive(Debug, Args)]
pub(super) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub _rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Title
    pub title: Option<String>,
    /// Title, if it starts with a hyphen
    #[arg(
        long = "title",
        id = "title_option",
        value_name = "TITLE",
        allow_hyphen_values = true
    )]
    pub title_option: Option<String>,
    /// epic, task, bug, feature or chore
    #[arg(short = 't', long = "type", default_value = "task")]
    pub issue_type: String,
    /// 0 (most urgent) to 4, or P0 to P4
    #[arg(short, long, default_value = "2")]
    pub priority: String,
    /// What is to be done
    #[arg(short, long, visible_alias = "body", allow_hyphen_values = true)]
    pub description: Option<String>,
    /// Read the description from a file; `-` is standard input
    #[arg(
        long,
        visible_alias = "description-file",
        value_name = "FILE",
        conflicts_with = "description"
    )]
    pub body_file: Option<String>,
    /// Read the description from standard input
    #[arg(long, conflicts_with_all = ["description", "body_file"])]
    pub stdin: bool,
    /// How
    #[arg(long, allow_hyphen_values = true)]
    pub design: Option<String>,
    /// Read the design from a file; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "design")]
    pub design_file: Option<String>,
    /// When it is done
    #[arg(long, visible_alias = "acceptance-criteria", allow_hyphen_values = true)]
    pub acceptance: Option<String>,
    /// Remarks
    #[arg(long, allow_hyphen_values = true)]
    pub notes: Option<String>,
    /// Labels, separated by commas
    #[arg(short, long, visible_alias = "label", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The issue that it is part of; its id then is <parent>.<number>
    #[arg(long)]
    pub parent: Option<String>,
    /// What it depends on, separated by commas: `ID` or `blocked-by:ID` (it waits for ID), `discovered-from:ID`,
    /// `related:ID`, `parent-child:ID`; `blocks:ID` is the reverse: ID waits for it
    #[arg(long, value_delimiter = ',')]
    pub deps: Vec<String>,
    /// Who does it
    #[arg(short, long)]
    pub assignee: Option<String>,
    /// open, in_progress, blocked or closed
    #[arg(short, long)]
    pub status: Option<String>,
    /// Use this id
    #[arg(long, conflicts_with = "parent")]
    pub id: Option<String>,
    /// Allow an id with another prefix
    #[arg(long)]
    pub force: bool,
    /// Print the id alone
    #[arg(long)]
    pub silent: bool,
    /// Show what would be made
    #[arg(long)]
    pub dry_run: bool,
    /// Make the issues and dependencies of a JSON plan; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["title", "title_option", "parent", "id", "deps"])]
    pub graph: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// Issues
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Take it: assignee becomes you, status in_progress; fails if somebody else has it
    #[arg(long)]
    pub claim: bool,
    /// open, in_progress, blocked or closed
    #[arg(short, long)]
    pub status: Option<String>,
    /// Title
    #[arg(long, allow_hyphen_values = true)]
    pub title: Option<String>,
    /// epic, task, bug, feature or chore
    #[arg(short = 't', long = "type")]
    pub issue_type: Option<String>,
    /// 0 to 4
    #[arg(short, long)]
    pub priority: Option<String>,
    /// What is to be done
    #[arg(short, long, visible_alias = "body", allow_hyphen_values = true)]
    pub description: Option<String>,
    /// Read the description from a file; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "description")]
    pub body_file: Option<String>,
    /// How
    #[arg(long, allow_hyphen_values = true)]
    pub design: Option<String>,
    /// When it is done
    #[arg(long, visible_alias = "acceptance-criteria", allow_hyphen_values = true)]
    pub acceptance: Option<String>,
    /// Remarks, instead of those there are
    #[arg(long, allow_hyphen_values = true)]
    pub notes: Option<String>,
    /// Remarks, after those there are
    #[arg(long, allow_hyphen_values = true, conflicts_with = "notes")]
    pub append_notes: Option<String>,
    /// Who does it; empty for nobody
    #[arg(short, long)]
    pub assignee: Option<String>,
    /// The issue that it is part of; empty for none
    #[arg(long)]
    pub parent: Option<String>,
    /// Labels to add
    #[arg(long, value_delimiter = ',')]
    pub add_label: Vec<String>,
    /// Labels to remove
    #[arg(long, value_delimiter = ',')]
    pub remove_label: Vec<String>,
    /// Labels instead of those there are
    #[arg(long, value_delimiter = ',')]
    pub set_labels: Option<Vec<String>>,
    /// Session id of the agent
    #[arg(long)]
    pub session: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Close {
    /// Issues
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Why
    #[arg(short, long, visible_aliases = ["message", "comment", "resolution"], short_alias = 'm', allow_hyphen_values = true)]
    pub reason: Option<String>,
    /// Close although it waits for others, or has open parts
    #[arg(short, long)]
    pub force: bool,
    /// List what can start now
    #[arg(long)]
    pub suggest_next: bool,
    /// Claim the next ready issue
    #[arg(long)]
    pub claim_next: bool,
    /// Session id of the agent
    #[arg(long)]
    pub session: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Reopen {
    /// Issues
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Why; becomes a comment
    #[arg(short, long, allow_hyphen_values = true)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Issues
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// One line each
    #[arg(long)]
    pub short: bool,
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// open, in_progress, blocked or closed; several with commas
    #[arg(short, long, value_delimiter = ',')]
    pub status: Vec<String>,
    /// epic, task, bug, feature or chore; several with commas
    #[arg(short = 't', long = "type", value_delimiter = ',')]
    pub issue_type: Vec<String>,
    /// Leave out types
    #[arg(long, value_delimiter = ',')]
    pub exclude_type: Vec<String>,
    /// Whose
    #[arg(short, long)]
    pub assignee: Option<String>,
    /// Nobody's
    #[arg(long, visible_alias = "unassigned")]
    pub no_assignee: bool,
    /// With all these labels
    #[arg(short, long, visible_alias = "labels", value_delimiter = ',')]
    pub label: Vec<String>,
    /// 0 to 4
    #[arg(short, long)]
    pub priority: Option<String>,
    /// Below this issue
    #[arg(long)]
    pub parent: Option<String>,
    /// With this text in the title
    #[arg(long, visible_alias = "title-contains")]
    pub title: Option<String>,
    /// At most so many; 0 for all
    #[arg(short = 'n', long)]
    pub limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    pub filter: Filter,
    /// Closed ones, too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ready {
    #[command(flatten)]
    pub filter: Filter,
    /// Take the first one
    #[arg(long)]
    pub claim: bool,
}

#[derive(Debug, Args)]
pub(super) struct Blocked {
    /// Below this issue
    #[arg(long)]
    pub parent: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Dep {
    /// Make ISSUE wait for BLOCKER (or link them otherwise with --type)
    Add {
        /// The issue that waits
        issue: String,
        /// What it waits for
        #[arg(required_unless_present_any = ["blocked_by", "depends_on"])]
        blocker: Option<String>,
        /// What it waits for
        #[arg(long, conflicts_with = "blocker")]
        blocked_by: Option<String>,
        /// What it waits for
        #[arg(long, conflicts_with_all = ["blocker", "blocked_by"])]
        depends_on: Option<String>,
        /// blocks, parent-child, related or discovered-from
        #[arg(short = 't', long = "type", default_value = "blocks")]
        kind: String,
    },
    /// Remove the link between two issues
    #[command(visible_alias = "rm")]
    Remove {
        /// The issue that waits
        issue: String,
        /// What it waits for
        blocker: String,
    },
    /// List what an issue depends on
    List {
        /// Issue
        issue: String,
        /// down: what it depends on; up: what depends on it
        #[arg(long, default_value = "down")]
        direction: String,
    },
    /// Show what an issue depends on, as a tree
    Tree {
        /// Issue
        issue: String,
        /// Show what depends on it instead
        #[arg(long)]
        reverse: bool,
        /// At most so many levels
        #[arg(short = 'd', long, default_value_t = 50)]
        max_depth: usize,
    },
    /// Look for cycles
    Cycles,
}

#[derive(Debug, Subcommand)]
pub(super) enum Epic {
    /// How far open epics are
    Status {
        /// Only those whose parts are all closed
        #[arg(long)]
        eligible_only: bool,
    },
    /// Close the epics whose parts are all closed
    CloseEligible {
        /// Only list them
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Comments {
    #[command(subcommand)]
    pub action: Option<CommentsAction>,
    /// Issue whose comments to list
    pub id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CommentsAction {
    /// Add a comment
    Add(Comment),
}

#[derive(Debug, Args)]
pub(super) struct Comment {
    /// Issue
    pub id: String,
    /// Text
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub text: Vec<String>,
    /// Read the text from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Read the text from standard input
    #[arg(long)]
    pub stdin: bool,
    /// In whose name
    #[arg(short, long)]
    pub author: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Label {
    /// Add a label: bd label add ID... LABEL
    Add {
        /// Issues, and the label at the end
        #[arg(required = true, num_args = 2..)]
        words: Vec<String>,
    },
    /// Remove a label: bd label remove ID... LABEL
    #[command(visible_alias = "rm")]
    Remove {
        /// Issues, and the label at the end
        #[arg(required = true, num_args = 2..)]
        words: Vec<String>,
    },
    /// List the labels of an issue
    List {
        /// Issue
        id: String,
    },
    /// List all labels
    ListAll,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Issues
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Do it; without this it is only shown
    #[arg(short, long)]
    pub force: bool,
    /// Delete what is part of them, too
    #[arg(long)]
    pub cascade: bool,
    /// Only show it
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Batch {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub file: String,
    /// Only check the grammar
    #[arg(long)]
    pub dry_run: bool,
    /// Ignored; kept for scripts
    #[arg(short, long, hide = true)]
    pub message: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Only `-` (standard output) is possible here
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// Kept for scripts: everything is exported anyway
    #[arg(long, hide = true)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// JSONL; `-` is standard input
    #[arg(default_value = "-")]
    pub file: String,
    /// The same
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<String>,
    /// Only tell what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Leave out lines with the title of an open issue
    #[arg(long)]
    pub dedup: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Line::command().debug_assert();
    }
}
