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
mod webp;
mod xmp;

use std::sync::Arc;

use bytes::BytesMut;

use crate::tenants::TenantId;

pub use self::{
    format::Format,
    inspect::{Inspected, inspect},
    shrink::{Fitted, Shrink, Shrinker, Shrunk},
    strip::strip,
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
    #[error("the file is an image of a format that isn't taken")]
    Format,
    /// Not an image at all.
    #[error("the file isn't an image")]
    NotAnImage,
    /// The end is missing, or the header can't be read.
    #[error("the image is incomplete or damaged")]
    Damaged,
    /// More pixels than allowed.
    #[error("the image has {0} pixels")]
    TooManyPixels(u64),
    /// An image for one program, and a page, a script, a document or an archive for another.
    #[error("the file is an image and something else too")]
    Polyglot,
}

/// Looks at uploaded images and prepares them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images(Arc<Rules>);

/// An image as the ERP is to get it.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub bytes: BytesMut,
    /// What they are.
    pub inspected: Inspected,
    /// Whether they are those that came in.
    pub is_original: bool,
}

impl Images {
    /// Under those rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(rules))
    }

    /// What an upload may be.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.0
    }

    /// Inspects an image of that tenant and prepares it: makes it smaller where it must be, and then removes what
    /// isn't to be told. What is removed is removed in place.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub async fn accept(&self, tenant: &TenantId, image: BytesMut) -> Result<Accepted, Unusable> {
        let mut inspected = inspect(&image, &self.0)?;
        let (image, was_shrunk) = match &self.0.shrink {
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
        let metadata = self.0.metadata;
        if metadata == Metadata::Keep {
            return Ok(Accepted {
                bytes: image,
                inspected,
                is_original: !was_shrunk,
            });
        }
        let stripping = tokio::task::spawn_blocking(move || {
            let mut image = image;
            let changed = strip(&mut image, inspected.format, metadata)?;
            Ok((image, changed))
        });
        // A panic says that the image was stranger than we can deal with.
        let (bytes, changed) = stripping.await.unwrap_or(Err(Unusable::Damaged))?;
        Ok(Accepted {
            bytes,
            inspected,
            is_original: !changed && !was_shrunk,
        })
    }
}

#[cfg(test)]
mod tests;
