"""Beyond one machine: a served model as the engine (`engine`), and the glass box itself as a server (`api`).

Read `engine.py` first: it is what `pipeline.respond` drives, as it drives the local engine. `exchange.py` is one streamed request.
"""
