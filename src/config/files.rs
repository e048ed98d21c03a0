//! Files as settings and secrets are read from them: whole, bounded, and never waiting. A
//! pipe or a device in a file's place would hold up everybody who is read after it.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// At most that many bytes of a file, and one more where it has more.
///
/// # Errors
/// It can't be read, or is no ordinary file.
pub fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let without_waiting = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(without_waiting)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it isn't an ordinary file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
