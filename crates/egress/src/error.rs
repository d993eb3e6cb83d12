/// What can go wrong before a sandbox is served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An entry of an egress policy cannot be understood.
    #[error("the egress policy has the entry `{entry}`, but {reason}")]
    Entry {
        /// The entry as it was written.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are more entries than are looked through for each connection.
    #[error(
        "the egress policy has {count} entries; at most {most} are possible: use networks and `*.` for several at once"
    )]
    TooMany {
        /// Entries that it has.
        count: usize,
        /// Most that it may have.
        most: usize,
    },
    /// No name server to ask.
    #[error("there is no name server for the egress filter to ask: {reason}; name one in the settings")]
    NameServers {
        /// Why.
        reason: String,
    },
}
