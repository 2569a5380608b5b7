"""Speed and memory, one command each: `python -m benchmarks.NAME`. Ratios are measured side by side in one run."""
