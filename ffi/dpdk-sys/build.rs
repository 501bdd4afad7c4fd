//! Generates the bindings and compiles the shims, both with libdpdk's own compiler flags.

use std::env;
use std::path::PathBuf;
use std::process;

use tidegate_dpdk_build::Dpdk;

/// Functions called; everything they need follows.
const FUNCTIONS: &[&str] = &[
    "tg_.*",
    // EAL and lcores
    "rte_eal_(init|cleanup|remote_launch|wait_lcore|mp_wait_lcore|hotplug_add|hotplug_remove|process_type)",
    "rte_(get_main_lcore|get_next_lcore|lcore_to_socket_id)",
    "rte_(strerror|get_tsc_hz|dev_name)",
    // mempools and mbufs
    "rte_pktmbuf_(pool_create_by_ops|free_bulk)",
    "rte_mempool_avail_count",
    // hash tables
    "rte_hash_(create|free|add_key_data|del_key|lookup_bulk_data)",
    // longest prefix match
    "rte_fib_(create|free|add|delete|lookup_bulk|get_rib)",
    "rte_rib_lookup_exact",
    "rte_lpm6_(create|free|add|delete|lookup_bulk_func|is_rule_present)",
    // ports
    "rte_eth_dev_(configure|start|stop|close|info_get|socket_id|adjust_nb_rx_tx_desc)",
    "rte_eth_dev_(get_port_by_name|get_name_by_port|default_mac_addr_set|set_mtu|get_mtu)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_promiscuous_(enable|disable|get)",
    "rte_eth_(macaddr_get|find_next_owned_by|stats_get|stats_reset|xstats_get|xstats_get_names)",
];

/// Constants used that are plain macros.
const CONSTANTS: &[&str] = &[
    "TG_.*",
    "RTE_(HASH_LOOKUP_BULK_MAX|MAX_LCORE|MAX_ETHPORTS|ETH_NAME_MAX_LEN|PKTMBUF_HEADROOM)",
];

/// Types behind pointers whose insides belong to DPDK.
const OPAQUE: &[&str] =
    &["rte_mempool", "rte_device", "rte_mbuf", "rte_hash", "rte_rib", "rte_rib_node"];

fn main() {
    let dpdk = tidegate_dpdk_build::find().unwrap_or_else(|error| {
        // Cargo keeps a failed build script's directives, so that a repaired environment is seen.
        tidegate_dpdk_build::rerun_directives().iter().for_each(|line| println!("{line}"));
        eprintln!("{error}");
        process::exit(1);
    });
    for file in ["build.rs", "shim/shim.h", "shim/shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    // Before DPDK's libraries: it needs their symbols.
    compile_shims(&dpdk);
    dpdk.emit_cargo_metadata();
    generate_bindings(&dpdk);
}

fn compile_shims(dpdk: &Dpdk) {
    let mut build = cc::Build::new();
    build.file("shim/shim.c").std("gnu11").warnings(true).extra_warnings(true);
    // The shims are the packet path in every build, also in a debug one.
    build.opt_level(3);
    for flag in &dpdk.compile.all {
        build.flag(flag);
    }
    // DPDK's headers are not ours to warn about.
    for path in &dpdk.compile.include_paths {
        build.flag("-isystem").flag(path);
    }
    build.compile("tidegate_dpdk_shim");
}

fn generate_bindings(dpdk: &Dpdk) {
    let mut builder = bindgen::builder()
        .header("shim/shim.h")
        .clang_args(&dpdk.compile.all)
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
    builder = builder.allowlist_type("tg_.*");
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        eprintln!("bindgen failed on shim/shim.h: {error}\n(it needs libclang: apt-get install libclang-dev clang)");
        process::exit(1);
    });
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}
