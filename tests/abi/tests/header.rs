//! The committed header is the generated one, and every compiler accepts it.
#![allow(clippy::unwrap_used, reason = "tests")]

use drivebay_abi_tests::header;
use std::fs;
use std::process::Command;

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/c");

#[test]
fn the_committed_header_is_the_generated_one() {
    let committed = fs::read_to_string(header::path()).unwrap();
    assert!(
        committed == header::generate().unwrap(),
        "run `cargo run -p drivebay-abi-tests` and look at what changed"
    );
}

/// The header's own assertions prove every offset and size.
#[test]
fn the_header_compiles_as_c11_and_as_cpp17_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (file, compilers, standard) in
        [("plugin.c", ["cc", "clang"], "-std=c11"), ("plugin.cc", ["c++", "clang++"], "-std=c++17")]
    {
        let source = folder.path().join(file);
        let text = "#include \"bay_abi.h\"\n\
            static int32_t init(const struct bay_host *h, void **s) { (void)h; *s = NULL; return 0; }\n\
            BAY_PLUGIN(\"x\", \"1.0.0\", \"test\", \"\", \"\", 0, init, NULL, NULL, NULL);\n";
        fs::write(&source, text).unwrap();
        let [required, other] = compilers;
        assert!(compiles(required, standard, &source).unwrap(), "{required} {standard}");
        // Also try the other compiler, if it is installed.
        assert_ne!(compiles(other, standard, &source), Some(false), "{other} {standard}");
    }
}

/// Returns `None` if the compiler does not exist.
fn compiles(compiler: &str, standard: &str, source: &std::path::Path) -> Option<bool> {
    let flags = ["-Wall", "-Wextra", "-Werror", "-fPIC", "-c", "-o", "/dev/null", "-I", INCLUDE];
    let status = Command::new(compiler).arg(standard).args(flags).arg(source).status();
    status.ok().map(|status| status.success())
}

#[test]
fn a_wrong_layout_does_not_compile() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("wrong.c");
    let header = header::generate().unwrap().replace("    uint64_t lba;", "    uint32_t lba;");
    fs::write(&source, header).unwrap();
    assert_eq!(compiles("cc", "-std=c11", &source), Some(false));
}
