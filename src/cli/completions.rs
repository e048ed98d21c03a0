//! `llavero completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Failed;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

#[expect(clippy::unnecessary_wraps, reason = "commands are alike")]
pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let mut command = super::Arguments::command();
    clap_complete::generate(
        arguments.shell,
        &mut command,
        "llavero",
        &mut std::io::stdout(),
    );
    Ok(())
}
