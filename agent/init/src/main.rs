//! PID 1 of every servo: starts the app's command, passes signals on to it, reaps what dies, and ends with its exit code.
//!
//! ```text
//! pontoon-init [--grace SECONDS] [--] COMMAND [ARGUMENTS...]
//! ```
//!
//! Exit code: the command's own, or 128 + the signal that ended it; 127 when the command does not exist, 126 when it
//! cannot be executed, 125 when `pontoon-init` itself was called wrongly or failed.
//!
//! Outside a container it works the same, as a subreaper: processes that the command leaves behind become its children.

mod app;
mod arguments;
mod leftovers;
mod supervise;

use std::process::ExitCode;

use arguments::Arguments;

/// The exit code of a wrong call or a failure of this program itself, as with `docker run`.
const EXIT_OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("pontoon-init: {message}\n{}", arguments::USAGE);
            return ExitCode::from(EXIT_OWN_FAILURE);
        }
    };
    match supervise::run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("pontoon-init: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
