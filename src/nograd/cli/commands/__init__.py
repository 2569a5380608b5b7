"""The commands of `nograd`, one file each. They declare options; heavy modules are imported by the command that needs them."""
