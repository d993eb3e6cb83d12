//! The local forge, on real git repositories.
#![allow(
    clippy::unwrap_used,
    clippy::many_single_char_names,
    reason = "a test may panic, and its issues are a, b and c"
)]

mod common;

use common::{Bench, commit, leftovers, options, sh};
use ostler_domain::SubtaskId;
use ostler_forge::{ForgeError, ForgeOptions, MergeOutcome, PublishOutcome, SyncOutcome, UpdateOutcome};

#[tokio::test]
async fn clones_once_and_again_without_leftovers() {
    let bench = Bench::new();
    let repository = bench.repository();
    assert!(matches!(
        repository.sync("main", None).await,
        Err(ForgeError::NotCloned { .. })
    ));
    for _ in 0..2 {
        assert_eq!(
            repository.clone_source(None, None).await.unwrap().default_branch,
            "main"
        );
    }
    assert_eq!(leftovers(&repository), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        repository.head_of("main").await.unwrap().unwrap(),
        sh(&bench.origin, &["rev-parse", "HEAD"])
    );
}

#[tokio::test]
async fn a_source_without_commits_or_without_a_repository_is_refused() {
    let bench = Bench::new();
    let empty = bench.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let error = bench
        .repositories
        .parse_source(empty.to_str().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::NotARepository { .. }), "{error}");
    sh(&empty, &["init", "-q"]);
    let source = bench
        .repositories
        .parse_source(empty.to_str().unwrap())
        .await
        .unwrap();
    let repository = bench
        .repositories
        .repository(ostler_domain::TenantId::DEFAULT, &source);
    let error = repository.clone_source(None, None).await.unwrap_err();
    assert!(matches!(error, ForgeError::EmptyRepository { .. }), "{error}");
    assert!(!repository.path().exists() && leftovers(&repository).is_empty());

    let error = bench
        .repositories
        .parse_source("/no/such/place")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}

#[tokio::test]
async fn a_path_inside_a_repository_means_the_repository() {
    let bench = Bench::new();
    commit(&bench.origin, "src/a", "a", "more");
    let source = bench
        .repositories
        .parse_source(bench.origin.join("src").to_str().unwrap())
        .await
        .unwrap();
    assert_eq!(source.local_path().unwrap(), bench.origin);
}

#[tokio::test]
async fn the_default_branch_of_a_detached_origin_can_be_named() {
    let bench = Bench::new();
    sh(&bench.origin, &["branch", "-m", "trunk"]);
    sh(&bench.origin, &["branch", "other"]);
    sh(&bench.origin, &["checkout", "-q", "--detach"]);
    let repository = bench.repository();
    let error = repository.clone_source(None, None).await.unwrap_err();
    assert!(error.to_string().contains("other, trunk"), "{error}");
    let cloned = repository.clone_source(Some("trunk"), None).await.unwrap();
    assert_eq!(cloned.default_branch, "trunk");
}

#[tokio::test]
async fn sync_follows_origin_and_keeps_our_merges() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    assert_eq!(
        repository.sync("main", None).await.unwrap(),
        SyncOutcome::UpToDate
    );

    let second = commit(&bench.origin, "a", "a", "second");
    let updated = SyncOutcome::Updated {
        commit: second.clone(),
    };
    assert_eq!(repository.sync("main", None).await.unwrap(), updated);

    // Rewritten at origin, nothing of our own: follow.
    sh(
        &bench.origin,
        &["commit", "-q", "--amend", "-m", "second, better"],
    );
    let rewritten = sh(&bench.origin, &["rev-parse", "HEAD"]);
    let updated = SyncOutcome::Updated { commit: rewritten };
    assert_eq!(repository.sync("main", None).await.unwrap(), updated);

    merge_a_subtask(&bench, &repository, "iv-1", "ours", "x").await;
    assert_eq!(
        repository.sync("main", None).await.unwrap(),
        SyncOutcome::UpToDate
    );
    commit(&bench.origin, "theirs", "y", "third");
    let SyncOutcome::Merged { .. } = repository.sync("main", None).await.unwrap() else {
        panic!("both had moved")
    };
    for file in ["ours", "theirs"] {
        assert!(
            repository.file_at("main", file).await.unwrap().is_some(),
            "{file}"
        );
    }

    merge_a_subtask(&bench, &repository, "iv-2", "clash", "x").await;
    let before = repository.head_of("main").await.unwrap();
    commit(&bench.origin, "clash", "y", "fourth");
    let error = repository.sync("main", None).await.unwrap_err();
    assert!(
        matches!(&error, ForgeError::Diverged { files, .. } if files == &["clash"]),
        "{error}"
    );
    assert_eq!(repository.head_of("main").await.unwrap(), before);
}

