"""Telemetry: access log, metrics, statistics, traces, logs."""
