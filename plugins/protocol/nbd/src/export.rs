//! Exports: bdevs as clients see them.

use drivebay_sdk::bdev::{self, Channel, Desc, Event, Info, OpSet};
use drivebay_sdk::{App, Result};
use drivebay_spec_nbd::transmission::export_flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How clients see an export.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// Name of the export.
    pub name: String,
    /// Name of the bdev.
    pub bdev: String,
    /// Text for people who list exports; may be empty.
    pub description: String,
    /// Whether clients may only read.
    pub is_read_only: bool,
}

/// An export. Connections of all threads share it. The last one to go closes the bdev.
#[derive(Debug)]
pub struct Export {
    config: ExportConfig,
    info: Info,
    num_blocks: Arc<AtomicU64>,
    is_ending: AtomicBool,
    desc: Desc,
}

impl Export {
    /// Opens the bdev, and claims it if clients may write. The bus calls `on_remove` when the bdev goes away, and
    /// `on_resize` when its size changes. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when there is no such bdev, `EPERM` when another module has claimed it for writing.
    pub fn open(
        app: &App,
        mut config: ExportConfig,
        on_remove: impl Fn(&App) + 'static,
        on_resize: impl Fn() + 'static,
    ) -> Result<Arc<Self>> {
        let num_blocks = Arc::new(AtomicU64::new(0));
        let of_event = Arc::clone(&num_blocks);
        let on_event = move |app: &App, event| match event {
            Event::Remove => on_remove(app),
            Event::Resize { num_blocks } => {
                of_event.store(num_blocks, Ordering::Relaxed);
                on_resize();
            }
            _ => {}
        };
        let (desc, info) = bdev::open_export(app, &config.bdev, !config.is_read_only, on_event)?;
        config.is_read_only |= info.is_read_only();
        num_blocks.store(info.num_blocks(), Ordering::Relaxed);
        Ok(Arc::new(Self { config, info, num_blocks, is_ending: AtomicBool::new(false), desc }))
    }

    /// How clients see the export.
    #[must_use]
    pub fn config(&self) -> &ExportConfig {
        &self.config
    }

    /// Size, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.num_blocks.load(Ordering::Relaxed).saturating_mul(self.block_size().into())
    }

    /// Block size of the bdev, in bytes. Requests are whole blocks.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.info.block_size()
    }

    /// Whether the bdev can tell which blocks are allocated.
    #[must_use]
    pub fn knows_allocation(&self) -> bool {
        self.info.ops().contains(OpSet::SEEK)
    }

    /// Whether the bdev keeps no data, so that a read leaves its buffer unchanged.
    #[must_use]
    pub fn keeps_no_data(&self) -> bool {
        self.info.keeps_no_data()
    }

    /// Transmission flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        // All connections reach the same bdev, so a flush on one covers the writes that ended on any.
        let mut flags = export_flag::HAS_FLAGS
            | export_flag::SEND_FLUSH
            | export_flag::SEND_FUA
            | export_flag::SEND_CACHE
            | export_flag::CAN_MULTI_CONN;
        if self.config.is_read_only {
            return flags | export_flag::READ_ONLY;
        }
        if self.info.ops().contains(OpSet::UNMAP) {
            flags |= export_flag::SEND_TRIM;
        }
        if self.info.ops().contains(OpSet::WRITE_ZEROES) {
            flags |= export_flag::SEND_WRITE_ZEROES;
        }
        flags
    }

    /// The current thread's channel.
    ///
    /// # Errors
    /// The error of the bdev's module.
    pub fn channel(&self) -> Result<Channel> {
        self.desc.channel()
    }

    /// Refuses new connections from now on.
    pub fn set_ending(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Whether the export refuses new connections.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }
}