async fn merge_a_subtask(
    bench: &Bench,
    repository: &ostler_forge::Repository,
    branch: &str,
    file: &str,
    text: &str,
) {
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, branch, "main").await.unwrap();
    let out = bench
        .in_sandbox(repository, branch, |w| drop(commit(w, file, text, "work")))
        .await;
    let head = repository
        .bundle_import(subtask, branch, "main", &out)
        .await
        .unwrap();
    let outcome = repository
        .merge(branch, "main", "Merge", Some(&head))
        .await
        .unwrap();
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
    repository.worktree_remove(subtask).await.unwrap();
    repository.delete_branch(branch).await.unwrap();
}

#[tokio::test]
async fn an_origin_that_is_gone_is_reported() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    std::fs::rename(&bench.origin, bench.dir.path().join("elsewhere")).unwrap();
    let error = repository.sync("main", None).await.unwrap_err();
    assert!(matches!(error, ForgeError::AccessRefused { .. }), "{error}");
}

#[tokio::test]
async fn work_goes_into_a_sandbox_and_comes_back() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    let worktree = repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            drop(commit(w, "new.txt", "new\n", "add new\n\nwith a reason"));
        })
        .await;
    let head = repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    assert_eq!(repository.head_of("iv-1").await.unwrap().unwrap(), head);
    assert_eq!(
        std::fs::read_to_string(worktree.join("new.txt")).unwrap(),
        "new\n"
    );

    let log = repository.log("main", "iv-1").await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(
        (log[0].id.as_str(), log[0].author.as_str()),
        (head.as_str(), "Ann")
    );
    assert_eq!(
        (log[0].subject.as_str(), log[0].body.as_str()),
        ("add new", "with a reason")
    );
    let diff = repository.diff("main", "iv-1", 10_000).await.unwrap();
    assert!(diff.text.contains("+new\n") && !diff.truncated, "{diff:?}");
    let cut = repository.diff("main", "iv-1", 60).await.unwrap();
    assert!(
        cut.truncated && cut.text.len() <= 60 && cut.text.ends_with('\n'),
        "{cut:?}"
    );
    let stat = repository.diff_stat("main", "iv-1").await.unwrap();
    assert_eq!((stat[0].path.as_str(), stat[0].added), ("new.txt", Some(1)));

    // Rewriting its own branch is an agent's right.
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            sh(w, &["reset", "-q", "--hard", "HEAD~1"]);
            commit(w, "other.txt", "other\n", "instead");
        })
        .await;
    repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    assert!(!worktree.join("new.txt").exists() && worktree.join("other.txt").exists());
    assert!(leftovers(&repository).is_empty());
}

#[tokio::test]
async fn renames_and_binaries_have_their_figures() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            sh(w, &["mv", "README", "READ ME"]);
            std::fs::write(w.join("b"), [0u8, 1, 2]).unwrap();
            commit(w, "c", "c\n", "x");
        })
        .await;
    repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    let stat = repository.diff_stat("main", "iv-1").await.unwrap();
    let find = |path: &str| stat.iter().find(|s| s.path == path).unwrap();
    assert_eq!(find("READ ME").renamed_from.as_deref(), Some("README"));
    assert_eq!((find("b").added, find("c").added), (None, Some(1)));
    assert_eq!(stat.len(), 3);
}

