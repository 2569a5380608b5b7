"""The gRPC front of the Open Inference Protocol: the extra `grpc`. Nothing of it is imported before it is asked for."""
