DROP TABLE
    run_counts, run_ends, run_active, run_delayed, run_ready, runs, run_classes, servers, events, agent_sessions,
    sandboxes, pools, issues, merge_requests, subtasks, tasks, projects, api_tokens, tenants;
