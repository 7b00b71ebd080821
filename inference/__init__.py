"""One engine behind gRPC: items to prompt to tokens to typed deltas."""
