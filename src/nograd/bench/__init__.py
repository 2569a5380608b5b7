"""`nograd bench`: send load to any server of the Open Inference Protocol, and measure the responses."""

from nograd.bench.load import Clients, Load, Plan, measure
from nograd.bench.report import BenchReport
from nograd.bench.runner import bench, run

__all__ = ["BenchReport", "Clients", "Load", "Plan", "bench", "measure", "run"]
