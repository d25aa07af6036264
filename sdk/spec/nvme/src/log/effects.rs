//! Supported commands (LID 05h) and log pages (LID 00h). NVMe Base 2.0, sections 5.16.1.1 and 5.16.1.6.

use crate::layout::layout;

/// The effects of a command, as bits of its dword.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandEffects(pub u32);

impl CommandEffects {
    /// Supported; has no effect on blocks or capabilities.
    pub const SUPPORTED: Self = Self(1);
    /// Supported; changes the content of logical blocks.
    pub const CHANGES_BLOCKS: Self = Self(1 | 1 << 1);
    /// Supported; changes namespace capabilities.
    pub const CHANGES_NAMESPACE: Self = Self(1 | 1 << 2);
    /// Supported; changes controller capabilities.
    pub const CHANGES_CONTROLLER: Self = Self(1 | 1 << 4);
}

layout! {
    /// Commands supported and effects.
    pub struct CommandsSupported[4096] {
        /// Admin commands, by opcode.
        0 => admin: [u32; 256],
        /// I/O commands, by opcode.
        1024 => io: [u32; 256],
    }
}

impl CommandsSupported {
    /// Makes the page for these admin and I/O opcodes.
    #[must_use]
    pub fn new(admin: &[(u8, CommandEffects)], io: &[(u8, CommandEffects)]) -> Self {
        let mut page = Self::default();
        for (table, commands) in [(&mut page.admin, admin), (&mut page.io, io)] {
            for (opcode, effects) in commands {
                if let Some(entry) = table.get_mut(usize::from(*opcode)) {
                    *entry = effects.0;
                }
            }
        }
        page
    }
}

/// Makes the page of supported log pages: one dword per identifier, with bit 0 set for those in `lids`.
#[must_use]
pub fn supported_log_pages(lids: &[u8]) -> [u8; 1024] {
    let mut data = [0; 1024];
    for lid in lids {
        if let Some(entry) = data.get_mut(usize::from(*lid) * 4) {
            *entry = 1;
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcode::{admin, nvm};

    #[test]
    fn each_opcode_has_its_dword() {
        let page = CommandsSupported::new(
            &[(admin::IDENTIFY, CommandEffects::SUPPORTED)],
            &[(nvm::WRITE, CommandEffects::CHANGES_BLOCKS)],
        );
        let bytes = page.encode();
        assert_eq!(bytes[24..28], [1, 0, 0, 0]);
        assert_eq!(bytes[1028..1032], [3, 0, 0, 0]);
        assert_eq!(supported_log_pages(&[0x70])[448..452], [1, 0, 0, 0]);
    }
}
