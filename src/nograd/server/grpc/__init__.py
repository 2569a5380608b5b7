"""gRPC interface of the Open Inference Protocol (extra: grpc), imported only if gRPC is enabled."""
