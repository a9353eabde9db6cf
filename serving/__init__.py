"""The online processes: one model server per version, one gateway that splits traffic, one supervisor that makes both match the desired state.

Reads the desired state from ``rollout.store``, the model from a hand-off folder, and writes the inference log.
Everything here speaks the Open Inference Protocol V2; a process never holds more than one model version.
Nothing heavy is imported before it is needed: a gateway carries no torch, and nobody here carries prefect or mlflow.
"""
