"""Predictors: one call (`predictor`), concurrent calls (`batcher`), data sets (`bulk`)."""
