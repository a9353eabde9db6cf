"""Measurements that can be repeated: every script here writes its figures, with the machine they belong to, into results/."""
