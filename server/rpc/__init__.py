"""The gRPC port: the Open Inference Protocol and the health service, on the same parts as the HTTP routes."""
