//! EXIF (CIPA DC-008) without what says where: written anew from the tags that are known to say
//! nothing of it, so that what isn't known, isn't read or lies between them doesn't stay.
//!
//! Left out besides the GPS directory: maker notes, in which several makers write a place, free texts,
//! and what sensors tell of height or depth. A thumbnail stays where it is bare pixels.

use std::ops::RangeInclusive;

use super::jpeg;

const ORIENTATION: u16 = 0x0112;
const COMPRESSION: u16 = 0x0103;
const THUMBNAIL: u16 = 0x0201;
const THUMBNAIL_LENGTH: u16 = 0x0202;
const EXIF_DIRECTORY: u16 = 0x8769;
const INTEROPERABILITY_DIRECTORY: u16 = 0xA005;

/// Of the first directory: the camera, the time, who, and how pixels are laid out and meant.
const MAIN: &[RangeInclusive<u16>] = &[
    0x0100..=0x0103,
    0x0106..=0x0106,
    0x010F..=0x0110,
    0x0112..=0x0112,
    0x0115..=0x0115,
    0x011A..=0x011C,
    0x0128..=0x0128,
    0x012D..=0x012D,
    0x0131..=0x0132,
    0x013B..=0x013B,
    0x013E..=0x013F,
    0x0211..=0x0214,
    0x8298..=0x8298,
];
/// Of EXIF's own: exposure, times, lens and colours.
const PHOTO: &[RangeInclusive<u16>] = &[
    0x829A..=0x829A,
    0x829D..=0x829D,
    0x8822..=0x8822,
    0x8827..=0x8827,
    0x8830..=0x8835,
    0x9000..=0x9000,
    0x9003..=0x9004,
    0x9010..=0x9012,
    0x9101..=0x9102,
    0x9201..=0x920A,
    0x9214..=0x9214,
    0x9290..=0x9292,
    0xA000..=0xA003,
    0xA20B..=0xA20B,
    0xA20E..=0xA210,
    0xA215..=0xA215,
    0xA217..=0xA217,
    0xA300..=0xA301,
    0xA401..=0xA40A,
    0xA40C..=0xA40C,
    0xA420..=0xA420,
    0xA430..=0xA435,
    0xA460..=0xA461,
    0xA500..=0xA500,
];
/// Which colour space `ColorSpace: uncalibrated` means.
const INTEROPERABILITY: &[RangeInclusive<u16>] = &[0x0001..=0x0002];
/// Of a thumbnail's.
const PREVIEW: &[RangeInclusive<u16>] = &[0x0112..=0x0112, 0x011A..=0x011B, 0x0128..=0x0128];

/// The longest text that is kept: names are shorter.
const MOST_TEXT: usize = 256;
/// The longest list of numbers: a transfer function has 3 × 256 of two bytes.
const MOST_NUMBERS: usize = 1536;

const SHORT: u16 = 3;
const LONG: u16 = 4;

/// An EXIF block that is to be written.
#[derive(Debug)]
pub(super) struct Rewritten {
    order: Order,
    main: Vec<Entry>,
    preview: Vec<Entry>,
}

impl Rewritten {
    /// What of a block says nothing of a place; none where nothing can be read.
    pub(super) fn without_location(tiff: &[u8]) -> Option<Self> {
        let (tiff, directory) = Tiff::open(tiff)?;
        let mut main = tiff.kept(&directory, MAIN);
        if let Some(photo) = tiff.sub_directory(&directory, EXIF_DIRECTORY) {
            let mut kept = tiff.kept(&photo, PHOTO);
            if let Some(interoperability) = tiff.sub_directory(&photo, INTEROPERABILITY_DIRECTORY) {
                let within = tiff.kept(&interoperability, INTEROPERABILITY);
                kept.extend(Entry::directory(INTEROPERABILITY_DIRECTORY, within));
            }
            main.extend(Entry::directory(EXIF_DIRECTORY, kept));
        }
        let preview = directory
            .next
            .and_then(|at| tiff.directory(at))
            .and_then(|directory| tiff.preview(&directory))
            .unwrap_or_default();
        let order = tiff.order;
        (!main.is_empty()).then_some(Self {
            order,
            main,
            preview,
        })
    }

