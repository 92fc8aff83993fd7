//! This process's own identity: key, CSR, certificate, rotation.
