"""Folders that other libraries saved, as Predictors."""