    /// Only how the picture is to be turned, in the byte order of a block that can be read.
    pub(super) fn turned(tiff: &[u8], orientation: u16) -> Self {
        let order = Order::of(tiff).unwrap_or(Order::Little);
        Self {
            order,
            main: vec![Entry::orientation(order, orientation)],
            preview: Vec::new(),
        }
    }

    /// The same, and how the picture is to be turned, where the block doesn't say it.
    pub(super) fn or_turned(mut self, orientation: u16) -> Self {
        if !self.main.iter().any(|entry| entry.tag == ORIENTATION) {
            self.main.push(Entry::orientation(self.order, orientation));
        }
        self
    }

    /// The fullest form that has so many bytes at most.
    pub(super) fn within(mut self, most: usize) -> Option<Vec<u8>> {
        let mut written = self.write();
        if written.len() > most {
            self.preview.clear();
            written = self.write();
        }
        if written.len() > most {
            self.main.retain(|entry| entry.tag == ORIENTATION);
            written = self.write();
        }
        (!self.main.is_empty() && written.len() <= most).then_some(written)
    }

    /// All of it.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = match self.order {
            Order::Little => b"II*\0".to_vec(),
            Order::Big => b"MM\0*".to_vec(),
        };
        out.extend_from_slice(&self.order.long(8));
        let next = write_directory(&mut out, self.order, &self.main);
        if !self.preview.is_empty() {
            let at = offset(&mut out);
            out[next..next + 4].copy_from_slice(&self.order.long(at));
            write_directory(&mut out, self.order, &self.preview);
        }
        out
    }
}

/// How the picture is to be turned, 1 to 8; none where the block doesn't say.
pub(super) fn orientation(tiff: &[u8]) -> Option<u16> {
    let (tiff, directory) = Tiff::open(tiff)?;
    let found = tiff.kept(&directory, &[ORIENTATION..=ORIENTATION]);
    match &found.first()?.value {
        Value::Bytes(number) => tiff.order.u16(number),
        _ => None,
    }
}

/// The next even place, which is where values and directories begin.
fn offset(out: &mut Vec<u8>) -> u32 {
    if !out.len().is_multiple_of(2) {
        out.push(0);
    }
    u32::try_from(out.len()).unwrap_or(u32::MAX)
}

/// Where the place of the next directory is to be written.
fn write_directory(out: &mut Vec<u8>, order: Order, entries: &[Entry]) -> usize {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.tag);
    let begin = out.len();
    let next = begin + 2 + 12 * sorted.len();
    out.extend_from_slice(&order.short(u16::try_from(sorted.len()).unwrap_or(u16::MAX)));
    out.resize(next + 4, 0);
    for (index, entry) in sorted.into_iter().enumerate() {
        let mut field = [0; 4];
        match &entry.value {
            Value::Bytes(bytes) if bytes.len() <= 4 => field[..bytes.len()].copy_from_slice(bytes),
            Value::Bytes(bytes) | Value::Thumbnail(bytes) => {
                field = order.long(offset(out));
                out.extend_from_slice(bytes);
            }
            Value::Directory(entries) => {
                field = order.long(offset(out));
                write_directory(out, order, entries);
            }
        }
        let at = begin + 2 + 12 * index;
        out[at..at + 2].copy_from_slice(&order.short(entry.tag));
        out[at + 2..at + 4].copy_from_slice(&order.short(entry.kind));
        out[at + 4..at + 8].copy_from_slice(&order.long(entry.count));
        out[at + 8..at + 12].copy_from_slice(&field);
    }
    next
}

/// Which byte comes first.
#[derive(Debug, Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// What a block begins with.
    fn of(tiff: &[u8]) -> Option<Self> {
        match tiff {
            [b'I', b'I', 42, 0, ..] => Some(Self::Little),
            [b'M', b'M', 0, 42, ..] => Some(Self::Big),
            _ => None,
        }
    }

    fn u16(self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        })
    }

    fn u32(self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }

    fn short(self, number: u16) -> [u8; 2] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    fn long(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }
}

/// A tag that is to be written.
#[derive(Debug)]
struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// In the block's own byte order.
    Bytes(Vec<u8>),
    Directory(Vec<Entry>),
    /// Its bytes, of which the place is the tag's value.
    Thumbnail(Vec<u8>),
}

