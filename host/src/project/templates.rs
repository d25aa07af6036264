//! The templates of `drivebay plugin new`, embedded in the program: `templates/`, `sdk/c`, and a plugin that is a template
//! itself.

use super::kind::{Kind, Lang};

/// One file of a template: its path in the project, and its text with `{{words}}`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) is_executable: bool,
}

macro_rules! template {
    ($path:literal, $from:literal) => {
        Template {
            path: $path,
            text: include_str!(concat!("../../../", $from)),
            is_executable: false,
        }
    };
    ($path:literal, $from:literal, executable) => {
        Template { is_executable: true, ..template!($path, $from) }
    };
}

const RUST: &[Template] = &[
    template!("Cargo.toml", "templates/rust/common/Cargo.toml"),
    template!("LICENSE", "templates/LICENSE"),
    template!(".gitignore", "templates/rust/common/gitignore"),
    template!("rustfmt.toml", "templates/rust/common/rustfmt.toml"),
    template!("check", "templates/rust/common/check", executable),
];
const RUST_BDEV: &[Template] = &[
    template!("README.md", "templates/rust/bdev/README.md"),
    template!("src/lib.rs", "templates/rust/bdev/src/lib.rs"),
    template!("src/tests.rs", "templates/rust/bdev/src/tests.rs"),
];
const RUST_FILTER: &[Template] = &[
    template!("README.md", "templates/rust/filter/README.md"),
    template!("src/lib.rs", "plugins/filter/passthru/src/lib.rs"),
    template!("src/tests.rs", "plugins/filter/passthru/src/tests.rs"),
];
const RUST_TRANSPORT: &[Template] = &[
    template!("README.md", "templates/rust/transport/README.md"),
    template!("src/lib.rs", "templates/rust/transport/src/lib.rs"),
    template!("src/frame.rs", "templates/rust/transport/src/frame.rs"),
    template!("src/group.rs", "templates/rust/transport/src/group.rs"),
];
const RUST_TARGET: &[Template] = &[
    template!("README.md", "templates/rust/protocol/README.md"),
    template!("src/lib.rs", "templates/rust/protocol/src/lib.rs"),
    template!("src/connection.rs", "templates/rust/protocol/src/connection.rs"),
    template!("src/export.rs", "templates/rust/protocol/src/export.rs"),
    template!("src/tests.rs", "templates/rust/protocol/src/tests.rs"),
    template!("src/wire.rs", "templates/rust/protocol/src/wire.rs"),
];
const C: &[Template] = &[
    template!("Makefile", "templates/c/common/Makefile"),
    template!("LICENSE", "templates/LICENSE"),
    template!(".gitignore", "templates/c/common/gitignore"),
    template!("check", "templates/c/common/check", executable),
];
const C_BDEV: &[Template] = &[
    template!("README.md", "templates/c/bdev/README.md"),
    template!("{{name}}.c", "sdk/c/examples/ramdisk.c"),
];
const C_FILTER: &[Template] = &[
    template!("README.md", "templates/c/filter/README.md"),
    template!("{{name}}.c", "templates/c/filter/plugin.c"),
];
/// The headers of a C project when no SDK is given.
pub(super) const C_HEADERS: &[Template] = &[
    template!("include/bay_abi.h", "sdk/c/bay_abi.h"),
    template!("include/bay_params.h", "sdk/c/bay_params.h"),
    template!("include/bay_rpc.h", "sdk/c/bay_rpc.h"),
    template!("include/bay_text.h", "sdk/c/bay_text.h"),
];

/// The parts of a project; `None` when there is no such template.
pub(super) fn of(kind: Kind, lang: Lang) -> Option<[&'static [Template]; 2]> {
    Some(match (lang, kind) {
        (Lang::Rust, Kind::Bdev) => [RUST, RUST_BDEV],
        (Lang::Rust, Kind::Filter) => [RUST, RUST_FILTER],
        (Lang::Rust, Kind::Transport) => [RUST, RUST_TRANSPORT],
        (Lang::Rust, Kind::Target) => [RUST, RUST_TARGET],
        (Lang::C, Kind::Bdev) => [C, C_BDEV],
        (Lang::C, Kind::Filter) => [C, C_FILTER],
        (Lang::C, Kind::Transport | Kind::Target) => return None,
    })
}

/// The plugin whose source is the template. The name of the project replaces its name.
pub(super) fn original(kind: Kind, lang: Lang) -> Option<&'static str> {
    match (lang, kind) {
        (Lang::C, Kind::Bdev) => Some("ramdisk"),
        (Lang::Rust, Kind::Filter) => Some("passthru"),
        _ => None,
    }
}

/// The crates that a kind needs in addition to the SDK, as lines of `[dependencies]`.
pub(super) fn dependencies(kind: Kind) -> &'static str {
    match kind {
        Kind::Bdev | Kind::Filter => "",
        Kind::Transport | Kind::Target => "rustix = { version = \"1\", features = [\"event\"] }\n",
    }
}
