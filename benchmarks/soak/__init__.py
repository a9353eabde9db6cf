"""A gateway and a model server as real processes, and callers of every kind: who asks, who asks too much, and who means no good.

``python -m benchmarks.soak --minutes N`` holds them under load and draws their memory; tests/serving/hard uses the same processes and callers.
"""
