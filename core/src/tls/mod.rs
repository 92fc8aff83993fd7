//! rustls configurations: SPIFFE verification against one trust domain's bundle, edge certificates by SNI.
