//! `rvsadm`, the admin tool. Everything is in `control::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::cli::main()
}
