//! What an image can be asked to hold.

use crate::state::text_enum;

text_enum! {
    /// A set of programs that an image holds.
    ImageCapability {
        /// git.
        Git = "git",
        /// curl.
        Curl = "curl",
        /// Node.js with npm.
        Node = "node",
        /// Python with pip and venv.
        Python = "python",
        /// Rust with cargo and a C compiler.
        Rust = "rust",
        /// The Docker command and engine; where the engine can run is the sandbox's matter.
        Docker = "docker",
    }
}

text_enum! {
    /// An agent program that an image holds.
    ImageAgent {
        /// Claude Code.
        Claude = "claude",
        /// Factory Droid.
        Droid = "droid",
    }
}
