//! Raw TCP and TLS passthrough.
