//! The proxy through which sandboxes reach model APIs.
