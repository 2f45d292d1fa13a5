//! The routes that every peer has: so many tenants, shared out among ten owners, and three keys of owners for other purposes.
//!
//! Tenant `n` belongs to owner `n % 10`, unless it has been moved.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use waypost_bench::processes::{Told, say};

/// How many owners the tenants have.
pub(crate) const OWNERS: u64 = 10;
/// What a tenant's number stands behind.
pub(crate) const TENANT: &str = "tenant-";
/// Keys beside the tenants', and their owners: one that tells what it was sent, and two that give larger answers.
pub(crate) const OTHERS: [(&str, &str); 3] = [("echo-0", "echo"), ("kb10-0", "kb10"), ("mb1-0", "mb1")];

/// A tenant and its new owner.
pub(crate) type Move = (u64, u64);

/// Routes of so many tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    pub(crate) tenants: u64,
}

impl Table {
    /// Shows every key with its owner's name to `take`, until that fails.
    pub(crate) fn each(self, moved: Option<Move>, mut take: impl FnMut(&str, &str) -> Told<()>) -> Told<()> {
        for tenant in 0..self.tenants {
            let owner = moved.filter(|(moved, _)| *moved == tenant).map_or(tenant % OWNERS, |(_, to)| to);
            take(&format!("{TENANT}{tenant}"), &owner_name(owner))?;
        }
        OTHERS.iter().try_for_each(|(key, owner)| take(key, owner))
    }

    /// Writes a file that begins with `head`, has `line` of each route, and ends with `tail`; it stands there whole, by one rename.
    pub(crate) fn write(
        self,
        file: &Path,
        moved: Option<Move>,
        [head, tail]: [&str; 2],
        line: impl Fn(&mut dyn Write, bool, &str, &str) -> std::io::Result<()>,
    ) -> Told<std::time::Instant> {
        let new = file.with_extension("new");
        let mut out = BufWriter::new(File::create(&new).map_err(say)?);
        out.write_all(head.as_bytes()).map_err(say)?;
        let mut is_first = true;
        self.each(moved, |key, owner| {
            line(&mut out, is_first, key, owner).map_err(say)?;
            is_first = false;
            Ok(())
        })?;
        out.write_all(tail.as_bytes()).map_err(say)?;
        out.flush().map_err(say)?;
        drop(out);
        let handed_over = std::time::Instant::now();
        std::fs::rename(&new, file).map_err(say)?;
        Ok(handed_over)
    }
}

/// The name of a tenant's owner.
pub(crate) fn owner_name(owner: u64) -> String {
    format!("owner-{owner}")
}
