//! `llavero openapi`.

use crate::{resources::reference::Rendered, router};

use super::Failed;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// In which form
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Yaml,
    Json,
}

#[expect(clippy::unnecessary_wraps, reason = "commands are alike")]
pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let document = Rendered::new(&router::document());
    match arguments.format {
        Format::Yaml => print!("{}", document.yaml()),
        Format::Json => println!("{}", document.json()),
    }
    Ok(())
}
