"""The deployment checklist as code: every check reports its steps, its evidence, and a remedy."""

from nograd.checks.checklist import FAMILIES, check
from nograd.report.finding import SEVERITIES, Finding, Report, Severity

__all__ = ["FAMILIES", "SEVERITIES", "Finding", "Report", "Severity", "check"]
