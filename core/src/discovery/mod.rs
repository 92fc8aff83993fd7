//! Incremental xDS from the controller, and the on-disk cache of the last good state.
