"""The inference workers as the edge sees them: one multiplexed stream to each, and the choice between them."""
