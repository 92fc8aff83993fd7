//! Wire contracts: the `.proto` files in `protos/` and the code generated from them. No logic lives here.
#![allow(missing_docs, clippy::all, rustdoc::all)]

pub mod codec;

/// Incremental xDS: the messages and service of `envoy.service.discovery.v3`.
pub mod xds {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// External authorization: the messages and service of `envoy.service.auth.v3`.
pub mod auth {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// Health of gRPC servers: the messages and service of `grpc.health.v1`.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Tombolo's own resources and services.
pub mod v1 {
    tonic::include_proto!("tombolo.v1");
}
