//! Agent kinds: command, session resume, parsing of output into events, usage and result; prompts.
