//! `pontoon`: the client's verbs and every role of the server.

use std::process::ExitCode;

fn main() -> ExitCode {
    pontoon_cli::main()
}
