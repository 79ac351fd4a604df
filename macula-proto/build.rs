//! Compiles the wire messages with `protox`, so that no `protoc` has to be installed, and lists them for the tests.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost_types::field_descriptor_proto::Label;
use prost_types::{FieldDescriptorProto, FileDescriptorSet};

const FILES: [&str; 9] = [
    "proto/common.proto",
    "proto/transport.proto",
    "proto/membership.proto",
    "proto/dht.proto",
    "proto/pubsub.proto",
    "proto/rpc.proto",
    "proto/platform.proto",
    "proto/raft.proto",
    "proto/group.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("schema.rs"), schema(&descriptors)?)?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}

/// A macro that calls another one with all messages and their fields:
/// `Hello { (1, "signed", false, "TYPE_MESSAGE", "Signed"), … }`. The integration tests include it, so that none of
/// them can forget a message.
fn schema(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut out =
        String::from("macro_rules! with_all_messages {\n    ($callback:ident) => {\n        $callback! {\n");
    for message in descriptors.file.iter().flat_map(|file| &file.message_type) {
        let fields: Vec<String> = message.field.iter().map(field).collect();
        writeln!(out, "            {} {{ {} }}", message.name(), fields.join(", "))?;
    }
    out.push_str("        }\n    };\n}\n");
    Ok(out)
}

fn field(field: &FieldDescriptorProto) -> String {
    let repeated = field.label() == Label::Repeated;
    let nested = field.type_name().rsplit('.').next().unwrap_or_default();
    format!(
        "({}, {:?}, {repeated}, {:?}, {nested:?})",
        field.number(),
        field.name(),
        field.r#type().as_str_name()
    )
}
