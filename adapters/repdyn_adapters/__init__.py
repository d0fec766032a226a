"""Adapters: models of timm, Hugging Face transformers and plain torch, made traceable.

``repdyn`` finds these through the entry-point group ``repdyn.adapters``; nothing in it imports them.
"""
