"""What is run by hand, or by `make`, and is in no package."""
