//! `images`: what an uploaded photo may be, and what is done to it.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

use super::{document::Checker, units};

/// The default.
const IN_FLIGHT_BYTES: u64 = 512 << 20;
const MIN_BYTES: u64 = 64 << 10;
/// Larger than any camera's photo, and 9 GB of decoded pixels.
const MOST_PIXELS: u64 = 1_000_000_000;
const MIN_DIMENSION: u32 = 256;
/// A faster network than this is no reason to refuse a slower one.
const MAX_RATE: u64 = 1 << 20;
const MAX_IDLE: Duration = Duration::from_secs(600);

/// `images`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// The largest image, in bytes. Default 12 MiB.
    #[serde(deserialize_with = "units::size")]
    pub max_bytes: u64,
    /// The most pixels, width × height. Default 50 million.
    pub max_pixels: u64,
    /// The formats that are taken. Default JPEG, PNG and WebP.
    pub formats: Vec<ImageFormat>,
    /// What happens to metadata, such as where a photo was taken. Default [`Metadata::Keep`].
    pub metadata: Metadata,
    /// Larger images are made to fit, in pixels; none (`off`) leaves them. Default none.
    #[serde(deserialize_with = "off_or_pixels")]
    pub max_dimension: Option<u32>,
    /// Of images that are made to fit, where their format is lossy; 1 to 100. Default 85.
    pub quality: u8,
    /// How long the same image for the same order is the same upload. Default 10 min.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub dedupe_window: Duration,
    /// Bytes of all images that are being uploaded. Default 512 MiB.
    #[serde(deserialize_with = "units::size")]
    pub in_flight_bytes: u64,
    /// The least rate of a body's arrival, in bytes a second; 0 sets none. Default 4 KiB.
    #[serde(deserialize_with = "units::size")]
    pub min_rate: u64,
    /// How long nothing of a body may come. Default 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
}

/// One of `images.formats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// JPEG (ITU T.81).
    Jpeg,
    /// PNG (RFC 2083).
    Png,
    /// WebP (RFC 9649).
    Webp,
    /// HEIC (ISO/IEC 23008-12).
    Heic,
}

/// `images.metadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metadata {
    /// The image's bytes stay as they are.
    Keep,
    /// Without where it was taken.
    StripLocation,
    /// Without any.
    StripAll,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            max_bytes: 12 << 20,
            max_pixels: 50_000_000,
            formats: vec![ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Webp],
            metadata: Metadata::Keep,
            max_dimension: None,
            quality: 85,
            dedupe_window: Duration::from_secs(600),
            in_flight_bytes: IN_FLIGHT_BYTES,
            min_rate: 4 << 10,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl Images {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        at.require(
            self.max_bytes >= MIN_BYTES,
            "images.max_bytes",
            "must be at least 64KiB: phones make no smaller photos",
        );
        at.require(
            (1..=MOST_PIXELS).contains(&self.max_pixels),
            "images.max_pixels",
            "must be from 1 to 1000000000: memory for photos that are made smaller is planned by it, 9 bytes for each",
        );
        at.require(
            !self.formats.is_empty(),
            "images.formats",
            "needs at least one of jpeg, png, webp, heic",
        );
        let is_changed = self.metadata != Metadata::Keep || self.max_dimension.is_some();
        for (index, format) in self.formats.iter().enumerate() {
            at.require(
                self.formats
                    .iter()
                    .take(index)
                    .all(|earlier| earlier != format),
                &format!("images.formats[{index}]"),
                "is listed twice; remove one",
            );
            at.require(
                !(is_changed && *format == ImageFormat::Heic),
                &format!("images.formats[{index}]"),
                "HEIC is passed as it is, so it can't be taken where photos are changed; remove heic and let the app send JPEG, or write metadata: keep and max_dimension: off",
            );
        }
        at.require(
            self.max_dimension.is_none_or(|most| most >= MIN_DIMENSION),
            "images.max_dimension",
            "must be at least 256, or off: nothing could be seen in such photos",
        );
        at.require(
            (1..=100).contains(&self.quality),
            "images.quality",
            "must be from 1 to 100; 85 shows no difference on a screen",
        );
        if self.in_flight_bytes < self.max_bytes {
            // Who left the default wrote the other.
            if self.in_flight_bytes == IN_FLIGHT_BYTES {
                at.mistake(
                    "images.max_bytes",
                    "is more than images.in_flight_bytes, which is 512MiB, so the largest image would never be let in; write in_flight_bytes too, a few times as large",
                );
            } else {
                at.mistake(
                    "images.in_flight_bytes",
                    "must be at least images.max_bytes, or the largest image would never be let in",
                );
            }
        }
        at.require(
            self.min_rate <= MAX_RATE,
            "images.min_rate",
            "must be at most 1MiB a second, e.g. 4KiB, or 0 for none",
        );
        at.require(
            (Duration::from_secs(1)..=MAX_IDLE).contains(&self.idle_timeout),
            "images.idle_timeout",
            "must be at least 1s and at most 10m, e.g. 30s",
        );
    }
}

fn off_or_pixels<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    struct OffOrPixels;

    impl Visitor<'_> for OffOrPixels {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("off or a number of pixels")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<u32>, E> {
            match text.parse() {
                Ok(pixels) => Ok(Some(pixels)),
                // YAML 1.1 tools on the way, Helm among them, write `off` and `no` as `false`.
                Err(_) if matches!(text, "off" | "no" | "false") => Ok(None),
                Err(_) => Err(E::invalid_value(Unexpected::Other("text"), &self)),
            }
        }
    }

    from.deserialize_str(OffOrPixels)
}
