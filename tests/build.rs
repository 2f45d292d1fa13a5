//! Makes the client and the server of `proto/talk.proto`.

fn main() {
    if let Err(error) = tonic_prost_build::compile_protos("proto/talk.proto") {
        println!("cargo::error=proto/talk.proto can't be compiled: {error}");
    }
}