#[tokio::test]
async fn a_bundle_moves_nothing_but_its_branch() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let main = repository.head_of("main").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            commit(w, "a", "a", "work");
            sh(w, &["branch", "-f", "main", "HEAD"]);
            sh(w, &["tag", "evil"]);
        })
        .await;
    let everything = out.with_file_name("all.bundle");
    sh(
        out.parent().unwrap(),
        &["bundle", "create", "-q", everything.to_str().unwrap(), "--all"],
    );
    repository
        .bundle_import(subtask, "iv-1", "main", &everything)
        .await
        .unwrap();
    assert_eq!(repository.head_of("main").await.unwrap(), main);
    assert_eq!(sh(repository.path(), &["tag", "-l"]), "");

    let error = repository
        .bundle_import(subtask, "main", "main", &everything)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("default branch"), "{error}");
    let error = repository
        .bundle_import(subtask, "iv-9", "main", &everything)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not contain the branch iv-9"),
        "{error}"
    );
}

#[tokio::test]
async fn damaged_and_hostile_bundles_are_refused() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let before = repository.head_of("iv-1").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            // A tree with an entry `.git` would overwrite the repository of whoever checks it out.
            let blob = sh(w, &["hash-object", "-w", "README"]);
            let entry = format!("100644 blob {blob}\t.git\n");
            std::fs::write(w.join("entry"), entry).unwrap();
            let script = "t=$(git mktree < entry) && c=$(git commit-tree $t -p HEAD -m evil) && git update-ref refs/heads/iv-1 $c";
            let mut command = std::process::Command::new("sh");
            for (key, value) in [("GIT_AUTHOR_NAME", "x"), ("GIT_AUTHOR_EMAIL", "x"), ("GIT_COMMITTER_NAME", "x"), ("GIT_COMMITTER_EMAIL", "x")] {
                command.env(key, value);
            }
            assert!(command.args(["-c", script]).current_dir(w).status().unwrap().success());
        })
        .await;
    let error = repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ForgeError::BadBundle { .. }) && error.to_string().contains(".git"),
        "{error}"
    );

    let good = bench
        .in_sandbox(&repository, "iv-1", |w| drop(commit(w, "a", "a", "work")))
        .await;
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(&good, &bytes[..bytes.len() - 30]).unwrap();
    let error = repository
        .bundle_import(subtask, "iv-1", "main", &good)
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::BadBundle { .. }), "{error}");
    std::fs::write(&good, b"hello").unwrap();
    let error = repository
        .bundle_import(subtask, "iv-1", "main", &good)
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::BadBundle { .. }), "{error}");
    assert_eq!(repository.head_of("iv-1").await.unwrap(), before);
}

#[tokio::test]
async fn a_git_file_written_by_an_agent_is_never_followed() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    let worktree = repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let trap = bench.dir.path().join("trap");
    let mark = bench.dir.path().join("mark");
    sh(bench.dir.path(), &["init", "-q", trap.to_str().unwrap()]);
    let hook = format!("touch {}", mark.display());
    sh(&trap, &["config", "filter.x.smudge", &hook]);
    sh(&trap, &["config", "core.fsmonitor", &hook]);
    std::fs::remove_file(worktree.join(".git")).unwrap();
    std::fs::write(
        worktree.join(".git"),
        format!("gitdir: {}/.git\n", trap.display()),
    )
    .unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            drop(commit(w, ".gitattributes", "* filter=x\n", "work"));
        })
        .await;
    repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    assert!(worktree.join(".gitattributes").exists() && !mark.exists());
    repository.worktree_remove(subtask).await.unwrap();
    assert!(!worktree.exists() && !mark.exists());
}

