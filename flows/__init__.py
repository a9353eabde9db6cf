"""Orchestration only: order, branching, waiting, parameters. Read ``flows/release_model.py`` first.

A flow calls tasks and pure functions. It imports ``tasks`` and below; nothing imports a flow but the command line and prefect.yaml.
"""
