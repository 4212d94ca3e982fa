//! The program: see [`patchcord::command_line`].

use std::process::ExitCode;

fn main() -> ExitCode {
    patchcord::command_line::main()
}
