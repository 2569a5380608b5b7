"""The values that travel between layers, and pure functions of them: tensors, signatures, structures, costs, parity."""
