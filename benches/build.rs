//! Compiles the C floor into the benches, so that both loops run in one process, on one thread.

fn main() {
    println!("cargo:rerun-if-changed=floor/floor.c");
    cc::Build::new().file("floor/floor.c").opt_level(2).warnings(true).extra_warnings(true).compile("floor");
}
