"""What a server records: access log, metrics, statistics, traces, logs."""