impl Entry {
    fn directory(tag: u16, entries: Vec<Self>) -> Option<Self> {
        (!entries.is_empty()).then_some(Self {
            tag,
            kind: LONG,
            count: 1,
            value: Value::Directory(entries),
        })
    }

    fn orientation(order: Order, number: u16) -> Self {
        Self::bytes(ORIENTATION, SHORT, 1, &order.short(number))
    }

    fn bytes(tag: u16, kind: u16, count: u32, bytes: &[u8]) -> Self {
        Self {
            tag,
            kind,
            count,
            value: Value::Bytes(bytes.to_vec()),
        }
    }
}

/// A block that is read (TIFF 6.0).
struct Tiff<'a> {
    order: Order,
    bytes: &'a [u8],
}

/// What a block has in one directory.
struct Directory {
    entries: Vec<Found>,
    /// Where the one after it is.
    next: Option<u32>,
}

/// A tag as it was read.
#[derive(Clone, Copy)]
struct Found {
    tag: u16,
    kind: u16,
    count: u32,
    /// The value, or where it is.
    field: [u8; 4],
}

impl<'a> Tiff<'a> {
    /// With its first directory.
    fn open(bytes: &'a [u8]) -> Option<(Self, Directory)> {
        let order = Order::of(bytes)?;
        let tiff = Self { order, bytes };
        let directory = tiff.directory(order.u32(bytes.get(4..)?)?)?;
        Some((tiff, directory))
    }

    fn directory(&self, at: u32) -> Option<Directory> {
        let at = self.bytes.get(at as usize..)?;
        let count = usize::from(self.order.u16(at)?);
        let (entries, behind) = at.get(2..)?.split_at_checked(count * 12)?;
        let found = |entry: &[u8]| {
            Some(Found {
                tag: self.order.u16(entry)?,
                kind: self.order.u16(&entry[2..])?,
                count: self.order.u32(&entry[4..])?,
                field: *entry[8..].first_chunk()?,
            })
        };
        Some(Directory {
            entries: entries.chunks_exact(12).filter_map(found).collect(),
            next: self.order.u32(behind).filter(|next| *next != 0),
        })
    }

    fn sub_directory(&self, within: &Directory, tag: u16) -> Option<Directory> {
        self.directory(self.number(within, tag)?)
    }

    fn number(&self, within: &Directory, tag: u16) -> Option<u32> {
        let found = within.entries.iter().find(|it| it.tag == tag)?;
        match found.kind {
            SHORT => self.order.u16(&found.field).map(u32::from),
            LONG => self.order.u32(&found.field),
            _ => None,
        }
    }

