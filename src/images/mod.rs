//! What an upload's bytes are, and what they give away. The name and the declared type of a
//! part are the sender's words; only the bytes are believed.

mod exif;
mod foreign;
mod format;
mod heif;
mod inspect;
mod jpeg;
mod orientation;
mod png;
mod shrink;
mod strip;
mod trailer;
mod turns;
mod webp;
mod xmp;

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use crate::{in_flight::Buffer, tenants::TenantId};

use self::turns::Turns;
pub use self::{
    format::Format,
    inspect::{Inspected, inspect},
    shrink::{Fitted, Shrink, Shrinker, Shrunk},
    strip::{Stripped, strip},
};

/// What an upload may be, and what is done to it, from `images.*`.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The largest image, in bytes.
    pub max_bytes: u64,
    /// The most pixels, width × height.
    pub max_pixels: u64,
    /// The formats that are taken.
    pub formats: Vec<Format>,
    /// What becomes of metadata.
    pub metadata: Metadata,
    /// What makes larger ones smaller; none leaves them.
    pub shrink: Option<Shrinker>,
}

/// What becomes of metadata, such as where a photo was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// The image's bytes stay as they are.
    Keep,
    /// Whatever says where, or could, is removed.
    StripLocation,
    /// Only what the picture needs to look the same stays.
    StripAll,
}

/// Why an image isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// An image, of a format that isn't taken.
    #[error("the file is an image of a format that isn't taken: {0}")]
    Format(&'static str),
    /// Not an image at all, but that.
    #[error("the file isn't an image{}{}", if .0.is_some() { " but " } else { "" }, .0.unwrap_or_default())]
    NotAnImage(Option<&'static str>),
    /// The end is missing, or the header can't be read.
    #[error("the image is incomplete or damaged")]
    Damaged,
    /// A chunk of a PNG has another CRC than its bytes.
    #[error("the image's chunk {} is damaged", .0.escape_ascii())]
    Chunk([u8; 4]),
    /// More pixels than allowed.
    #[error("the image has {0} pixels")]
    TooManyPixels(u64),
    /// An image for one program, and a page, a script, a document or an archive for another.
    #[error("the file is an image and something else too")]
    Polyglot,
}

/// What is larger is looked at on a thread that may be busy: no request shall wait for that of somebody else.
const LOOKED_AT_IN_PLACE: usize = 64 << 10;
/// Looking takes no waiting, so that more at once would only take cores from the requests.
const MOST_LOOKED_AT: usize = 2;

/// Looks at uploaded images and prepares them: large ones a few at a time, for which tenants take turns. Cheap to clone;
/// clones share the places.
#[derive(Debug, Clone)]
pub struct Images {
    rules: Arc<Rules>,
    turns: Turns,
}

/// An image as the ERP is to get it.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub bytes: Buffer,
    /// What they are.
    pub inspected: Inspected,
    /// Whether they are those that came in.
    pub is_original: bool,
}

impl Images {
    /// Under those rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self {
            rules: Arc::new(rules),
            // The images themselves are counted where they arrive, and nothing is unpacked whole.
            turns: Turns::new(cores.min(MOST_LOOKED_AT), u64::MAX),
        }
    }

    /// What an upload may be.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Inspects an image of that tenant and prepares it: makes it smaller where it must be, and then removes what
    /// isn't to be told. What is removed is removed in place.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub async fn accept(&self, tenant: &TenantId, image: Buffer) -> Result<Accepted, Unusable> {
        let (image, mut inspected) = self.inspected(tenant, image).await?;
        let (image, was_shrunk) = match &self.rules.shrink {
            None => (image, false),
            Some(shrinker) => {
                let Inspected {
                    format,
                    width,
                    height,
                } = inspected;
                match shrinker
                    .shrink(tenant, image, format, width, height)
                    .await?
                {
                    Fitted::AsItWas(image) => (image, false),
                    Fitted::Shrunk(shrunk) => {
                        (inspected.width, inspected.height) = (shrunk.width, shrunk.height);
                        (shrunk.bytes, true)
                    }
                }
            }
        };
        let metadata = self.rules.metadata;
        if metadata == Metadata::Keep {
            return Ok(Accepted {
                bytes: image,
                inspected,
                is_original: !was_shrunk,
            });
        }
        let stripping = move || {
            let mut image = image;
            let Stripped { length, changed } = strip(&mut image, inspected.format, metadata)?;
            image.truncate(length);
            Ok((image, changed))
        };
        let (bytes, changed) = self.in_turn(tenant, stripping).await?;
        Ok(Accepted {
            bytes,
            inspected,
            is_original: !changed && !was_shrunk,
        })
    }

    /// Only inspects an image, which isn't to be taken.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub async fn look(&self, tenant: &TenantId, image: Buffer) -> Result<(), Unusable> {
        self.inspected(tenant, image).await.map(drop)
    }

    async fn inspected(
        &self,
        tenant: &TenantId,
        image: Buffer,
    ) -> Result<(Buffer, Inspected), Unusable> {
        if image.len() <= LOOKED_AT_IN_PLACE {
            let inspected = inspect(&image, &self.rules)?;
            return Ok((image, inspected));
        }
        let rules = self.rules.clone();
        let looking = move || {
            let inspected = inspect(&image, &rules)?;
            Ok((image, inspected))
        };
        self.in_turn(tenant, looking).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
    ) -> Result<T, Unusable> {
        // A panic says that the image was stranger than we can deal with.
        let done = self.turns.work(tenant, 0, work).await;
        done.unwrap_or(Err(Unusable::Damaged))
    }
}

#[cfg(test)]
mod tests;
