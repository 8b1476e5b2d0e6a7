"""Experiments: cells of measurements that resume where they were cut, and pages made from them."""
