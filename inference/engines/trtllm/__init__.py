"""TensorRT-LLM on a GPU, through its LLM API with the PyTorch backend: the engine for production.

``library`` is the only module that imports tensorrt_llm; the others run, and are tested, on any machine. Nothing here
has been run on a GPU yet: ``docs/tensorrt-llm.md`` says which fact is proven how. The package imports nothing by
itself, so that ``surface`` runs with little installed.
"""
