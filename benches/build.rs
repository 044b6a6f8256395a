//! Compiles the C floors into the benches, so that both sides run in one process, on one thread.

fn main() {
    // Part of the Python package, where `hyperpy bench` compiles it too.
    let file = "../python/hyperpy/_floor.c";
    println!("cargo:rerun-if-changed={file}");
    println!("cargo:rerun-if-changed=../python/hyperpy/_floor.h");
    for floor in ["restore.h", "restore.c", "state.h", "state.c", "fuzz.c"] {
        println!("cargo:rerun-if-changed=floor/{floor}");
    }
    cc::Build::new()
        .file(file)
        .file("floor/restore.c")
        .file("floor/state.c")
        .file("floor/fuzz.c")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .compile("floor");
    let file = "floor/snapshot_file.c";
    println!("cargo:rerun-if-changed={file}");
    cc::Build::new().file(file).opt_level(3).warnings(true).extra_warnings(true).compile("snapshot_floor");
}
