//! Network namespaces, interfaces and packet filter of sandboxes on this host.
