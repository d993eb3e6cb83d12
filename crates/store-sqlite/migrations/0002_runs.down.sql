DROP TABLE servers;
DROP TABLE run_counters;
DROP TABLE runs;
DROP TABLE run_classes;
