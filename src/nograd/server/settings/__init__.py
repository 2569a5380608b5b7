"""Settings of `nograd serve`: one definition, and everything that derives from it."""