#[tokio::test]
async fn twenty_worktrees_two_at_a_time_each() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtasks: Vec<SubtaskId> = (0..20).map(|_| SubtaskId::new()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (i, subtask) in subtasks.iter().enumerate() {
        for _ in 0..2 {
            let (repository, subtask) = (repository.clone(), *subtask);
            tasks.spawn(async move { repository.worktree_add(subtask, &format!("iv-{i}"), "main").await });
        }
    }
    while let Some(result) = tasks.join_next().await {
        assert!(result.unwrap().unwrap().join("README").exists());
    }
    let list = repository.worktree_list().await.unwrap();
    assert_eq!(list.len(), 20);
    assert!(list.iter().all(|w| w.usable));
    for (i, subtask) in subtasks.iter().enumerate() {
        let wanted = format!("iv-{i}");
        let path = repository.worktree_path(*subtask);
        assert!(
            list.iter()
                .any(|w| w.path == path && w.branch.as_deref() == Some(wanted.as_str()))
        );
        repository.worktree_remove(*subtask).await.unwrap();
        repository.worktree_remove(*subtask).await.unwrap();
    }
    assert!(repository.worktree_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn stale_and_unfinished_worktrees_are_made_anew() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    let path = repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(
        repository.worktree_add(subtask, "iv-1", "main").await.unwrap(),
        path
    );
    assert!(path.join("README").exists());

    // As left by a kill in the middle: still marked as being made, some files missing.
    std::fs::remove_file(path.join("README")).unwrap();
    std::fs::write(
        repository
            .path()
            .join("worktrees")
            .join(subtask.to_string())
            .join("locked"),
        "initializing",
    )
    .unwrap();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    assert!(path.join("README").exists());

    // A directory that git knows nothing of.
    let other = SubtaskId::new();
    std::fs::create_dir_all(repository.worktree_path(other).join("junk")).unwrap();
    let made = repository.worktree_add(other, "iv-2", "main").await.unwrap();
    assert!(made.join("README").exists() && !made.join("junk").exists());

    let error = repository.worktree_add(other, "iv-3", "main").await.unwrap_err();
    assert!(matches!(error, ForgeError::WorktreeTaken { .. }), "{error}");
    let error = repository
        .worktree_add(SubtaskId::new(), "iv-1", "main")
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::BranchInUse { .. }), "{error}");
    let error = repository.delete_branch("iv-1").await.unwrap_err();
    assert!(matches!(error, ForgeError::BranchInUse { .. }), "{error}");
    let error = repository.delete_branch("main").await.unwrap_err();
    assert!(error.to_string().contains("default branch"), "{error}");
}

#[tokio::test]
async fn merges_conflict_or_wait_for_the_checked_head() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let mut heads = Vec::new();
    for (branch, text) in [
        ("iv-1", "ONE\ntwo\nthree\n"),
        ("iv-2", "eins\ntwo\nthree\n"),
        ("iv-3", "one\ntwo\nDREI\n"),
    ] {
        let subtask = SubtaskId::new();
        repository.worktree_add(subtask, branch, "main").await.unwrap();
        let out = bench
            .in_sandbox(&repository, branch, |w| drop(commit(w, "README", text, branch)))
            .await;
        heads.push(
            repository
                .bundle_import(subtask, branch, "main", &out)
                .await
                .unwrap(),
        );
    }
    let moved = repository
        .merge("iv-1", "main", "m", Some(&heads[1]))
        .await
        .unwrap();
    assert_eq!(
        moved,
        MergeOutcome::HeadMoved {
            head: heads[0].clone()
        }
    );

    let merged = repository
        .merge("iv-1", "main", "Merge iv-1\n\nBody", Some(&heads[0]))
        .await
        .unwrap();
    let MergeOutcome::Merged { commit } = &merged else {
        panic!("{merged:?}")
    };
    assert_eq!(repository.head_of("main").await.unwrap().as_ref(), Some(commit));
    assert_eq!(
        sh(
            repository.path(),
            &["log", "-1", "--format=%an %ae %P %s", commit]
        )
        .split(' ')
        .count(),
        6
    );
    // Asked again, as after a crash between the merge and the note of it.
    assert_eq!(
        repository
            .merge("iv-1", "main", "m", Some(&heads[0]))
            .await
            .unwrap(),
        merged
    );

    let conflict = MergeOutcome::Conflict {
        files: vec!["README".to_owned()],
    };
    assert_eq!(repository.merge_check("iv-2", "main").await.unwrap(), conflict);
    assert_eq!(
        repository.merge("iv-2", "main", "m", None).await.unwrap(),
        conflict
    );
    let clash = UpdateOutcome::Conflict {
        files: vec!["README".to_owned()],
    };
    assert_eq!(repository.update_branch("iv-2", "main").await.unwrap(), clash);

    let updated = repository.update_branch("iv-3", "main").await.unwrap();
    let UpdateOutcome::Updated { commit } = updated else {
        panic!("{updated:?}")
    };
    assert_eq!(repository.head_of("iv-3").await.unwrap().unwrap(), commit);
    let list = repository.worktree_list().await.unwrap();
    let tree = list.iter().find(|w| w.branch.as_deref() == Some("iv-3")).unwrap();
    assert_eq!(
        std::fs::read_to_string(tree.path.join("README")).unwrap(),
        "ONE\ntwo\nDREI\n"
    );
    assert_eq!(
        repository.update_branch("iv-3", "main").await.unwrap(),
        UpdateOutcome::UpToDate
    );
    assert!(matches!(
        repository
            .merge("iv-3", "main", "m", Some(&commit))
            .await
            .unwrap(),
        MergeOutcome::Merged { .. }
    ));
    assert_eq!(
        repository.file_at("main", "README").await.unwrap().unwrap(),
        b"ONE\ntwo\nDREI\n"
    );
    assert_eq!(repository.file_at("main", "missing").await.unwrap(), None);
    assert!(repository.file_at("main", "../x").await.is_err());
}

