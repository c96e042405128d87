"""The parts of `make bench`; benches/run.py puts them together."""
