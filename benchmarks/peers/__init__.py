"""Side-by-side measurements of pare and its peers; run through benchmarks/compare_peers.py."""
