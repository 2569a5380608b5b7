"""`nograd conformance`: run the checklist of the Open Inference Protocol against any server."""

from nograd.conformance.checklist import EVERY, OVER_GRPC, conformance, examine, examine_grpc

__all__ = ["EVERY", "OVER_GRPC", "conformance", "examine", "examine_grpc"]
