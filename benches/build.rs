//! Compiles the C floor into the benches, so that both loops run in one process, on one thread.

fn main() {
    // Part of the Python package, where `hyperpy bench` compiles it too.
    let file = "../python/hyperpy/_floor.c";
    println!("cargo:rerun-if-changed={file}");
    println!("cargo:rerun-if-changed=../python/hyperpy/_floor.h");
    println!("cargo:rerun-if-changed=floor/restore.c");
    cc::Build::new()
        .file(file)
        .file("floor/restore.c")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .compile("floor");
}
