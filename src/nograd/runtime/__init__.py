"""The process and the machine: threads, processors, memory, imports, fingerprints, standard streams."""