#[tokio::test]
async fn squashed_merges_are_one_commit_and_repeatable() {
    let bench = Bench::squash();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    assert_eq!(
        repository.merge("iv-1", "main", "m", None).await.unwrap(),
        MergeOutcome::NothingToMerge
    );
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            commit(w, "a", "a", "one");
            commit(w, "b", "b", "two");
        })
        .await;
    repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    let before = repository.head_of("main").await.unwrap().unwrap();
    let merged = repository.merge("iv-1", "main", "all of it", None).await.unwrap();
    assert_eq!(
        repository.merge("iv-1", "main", "all of it", None).await.unwrap(),
        merged
    );
    let log = repository.log(&before, "main").await.unwrap();
    assert_eq!(
        log.iter().map(|c| c.subject.as_str()).collect::<Vec<_>>(),
        ["all of it"]
    );
    repository.worktree_remove(subtask).await.unwrap();
    repository.delete_branch("iv-1").await.unwrap();
    assert_eq!(repository.head_of("iv-1").await.unwrap(), None);
}

#[tokio::test]
async fn publishing_moves_a_clean_checkout_and_leaves_a_dirty_one() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    merge_a_subtask(&bench, &repository, "iv-1", "a", "a").await;
    std::fs::write(bench.origin.join("README"), "being edited").unwrap();
    let PublishOutcome::Skipped { reason } = repository.publish("main", None).await.unwrap() else {
        panic!("the owner's changes must be left alone")
    };
    assert!(
        reason.contains("uncommitted changes") && reason.contains("git pull"),
        "{reason}"
    );
    sh(&bench.origin, &["checkout", "-q", "README"]);

    std::fs::write(bench.origin.join("a"), "mine, not added").unwrap();
    let skipped = repository.publish("main", None).await.unwrap();
    assert!(matches!(skipped, PublishOutcome::Skipped { .. }), "{skipped:?}");
    assert_eq!(
        std::fs::read_to_string(bench.origin.join("a")).unwrap(),
        "mine, not added"
    );
    std::fs::remove_file(bench.origin.join("a")).unwrap();

    assert_eq!(
        repository.publish("main", None).await.unwrap(),
        PublishOutcome::Published
    );
    assert_eq!(std::fs::read_to_string(bench.origin.join("a")).unwrap(), "a");
    assert_eq!(
        repository.publish("main", None).await.unwrap(),
        PublishOutcome::Published
    );
    assert_eq!(
        repository.sync("main", None).await.unwrap(),
        SyncOutcome::UpToDate
    );
}

