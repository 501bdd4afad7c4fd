//! Generates the bindings and compiles the shims against the installed libfabric's headers. Nothing is linked:
//! the shims load the library when it is first wanted (`shim/load.c` says why).

use std::env;
use std::path::PathBuf;
use std::process;

/// The oldest libfabric whose API Tidegate is written against.
const OLDEST: &str = "1.17";

/// Functions called; everything they need follows.
const FUNCTIONS: &[&str] = &["tg_fi_.*"];

/// Constants used.
const CONSTANTS: &[&str] = &[
    "TG_FI_.*",
    "FI_(RMA|MSG|WRITE|REMOTE_WRITE|SEND|RECV|TRANSMIT|REMOTE_CQ_DATA|SOURCE|NUMERICHOST)",
    "FI_MR_(LOCAL|VIRT_ADDR|ALLOCATED|PROV_KEY)",
    "FI_(EP_RDM|AV_TABLE|CQ_FORMAT_DATA|WAIT_NONE|PROGRESS_MANUAL|THREAD_DOMAIN|RM_ENABLED)",
    "FI_(SOCKADDR_IN|SOCKADDR_IN6|ADDR_STR|ADDR_UNSPEC)",
    "FI_E(AGAIN|AVAIL|NODATA|NOMEM|INVAL)",
];

/// Objects behind pointers whose insides belong to libfabric.
const OPAQUE: &[&str] =
    &["fid", "fid_nic", "fid_fabric", "fid_domain", "fid_ep", "fid_av", "fid_cq", "fid_mr"];

fn main() {
    for file in ["build.rs", "shim/shim.h", "shim/shim.c", "shim/load.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut search = pkg_config::Config::new();
    search.atleast_version(OLDEST).cargo_metadata(false).env_metadata(true);
    let library = search.probe("libfabric").unwrap_or_else(|error| {
        eprintln!(
            "libfabric ({OLDEST} or newer) was not found: {error}\n\
             do one of:\n  \
             - apt-get install libfabric-dev pkg-config   (Debian 12 and newer)\n  \
             - export PKG_CONFIG_PATH=DIR                 (DIR holds the libfabric.pc of one you built)"
        );
        process::exit(1);
    });
    compile_shims(&library);
    generate_bindings(&library);
}

fn compile_shims(library: &pkg_config::Library) {
    let mut build = cc::Build::new();
    build
        .files(["shim/shim.c", "shim/load.c"])
        .std("gnu11")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true);
    for path in &library.include_paths {
        build.flag("-isystem").flag(path);
    }
    build.compile("tidegate_fabric_shim");
}

fn generate_bindings(library: &pkg_config::Library) {
    let mut builder = bindgen::builder()
        .header("shim/shim.h")
        .clang_args(library.include_paths.iter().map(|path| format!("-isystem{}", path.display())))
        .clang_arg("-std=gnu11")
        .use_core()
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .prepend_enum_name(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .wrap_unsafe_ops(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        eprintln!(
            "bindgen failed on shim/shim.h: {error}\n(it needs libclang: apt-get install libclang-dev clang)"
        );
        process::exit(1);
    });
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}
