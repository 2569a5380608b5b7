"""The models of a server: their life, their repository, their user code and caches. No HTTP here."""