#[tokio::test]
async fn publishing_pushes_where_the_branch_is_not_checked_out() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    sh(&bench.origin, &["checkout", "-q", "-b", "elsewhere"]);
    merge_a_subtask(&bench, &repository, "iv-1", "a", "a").await;
    assert_eq!(
        repository.publish("main", None).await.unwrap(),
        PublishOutcome::Published
    );
    assert_eq!(
        sh(&bench.origin, &["rev-parse", "main"]),
        repository.head_of("main").await.unwrap().unwrap()
    );
    sh(&bench.origin, &["checkout", "-q", "main"]);
    commit(&bench.origin, "b", "b", "meanwhile");
    sh(&bench.origin, &["checkout", "-q", "elsewhere"]);
    merge_a_subtask(&bench, &repository, "iv-2", "c", "c").await;
    let PublishOutcome::Skipped { reason } = repository.publish("main", None).await.unwrap() else {
        panic!("never by force")
    };
    assert!(reason.contains("sync the project"), "{reason}");
}

#[tokio::test]
async fn removal_takes_everything_and_stays_inside() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let worktree = repository
        .worktree_add(SubtaskId::new(), "iv-1", "main")
        .await
        .unwrap();
    repository.maintain().await.unwrap();
    repository.remove().await.unwrap();
    repository.remove().await.unwrap();
    assert!(!repository.path().exists() && !worktree.exists());
    let root = bench.dir.path().join("data/repositories");
    let left: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, [".tmp"]);

    std::fs::create_dir_all(repository.path().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&bench.origin, repository.path()).unwrap();
    let error = repository.remove().await.unwrap_err();
    assert!(matches!(error, ForgeError::OutsideRoot { .. }), "{error}");
    assert!(bench.origin.join("README").exists());
}

#[tokio::test]
async fn lock_files_of_a_lost_machine_are_swept() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    let worktree = repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| drop(commit(w, "a", "a", "work")))
        .await;
    let stale = [
        repository.path().join("refs/heads/iv-1.lock"),
        repository
            .path()
            .join("worktrees")
            .join(subtask.to_string())
            .join("index.lock"),
    ];
    for (path, age) in stale.iter().zip([61, 3600]) {
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age))
            .unwrap();
    }
    let young = repository.path().join("refs/heads/other.lock");
    std::fs::write(&young, "").unwrap();
    assert!(
        repository
            .bundle_import(subtask, "iv-1", "main", &out)
            .await
            .is_err()
    );
    assert_eq!(bench.repositories.sweep().await.unwrap(), 2);
    assert!(young.exists());
    repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    assert!(worktree.join("a").exists());
}

#[tokio::test]
async fn a_small_bundle_with_a_huge_tree_is_refused() {
    let bench = Bench::with(ForgeOptions {
        max_tree_bytes: 1 << 20,
        ..options()
    });
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let before = repository.head_of("iv-1").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| {
            // One object of 64 KiB that packs to nothing, seen a hundred times.
            for i in 0..100 {
                std::fs::write(w.join(format!("f{i}")), vec![b'0'; 64 << 10]).unwrap();
            }
            sh(w, &["add", "-A"]);
            sh(w, &["commit", "-q", "-m", "bomb"]);
        })
        .await;
    assert!(std::fs::metadata(&out).unwrap().len() < 64 << 10);
    let error = repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::TooLarge { .. }), "{error}");
    assert_eq!(repository.head_of("iv-1").await.unwrap(), before);
}

#[tokio::test]
async fn many_prerequisites_do_not_hold_the_repository_up() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let good = bench
        .in_sandbox(&repository, "iv-1", |w| drop(commit(w, "a", "a", "work")))
        .await;
    let bytes = std::fs::read(&good).unwrap();
    let first = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    let known = repository.head_of("main").await.unwrap().unwrap();
    let lines = format!("-{known} x\n").repeat(10_000);
    let hostile = [&bytes[..first], lines.as_bytes(), &bytes[first..]].concat();
    std::fs::write(&good, hostile).unwrap();
    let import = repository.bundle_import(subtask, "iv-1", "main", &good);
    let taken = tokio::time::timeout(std::time::Duration::from_secs(10), import).await;
    taken.expect("in time").unwrap();

    let lines = format!("-{} x\n", "1".repeat(40));
    let hostile = [&bytes[..first], lines.as_bytes(), &bytes[first..]].concat();
    std::fs::write(&good, hostile).unwrap();
    let error = repository
        .bundle_import(subtask, "iv-1", "main", &good)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1111"), "{error}");
}
