//! `ostler tenant`, `department`, `user`, `role`, `credential` and `audit`.

use crate::support::{Cli, Done, id};

#[tokio::test]
async fn a_tenant_is_set_up_and_taken_down() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    let tenant = id(&server.ok(&["tenant", "create", "acme"]), "ten_");
    assert!(server.ok(&["tenant", "list"]).contains("acme"));
    assert!(server.ok(&["tenant", "show", "acme"]).contains(&tenant));
    assert_eq!(
        server.run(&["tenant", "create", "acme"]).code,
        4,
        "the name is taken"
    );
    assert_eq!(server.run(&["tenant", "create", "Not A Name"]).code, 2);

    let acme = |arguments: &[&str]| server.ok(&[&["--tenant", "acme"], arguments].concat());
    let department = id(&acme(&["department", "create", "Research"]), "dep_");
    acme(&["department", "rename", "Research", "Labs"]);
    let role = id(&acme(&["role", "create", "runner", "-p", "runs:read"]), "rol_");
    acme(&["role", "set", "runner", "-p", "runs:read", "-p", "runs:write"]);
    let user = id(
        &acme(&[
            "user",
            "create",
            "ann",
            "--email",
            "ann@example.org",
            "--department",
            "Labs",
            "-r",
            "runner",
        ]),
        "usr_",
    );
    let shown = acme(&["user", "show", "ann"]);
    assert!(
        shown.contains(&user) && shown.contains(&department) && shown.contains("runner"),
        "{shown}"
    );
    let secret = acme(&["token", "create", "laptop", "--user", "ann"])
        .trim_end()
        .to_owned();
    let as_ann = |arguments: &[&str]| -> Done {
        server
            .command(arguments)
            .env("OSTLER_TOKEN", &secret)
            .output()
            .unwrap()
            .into()
    };
    assert_eq!(as_ann(&["run", "submit", "--", "true"]).code, 0);
    assert_eq!(as_ann(&["user", "list"]).code, 4);
    let elsewhere = as_ann(&["--tenant", "default", "run", "list"]);
    assert!(
        elsewhere.code == 4 && elsewhere.err.contains("admin:*"),
        "{elsewhere:?}"
    );
    acme(&["role", "unassign", "runner", "ann"]);
    assert_eq!(as_ann(&["run", "list"]).code, 4);
    acme(&["role", "assign", "viewer", "ann"]);
    assert_eq!(as_ann(&["run", "list"]).code, 0);
    acme(&["user", "disable", "ann"]);
    assert_eq!(as_ann(&["run", "list"]).code, 4);
    acme(&["user", "enable", "ann"]);
    acme(&[
        "user",
        "change",
        "ann",
        "--name",
        "anna",
        "--email",
        "",
        "--department",
        "",
    ]);
    let changed = server.json(&["--tenant", "acme", "user", "show", "anna"]);
    assert!(
        changed["email"].is_null() && changed["department_id"].is_null(),
        "{changed}"
    );

    let log = acme(&["audit", "list", "--actor", "anna"]);
    assert!(
        log.contains("run.submit") && !log.contains("user.create"),
        "{log}"
    );
    let log = acme(&["audit", "list", "--object", &role]);
    assert!(log.contains("role.create") && log.contains("role.set"), "{log}");
    assert!(
        !server
            .ok(&["audit", "list", "--limit", "1000"])
            .contains("runner"),
        "it is of the other tenant"
    );

    acme(&["user", "remove", "anna"]);
    acme(&["role", "remove", "runner"]);
    acme(&["department", "remove", "Labs"]);
    server.until(&["--tenant", "acme", "run", "list"], |runs| {
        runs.as_array()
            .unwrap()
            .iter()
            .all(|run| run["status"] == "succeeded")
    });
    server.ok(&["tenant", "rename", "acme", "gone"]);
    assert_eq!(server.run(&["tenant", "remove", "default"]).code, 4);
}

#[tokio::test]
async fn credentials_come_from_standard_input_and_are_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    let set = server.run_with(&["credential", "set", "forge", "-k", "github_token"], "planted\n");
    assert_eq!(set.code, 0, "{set:?}");
    let list = server.ok(&["credential", "list"]);
    assert!(list.contains("forge") && list.contains("github_token"), "{list}");
    let rotated = server.ok(&["credential", "rotate-key"]);
    assert!(rotated.starts_with("1 credentials are sealed"), "{rotated}");
    let seen = format!(
        "{set:?}{list}{rotated}{}",
        server.ok(&["--json", "audit", "list"])
    );
    assert!(!seen.contains("planted"), "{seen}");
    assert_eq!(
        server
            .run_with(&["credential", "set", "x", "-k", "password"], "v")
            .code,
        2
    );
    server.ok(&["credential", "remove", "forge"]);
    assert_eq!(server.run(&["credential", "remove", "forge"]).code, 3);
}
