"""The stateful tier: two doors, HTTP and gRPC, into one core that owns a response's life."""
