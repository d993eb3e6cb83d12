//! What sandboxes may reach: the policy, and the proxy and name server that apply it.
