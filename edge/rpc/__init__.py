"""The gRPC door: ResponsesService on the same core as the HTTP door."""
