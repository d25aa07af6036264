//! One declaration of a struct or function type gives its Rust type, its layout text, and its
//! documentation for the C header.
//!
//! The compiler that builds the plugin computes the text. The plugin carries it in its note
//! (`docs/abi.md`, "Notes"). The loader compares it before any code of the plugin runs.

/// Builds a text in a constant. With `N` = 0 it only counts the bytes; with `N` = that count it writes them.
#[derive(Debug)]
pub struct Text<const N: usize> {
    /// The bytes written so far.
    pub bytes: [u8; N],
    /// Length of the whole text, in bytes.
    pub len: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    const fn byte(mut self, byte: u8) -> Self {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
        self
    }

    /// Appends `text` unchanged.
    #[must_use]
    pub const fn raw(mut self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self = self.byte(bytes[i]);
            i += 1;
        }
        self
    }

    /// Appends `text` without white space, because compilers differ in how they print the space between tokens.
    #[must_use]
    pub const fn tokens(mut self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            if !bytes[i].is_ascii_whitespace() {
                self = self.byte(bytes[i]);
            }
            i += 1;
        }
        self
    }

    /// Appends a decimal number.
    #[must_use]
    pub const fn number(mut self, value: usize) -> Self {
        let mut divisor = 1;
        while value / divisor >= 10 {
            divisor *= 10;
        }
        while divisor > 0 {
            self = self.byte(b"0123456789"[(value / divisor) % 10]);
            divisor /= 10;
        }
        self
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A comment that the header generator prints above a declaration.
#[derive(Debug)]
pub struct Doc {
    /// `struct`, `struct.field` or `fn`.
    pub item: &'static str,
    /// The doc comment; lines are separated by newlines.
    pub text: &'static str,
}

/// Declares `#[repr(C)]` structs. `open` structs begin with their size and grow at the end. `closed`
/// structs never change within an ABI major.
macro_rules! structs {
    ($(
        $(#[doc = $doc:literal])*
        $kind:ident $(align($align:literal))? struct $name:ident {
            $( $(#[doc = $fdoc:literal])* $field:ident : $type:ty ),* $(,)?
        }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[repr(C $(, align($align))?)]
            #[derive(Clone, Copy, Debug)]
            #[cfg_attr(feature = "abi-stable", derive(abi_stable::StableAbi))]
            #[cfg_attr(feature = "abi-stable", sabi(unsafe_opaque_fields))]
            pub struct $name { $( $(#[doc = $fdoc])* pub $field: $type ),* }
            $crate::layout::open!($kind $name);
        )*

        pub(crate) const fn structs_layout<const N: usize>(
            mut text: $crate::layout::Text<N>,
        ) -> $crate::layout::Text<N> {
            $(
                text = text
                    .raw(stringify!($name)).raw(":size=").number(size_of::<$name>())
                    .raw(",align=").number(align_of::<$name>())
                    .raw(",").raw(stringify!($kind));
                $(
                    text = text
                        .raw(";").raw(stringify!($field))
                        .raw("@").number(core::mem::offset_of!($name, $field))
                        .raw("+").number(size_of::<$type>())
                        .raw("=").tokens(stringify!($type));
                )*
                text = text.raw("\n");
            )*
            text
        }

        pub(crate) const STRUCT_DOCS: &[$crate::layout::Doc] = &[
            $(
                $crate::layout::Doc { item: stringify!($name), text: concat!($($doc, "\n"),*) },
                $( $crate::layout::Doc {
                    item: concat!(stringify!($name), ".", stringify!($field)),
                    text: concat!($($fdoc, "\n"),*),
                }, )*
            )*
        ];
    };
}
pub(crate) use structs;

/// Implements [`crate::Open`] for a struct that is declared `open`.
macro_rules! open {
    // The door begins with a magic number, so `Open` does not fit; the loader has its own code to copy it.
    (open bay_plugin) => {};
    (open $name:ident) => {
        // SAFETY: the struct is declared `open`: `size: u32` comes first (asserted here), the fields are plain C, and
        // every function is an `Option`.
        #[expect(unsafe_code, reason = "the macro checks what the trait requires")]
        unsafe impl $crate::Open for $name {}
        const _: () = assert!(core::mem::offset_of!($name, size) == 0);
    };
    (closed $name:ident) => {};
}
pub(crate) use open;

/// Declares the function types of the tables, and their signatures as text.
macro_rules! functions {
    ($( $(#[doc = $doc:literal])* fn $name:ident ( $($arg:ident : $type:ty),* $(,)? ) $(-> $ret:ty)? ; )*) => {
        $( $(#[doc = $doc])* pub type $name = unsafe extern "C" fn($($arg: $type),*) $(-> $ret)?; )*

        pub(crate) const fn functions_layout<const N: usize>(
            mut text: $crate::layout::Text<N>,
        ) -> $crate::layout::Text<N> {
            $(
                text = text.raw("fn:").raw(stringify!($name)).raw("(");
                $( text = text.raw(stringify!($arg)).raw(":").tokens(stringify!($type)).raw(","); )*
                text = text.raw(")") $(.raw("->").tokens(stringify!($ret)))?;
                text = text.raw("\n");
            )*
            text
        }

        pub(crate) const FUNCTION_DOCS: &[$crate::layout::Doc] = &[
            $( $crate::layout::Doc { item: stringify!($name), text: concat!($($doc, "\n"),*) } ),*
        ];
    };
}
pub(crate) use functions;
