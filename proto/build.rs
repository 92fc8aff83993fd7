//! Compiles the `.proto` files without `protoc`, so that a build needs nothing but Rust and a C compiler.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "envoy/discovery.proto",
        "envoy/authorization.proto",
        "grpc/health.proto",
        "tombolo/resources.proto",
        "tombolo/controller.proto",
        "tombolo/peering.proto",
    ];
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(files, ["protos"])?;
    // Maps in the order of their keys: what is the same is the same bytes, also after a restart.
    let build = tonic_prost_build::configure().bytes(".").btree_map(".tombolo");
    build.codec_path("crate::codec::SmallCodec").compile_fds(descriptors)?;
    Ok(())
}
