"""Adapters: models of timm, Hugging Face transformers and plain torch, as traceable models.

``repdyn`` loads them through the entry-point group ``repdyn.adapters`` and never imports them directly.
"""
