//! `llavero openapi`.

use crate::{resources::reference::Rendered, router};

use super::{Failed, print};

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

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let document = Rendered::new(&router::document());
    match arguments.format {
        Format::Yaml => print(document.yaml()),
        Format::Json => print(&format!("{}\n", document.json())),
    }
}
