"""The course's claims of speed and memory, measured: `make bench` runs all of them,
`tests/test_*_benchmark.py` hold them to bounds."""
