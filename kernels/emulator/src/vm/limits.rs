//! What a card refuses to launch.

use super::Launch;
use super::block::dynamic_base;
use super::code::Code;
use super::program::Entry;
use crate::card::Card;
use crate::fault::{Cause, Fault};

/// Largest grid per dimension.
const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Largest block per dimension.
const BLOCK: [u32; 3] = [1024, 1024, 64];

/// Refuses what the card would refuse.
pub(super) fn check(entry: &Entry, code: &Code, launch: &Launch, card: &Card) -> Result<(), Fault> {
    let refuse = |why: String| Err(Fault::from(Cause::LaunchLimit(why)));
    if let Err(why) = card.accepts(&entry.target) {
        return refuse(why);
    }
    for (name, sizes, limits) in [("grid", launch.grid, GRID), ("block", launch.block, BLOCK)] {
        for dimension in 0..3 {
            let (size, limit) = (sizes[dimension], limits[dimension]);
            if size == 0 || size > limit {
                return refuse(format!(
                    "{name} of {sizes:?}: each dimension is 1 to {limits:?}"
                ));
            }
        }
    }
    let threads: u32 = launch.block.iter().product();
    if threads > card.threads_per_block {
        return refuse(format!(
            "{threads} threads per block, the card takes {}",
            card.threads_per_block
        ));
    }
    if let Some(most) = entry.maxntid {
        let most: u32 = most.iter().product();
        if threads > most {
            return refuse(format!(
                "{threads} threads per block, the kernel is built for at most {most}"
            ));
        }
    }
    if let Some(exact) = entry.reqntid
        && exact != launch.block
    {
        return refuse(format!(
            "a block of {:?}, the kernel needs {exact:?}",
            launch.block
        ));
    }
    if let Some(registers) = entry.maxnreg
        && registers.saturating_mul(threads) > card.registers_per_block
    {
        return refuse(format!(
            "{registers} registers for each of {threads} threads"
        ));
    }
    let dynamic = if launch.dynamic_shared > 0 {
        dynamic_base(code)
    } else {
        code.shared_bytes
    };
    let shared = u64::from(dynamic) + u64::from(launch.dynamic_shared);
    if shared > u64::from(card.shared_per_block_optin) {
        return refuse(format!(
            "{shared} bytes of shared memory ({} static, {} dynamic), the card has {}",
            code.shared_bytes, launch.dynamic_shared, card.shared_per_block_optin
        ));
    }
    if launch.params.len() < entry.parameter_bytes {
        return refuse(format!(
            "{} bytes of parameters, the kernel takes {}",
            launch.params.len(),
            entry.parameter_bytes
        ));
    }
    Ok(())
}

/// The addresses of the module's variables.
pub(super) fn addresses(entry: &Entry) -> Result<&[u64], Fault> {
    match entry.image.addresses.get() {
        Some(addresses) => Ok(addresses),
        None if entry.image.variables.is_empty() => Ok(&[]),
        None => {
            Err(Cause::LaunchLimit("the module has variables and was not loaded".to_owned()).into())
        }
    }
}
