//! The engine: accept loop, pingora glue, upstream connections, TCP copying, errors to responses.