    /// The value's bytes, of one of TIFF's twelve types.
    fn value<'b>(&'b self, found: &'b Found) -> Option<&'b [u8]> {
        let each = match found.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 => 4,
            5 | 10 | 12 => 8,
            _ => return None,
        };
        let length = usize::try_from(found.count).ok()?.checked_mul(each)?;
        let most = if found.kind == 2 {
            MOST_TEXT
        } else {
            MOST_NUMBERS
        };
        let at = self.order.u32(&found.field)? as usize;
        match length {
            0 => None,
            1..=4 => found.field.get(..length),
            _ if length <= most => self.bytes.get(at..at.checked_add(length)?),
            _ => None,
        }
    }

    /// The first of each tag that may stay.
    fn kept(&self, directory: &Directory, tags: &[RangeInclusive<u16>]) -> Vec<Entry> {
        let mut kept: Vec<Entry> = Vec::new();
        for found in &directory.entries {
            let may_stay = tags.iter().any(|tags| tags.contains(&found.tag));
            if !may_stay || kept.iter().any(|entry| entry.tag == found.tag) {
                continue;
            }
            if found.tag == ORIENTATION {
                kept.extend(self.orientation(found));
            } else if let Some(value) = self.value(found) {
                kept.push(Entry::bytes(found.tag, found.kind, found.count, value));
            }
        }
        kept
    }

    /// As one of the eight that there are, whichever type it was written with.
    fn orientation(&self, found: &Found) -> Option<Entry> {
        let number = match found.kind {
            1 => u16::from(found.field[0]),
            SHORT => self.order.u16(&found.field)?,
            LONG => u16::try_from(self.order.u32(&found.field)?).ok()?,
            _ => return None,
        };
        let is_one = found.count == 1 && (1..=8).contains(&number);
        is_one.then(|| Entry::orientation(self.order, number))
    }

    /// A thumbnail that has no metadata of its own.
    fn preview(&self, directory: &Directory) -> Option<Vec<Entry>> {
        const JPEG: u16 = 6;
        if self.number(directory, COMPRESSION)? != u32::from(JPEG) {
            return None;
        }
        let at = self.number(directory, THUMBNAIL)? as usize;
        let length = self.number(directory, THUMBNAIL_LENGTH)? as usize;
        let image = self.bytes.get(at..at.checked_add(length)?)?;
        let image = jpeg::bare(image)?;
        let length = u32::try_from(image.len()).ok()?;
        let mut entries = self.kept(directory, PREVIEW);
        entries.push(Entry::bytes(COMPRESSION, SHORT, 1, &self.order.short(JPEG)));
        entries.push(Entry::bytes(
            THUMBNAIL_LENGTH,
            LONG,
            1,
            &self.order.long(length),
        ));
        entries.push(Entry {
            tag: THUMBNAIL,
            kind: LONG,
            count: 1,
            value: Value::Thumbnail(image.to_vec()),
        });
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, kind: u16, value: u32) -> Vec<u8> {
        let mut entry = Vec::new();
        entry.extend(tag.to_le_bytes());
        entry.extend(kind.to_le_bytes());
        entry.extend(1u32.to_le_bytes());
        entry.extend(value.to_le_bytes());
        entry
    }

    fn block(entries: &[Vec<u8>], behind: &[u8]) -> Vec<u8> {
        let count = u16::try_from(entries.len()).expect("few").to_le_bytes();
        [b"II*\0\x08\0\0\0", &count[..], &entries.concat(), behind].concat()
    }

    fn oriented(kind: u16, value: u32) -> Option<Vec<u8>> {
        let number = orientation(&block(&[entry(ORIENTATION, kind, value)], &[0; 4]))?;
        Rewritten::turned(b"II*\0", number).within(100)
    }

    #[test]
    fn an_orientation_stays_whatever_its_type_is() {
        let expected = oriented(SHORT, 6).expect("is turned");
        assert_eq!(expected.len(), 26);
        assert_eq!(oriented(LONG, 6), Some(expected.clone()));
        assert_eq!(oriented(1, 6), Some(expected));
        for meaningless in [0, 9, 65_536] {
            assert_eq!(oriented(LONG, meaningless), None, "{meaningless}");
        }
    }

    #[test]
    fn directories_that_lead_in_circles_or_nowhere_end() {
        for at in [8, 0, 4, 20, 1000, u32::MAX] {
            let entries = [
                entry(ORIENTATION, SHORT, 6),
                entry(EXIF_DIRECTORY, LONG, at),
                entry(INTEROPERABILITY_DIRECTORY, LONG, at),
            ];
            let block = block(&entries, &at.to_le_bytes());
            let rewritten = Rewritten::without_location(&block).expect("has an orientation");
            assert!(rewritten.within(1000).is_some(), "{at}");
        }
    }

    #[test]
    fn where_there_is_little_room_the_orientation_stays() {
        let entries = [entry(ORIENTATION, SHORT, 6), entry(0x0100, LONG, 7)];
        let block = block(&entries, &[0; 4]);
        let within = |most| Rewritten::without_location(&block)?.within(most);
        assert_eq!(within(38).map(|it| it.len()), Some(38));
        assert_eq!(within(37).map(|it| it.len()), Some(26));
        assert_eq!(within(25), None);
    }

    #[test]
    fn what_is_not_known_goes_with_its_value() {
        const GPS_DIRECTORY: u16 = 0x8825;
        let gps = *b"\x01\0\x02\0\x05\0\x03\0\0\0\x40\0\0\0\0\0\0\0SECRET PLACE";
        let entries = [
            entry(ORIENTATION, SHORT, 3),
            entry(GPS_DIRECTORY, LONG, 50),
            entry(0xC4A5, LONG, 7),
        ];
        let block = block(&entries, &[&[0; 4], &gps[..]].concat());
        let written = Rewritten::without_location(&block).and_then(|it| it.within(1000));
        assert_eq!(written, oriented(SHORT, 3));
    }
}
