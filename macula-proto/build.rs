//! Compiles the wire messages with `protox`, so that no `protoc` has to be installed.

use std::error::Error;

const FILES: [&str; 6] = [
    "proto/common.proto",
    "proto/transport.proto",
    "proto/membership.proto",
    "proto/dht.proto",
    "proto/pubsub.proto",
    "proto/rpc.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
