"""Evaluation: a backbone in, figures with intervals out; nothing here knows how a backbone was trained."""
