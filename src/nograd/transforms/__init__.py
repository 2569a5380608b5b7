"""What changes a model before a backend runs it: precision, quantization, memory."""
