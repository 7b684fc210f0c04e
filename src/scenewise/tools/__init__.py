"""Tools on top of the engine: the demo, evaluation, embeddings, export, and the report of a run."""
