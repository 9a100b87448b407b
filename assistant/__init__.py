"""Pellucid: the model, the conversation, the ledger and the two front ends. Read `assistant/pipeline.py` first."""
