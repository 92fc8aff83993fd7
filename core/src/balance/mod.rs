//! Endpoint choice: tiers, health, power of two choices on peak-EWMA latency and load, outlier ejection. Pure state machines; the clock is passed in.
